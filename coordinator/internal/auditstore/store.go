package auditstore

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"
	"sync/atomic"

	"github.com/dgraph-io/badger/v4"
	"github.com/dgraph-io/badger/v4/options"
	"golang.org/x/sync/semaphore"

	"github.com/sallyport-mesh/sallyport/pkg/audit"
	"github.com/sallyport-mesh/sallyport/pkg/badgerdir"
)

// Config is what a store needs.
type Config struct {
	// Dir holds everything of this store; made (0700) if missing. It must be on a
	// local file system and is the store's alone.
	Dir string
	// Domain is the trust domain, the beginning of every origin.
	Domain string
	// CosignerKey is the secret half of the audit.NewKey whose public half agents
	// are given as EnrollAgentResponse.cosigner_vkey.
	CosignerKey string
	// OwnKey signs the checkpoints of the coordinator's own log. Another key than
	// CosignerKey.
	OwnKey string
	// Logger may be nil.
	Logger *slog.Logger

	free   func(dir string) (uint64, error) // seams of the tests
	commit func(*badger.Txn) error
}

// Store is an open store. Its methods may be called by many goroutines.
type Store struct {
	cfg      Config
	db       *badger.DB
	opts     badger.Options
	cosigner *audit.Cosigner
	log      *slog.Logger

	writes   chan *write
	inFlight *semaphore.Weighted // Appends at once
	closing  chan struct{}
	stopped  chan struct{} // the committer has returned
	failOnce sync.Once
	failed   chan struct{}
	failure  error
	arrival  atomic.Uint64 // batches stored so far
	news     broadcast

	// mu guards the maps, not what they point to.
	mu      sync.Mutex
	logs    map[string]*state // by origin
	numbers map[uint32]*state
	next    uint32 // number of the next log

	own *ownLog

	seenMu sync.Mutex
	seen   map[string]struct{} // index terms known to be stored; see index.go
}

// maxInFlight bounds the memory that Appends take: each holds a request of up to
// 1 MiB several times over.
const maxInFlight = 64

// Open opens the store in cfg.Dir or begins it. It fails with
// badgerdir.ErrLocked, badgerdir.ErrNetworkFS, ErrRollback or ErrCorrupt where a
// person must look.
func Open(ctx context.Context, cfg Config) (*Store, error) {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.free == nil {
		cfg.free = badgerdir.Free
	}
	if cfg.commit == nil {
		cfg.commit = (*badger.Txn).Commit
	}
	dir := filepath.Join(cfg.Dir, "db")
	s := &Store{
		cfg: cfg, log: cfg.Logger,
		// A transaction may hold 4.8 MiB: several full Appends with their indexes.
		opts: badgerdir.Profile(dir).WithMemTableSize(32 << 20).WithBaseTableSize(8 << 20).
			WithNumLevelZeroTablesStall(15).WithBlockSize(16 << 10).WithCompression(options.ZSTD).
			WithBlockCacheSize(32 << 20).WithIndexCacheSize(64 << 20),
		writes: make(chan *write, maxInFlight), inFlight: semaphore.NewWeighted(maxInFlight),
		closing: make(chan struct{}), stopped: make(chan struct{}), failed: make(chan struct{}),
		logs: map[string]*state{}, numbers: map[uint32]*state{}, seen: map[string]struct{}{},
	}
	var err error
	if s.cosigner, err = audit.NewCosigner(cfg.CosignerKey); err != nil {
		return nil, fmt.Errorf("opening audit store: %w", err)
	}
	if s.db, err = badgerdir.Open(s.opts, cfg.Logger); err != nil {
		return nil, fmt.Errorf("opening audit store: %w", err)
	}
	err = s.load()
	if err == nil {
		err = s.openOwn(ctx)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("opening audit store: %w", err), s.db.Close())
	}
	go s.commitLoop()
	go s.own.run()
	return s, nil
}

// Failed is closed when a commit has failed; Err says how. The process should
// end: nothing can be stored any more.
func (s *Store) Failed() <-chan struct{} { return s.failed }

// Err is nil until Failed is closed.
func (s *Store) Err() error {
	select {
	case <-s.failed:
		return s.failure
	default:
		return nil
	}
}

func (s *Store) fail(err error) {
	s.failOnce.Do(func() {
		s.failure = fmt.Errorf("%w: %w", ErrFailed, err)
		close(s.failed)
		s.log.Error("audit store failed", "error", err)
	})
}

// Close stores what is under way and lets go of the directory. Call it once,
// after the services that use the store have ended.
func (s *Store) Close() error {
	err := s.own.close()
	close(s.closing)
	<-s.stopped
	s.news.close()
	return errors.Join(err, s.Err(), s.db.Close())
}

// Size is how many records of an agent are stored, over all its epochs.
func (s *Store) Size(agentID string) uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	var n uint64
	for _, st := range s.logs {
		if st.info().Agent == agentID {
			n += st.size.Load()
		}
	}
	return n
}

// broadcast wakes everyone who waits for news.
type broadcast struct {
	mu     sync.Mutex
	ch     chan struct{}
	closed bool
}

// wait is closed at the next tell. Take it before looking.
func (b *broadcast) wait() <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ch == nil {
		b.ch = make(chan struct{})
		if b.closed {
			close(b.ch)
		}
	}
	return b.ch
}

func (b *broadcast) tell() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ch != nil && !b.closed {
		close(b.ch)
		b.ch = nil
	}
}

func (b *broadcast) close() {
	b.tell()
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
	if b.ch != nil {
		close(b.ch)
	}
}
