package auditlog

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/dgraph-io/badger/v4"
	"golang.org/x/sync/semaphore"

	"github.com/sallyport-mesh/sallyport/pkg/audit"
	"github.com/sallyport-mesh/sallyport/pkg/badgerdir"
)

// Log is an open log. Its methods may be called by many goroutines.
type Log struct {
	cfg      Config
	db       *badger.DB
	signer   *audit.Signer
	verifier *audit.Verifier
	cosigner *audit.CosignerVerifier
	disk     *disk
	refusals *refusals

	queue   chan *entry
	ops     chan func() error   // run by the committer between batches
	pending *semaphore.Weighted // bytes of outcomes in queue
	closing chan struct{}
	stopped chan struct{} // the committer has returned
	keeper  sync.WaitGroup

	failOnce sync.Once
	failed   chan struct{}
	failure  error
	refused  atomic.Pointer[error]

	// mu guards what readers see of the state; only the committer changes it.
	mu       sync.Mutex
	head     audit.Tree
	acked    acked
	trimmed  audit.Tree
	shipped  audit.Tree // cache: the tree at the size of the last checkpoint given out
	changed  chan struct{}
	lastMark time.Time // see trim.go

	// checkpointMu orders writes of the checkpoint file.
	checkpointMu sync.Mutex
	persisted    uint64
}

// acked is how far the coordinator has countersigned.
type acked struct {
	tree   audit.Tree
	signed []byte // empty before the first
	dirty  bool   // not yet in Badger
}

// entry is one record on its way to the disk.
type entry struct {
	record []byte
	leaf   audit.Hash
	done   chan error // nil for an outcome
}

// Open opens the log in cfg.Dir or begins it, checks it against its own
// checkpoint and starts its committer. It fails with badgerdir.ErrLocked,
// badgerdir.ErrNetworkFS, ErrRollback or ErrCorrupt where a person must look.
func Open(ctx context.Context, cfg Config) (*Log, error) {
	cfg.defaults()
	if _, err := audit.ParseOrigin(cfg.Origin); err != nil {
		return nil, fmt.Errorf("opening audit log: %w", err)
	}
	l := &Log{
		cfg: cfg,
		// An unbuffered channel would cost a wake-up per record; what waits in it
		// is bounded by the requests in flight and by pending.
		queue: make(chan *entry, maxBatchCount), ops: make(chan func() error),
		pending: semaphore.NewWeighted(maxPending),
		closing: make(chan struct{}), stopped: make(chan struct{}), failed: make(chan struct{}), changed: make(chan struct{}),
	}
	if err := l.open(ctx); err != nil {
		if l.db != nil {
			_ = l.db.Close() // err says more
		}
		return nil, fmt.Errorf("opening audit log: %w", err)
	}
	l.refusals = newRefusals(cfg.refusalWindow, cfg.now, l.enqueueOutcome)
	go l.commitLoop()
	l.keeper.Add(1)
	go l.keep()
	return l, nil
}

func (l *Log) open(ctx context.Context) error {
	vkey, err := audit.PublicKey(l.cfg.Key)
	if err != nil {
		return err
	}
	if l.signer, err = audit.NewSigner(l.cfg.Key, l.cfg.Origin); err != nil {
		return err
	}
	if l.verifier, err = audit.NewVerifier(vkey, l.cfg.Origin); err != nil {
		return err
	}
	if l.cosigner, err = audit.NewCosignerVerifier(l.cfg.Cosigner); err != nil {
		return err
	}
	if l.db, err = badgerdir.Open(badgerdir.Profile(filepath.Join(l.cfg.Dir, "db")), l.cfg.Logger); err != nil {
		return err
	}
	if err := l.recover(ctx); err != nil {
		return err
	}
	l.disk, err = openDisk(l.cfg)
	return err
}

// Intent puts e on disk and returns once it is there. Any error means that it
// may not be, and that the request must be refused. When ctx ends first the
// record may still be written: an intent without an outcome.
func (l *Log) Intent(ctx context.Context, e *audit.Event) error {
	if err := l.refusing(); err != nil {
		return err
	}
	rec := audit.Encode(e)
	ent := &entry{rec, audit.LeafHash(rec), make(chan error, 1)}
	select {
	case l.queue <- ent:
	case <-l.closing:
		return ErrClosed
	case <-l.failed:
		return l.failure
	case <-ctx.Done():
		return fmt.Errorf("waiting for the audit log: %w", ctx.Err())
	}
	select {
	case err := <-ent.done:
		return err
	case <-ctx.Done():
		return fmt.Errorf("waiting for the audit log: %w", ctx.Err())
	case <-l.stopped:
		select {
		case err := <-ent.done:
			return err
		default:
		}
		if err := l.Err(); err != nil {
			return err
		}
		return ErrClosed
	}
}

// Outcome records how a request ended, or that it was refused (a decision of
// deny, with no intent before it). It goes with the next batch, within a tenth of
// a second when nothing else happens; a refusal within a second, counted with
// its equals. Where the queue is full Outcome blocks until there is room, two
// seconds at most: what is lost then is logged, and the log shows an intent
// without an outcome.
func (l *Log) Outcome(e *audit.Event) {
	rec := audit.Encode(e)
	if e.Ext.Decision == audit.Deny {
		l.refusals.add(e, rec)
		return
	}
	l.enqueueOutcome(rec)
}

func (l *Log) enqueueOutcome(rec []byte) {
	ctx, cancel := context.WithTimeout(context.Background(), outcomePatient)
	defer cancel()
	if err := l.pending.Acquire(ctx, int64(len(rec))); err != nil {
		l.cfg.Logger.Error("audit outcome lost: the queue stayed full", "origin", l.cfg.Origin, "bytes", len(rec))
		return
	}
	ent := &entry{rec, audit.LeafHash(rec), nil}
	select {
	case l.queue <- ent:
	case <-l.stopped: // closed or failed: nobody drains the queue any more
		l.pending.Release(int64(len(rec)))
		l.cfg.Logger.Error("audit outcome lost: the log has ended", "origin", l.cfg.Origin)
	}
}

// Refuse makes every later Intent fail with reason, until the process starts
// anew: for a log that cannot be acknowledged any more because the coordinator
// holds another history.
func (l *Log) Refuse(reason error) {
	if l.refused.CompareAndSwap(nil, &reason) {
		l.cfg.Logger.Error("audit log refuses new records", "origin", l.cfg.Origin, "reason", reason)
	}
}

func (l *Log) refusing() error {
	if r := l.refused.Load(); r != nil {
		return *r
	}
	return nil
}

// Failed is closed when a commit has failed; Err says how. Nothing can be
// recorded from then on and the process should end.
func (l *Log) Failed() <-chan struct{} { return l.failed }

// Err is nil until Failed is closed.
func (l *Log) Err() error {
	select {
	case <-l.failed:
		return l.failure
	default:
		return nil
	}
}

func (l *Log) fail(err error) {
	l.failOnce.Do(func() {
		l.failure = fmt.Errorf("%w: %w", ErrFailed, err)
		close(l.failed)
		l.cfg.Logger.Error("audit log failed", "origin", l.cfg.Origin, "error", err)
	})
}

// Close writes what is queued, keeps the last acknowledgement and checkpoint and
// lets go of the directory. Call it once, when no request is in flight any more.
func (l *Log) Close() error {
	l.refusals.close()
	close(l.closing)
	<-l.stopped
	l.keeper.Wait()
	err := l.Err()
	if err == nil {
		err = errors.Join(l.storeAcked(), l.persistCheckpoint()) // no committer any more: this is the one writer
	}
	return errors.Join(err, l.db.Close())
}
