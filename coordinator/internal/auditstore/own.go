package auditstore

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/dgraph-io/badger/v4"
	"github.com/google/uuid"

	"github.com/sallyport-mesh/sallyport/pkg/audit"
	"github.com/sallyport-mesh/sallyport/pkg/pki"
)

// ownLog is the log of the coordinator's own acts. It differs from an agent's in
// that both keys are here; what keeps it honest beside them is the checkpoint
// outside Badger, and whoever has seen an older one.
type ownLog struct {
	s        *Store
	st       *state
	src      Source
	signer   *audit.Signer
	verifier *audit.Verifier
	queue    chan *ownEntry
	closing  chan struct{}
	stopped  chan struct{}

	mu        sync.Mutex // of what follows
	persisted uint64
	signed    []byte // newest, countersigned
}

type ownEntry struct {
	record []byte
	done   chan error
}

const (
	ownBatchBytes  = 256 << 10
	checkpointTick = time.Second
)

// Own puts an act of the coordinator on record and returns once that is on disk.
// An event without an id, a stage or a time gets one. Any error means that the
// act must not happen.
func (s *Store) Own(ctx context.Context, e *audit.Event) error {
	c := *e
	if c.AuditID == "" {
		c.AuditID = uuid.NewString()
	}
	if c.Stage == "" {
		c.Stage = audit.StageComplete
	}
	if c.StageTimestamp.IsZero() {
		c.StageTimestamp = audit.Now()
	}
	if c.RequestReceivedTimestamp.IsZero() {
		c.RequestReceivedTimestamp = c.StageTimestamp
	}
	ent := &ownEntry{audit.Encode(&c), make(chan error, 1)}
	select {
	case s.own.queue <- ent:
	case <-s.own.stopped:
		return s.ended()
	case <-ctx.Done():
		return fmt.Errorf("waiting for the audit store: %w", ctx.Err())
	}
	select {
	case err := <-ent.done:
		return err
	case <-ctx.Done():
		return fmt.Errorf("waiting for the audit store: %w", ctx.Err())
	case <-s.own.stopped:
		select {
		case err := <-ent.done:
			return err
		default:
			return s.ended()
		}
	}
}

// OwnCheckpoint is the newest checkpoint of the own log, countersigned; to be
// published where others see it.
func (s *Store) OwnCheckpoint() []byte {
	s.own.mu.Lock()
	defer s.own.mu.Unlock()
	return s.own.signed
}

// openOwn readies the own log, and checks it against its checkpoint as an agent
// does with its log.
func (s *Store) openOwn(ctx context.Context) error {
	origin := audit.Origin{Domain: s.cfg.Domain}.String()
	vkey, err := audit.PublicKey(s.cfg.OwnKey)
	if err != nil {
		return err
	}
	o := &ownLog{s: s, queue: make(chan *ownEntry, 256), closing: make(chan struct{}), stopped: make(chan struct{})}
	if o.signer, err = audit.NewSigner(s.cfg.OwnKey, origin); err != nil {
		return err
	}
	if o.verifier, err = audit.NewVerifier(vkey, origin); err != nil {
		return err
	}
	if o.st = s.logs[origin]; o.st == nil {
		o.st = &state{meta: meta{Number: s.next, Origin: origin, VKey: vkey}}
		s.next++
		s.logs[origin], s.numbers[o.st.meta.Number] = o.st, o.st
	} else if o.st.meta.VKey != vkey {
		return fmt.Errorf("%s is signed with another key than the one configured", origin)
	}
	s.own = o
	return o.recover(ctx)
}

func (o *ownLog) path() string { return filepath.Join(o.s.cfg.Dir, "own.checkpoint") }

func (o *ownLog) recover(ctx context.Context) error {
	b, err := os.ReadFile(o.path())
	if errors.Is(err, fs.ErrNotExist) {
		if n := o.st.tree.Size(); n > 0 {
			return fmt.Errorf("%w: %d own records but no checkpoint file %s", ErrCorrupt, n, o.path())
		}
		return o.persist()
	}
	if err != nil {
		return fmt.Errorf("reading own checkpoint: %w", err)
	}
	cp, err := o.verifier.Open(b)
	if err != nil {
		return fmt.Errorf("%w: %s: %w", ErrCorrupt, o.path(), err)
	}
	if cp.Size > o.st.tree.Size() {
		return fmt.Errorf("%w: %d records, %d signed", ErrRollback, o.st.tree.Size(), cp.Size)
	}
	tree, err := o.replay(ctx, cp)
	if err != nil {
		return err
	}
	if tree.Size() != o.st.tree.Size() || tree.Root() != o.st.tree.Root() {
		return fmt.Errorf("%w: the own log does not hash to its tree", ErrCorrupt)
	}
	o.persisted = cp.Size
	return o.persist()
}

// replay hashes the own records from the checkpoint on.
func (o *ownLog) replay(ctx context.Context, cp audit.Checkpoint) (tree audit.Tree, err error) {
	err = o.s.db.View(func(txn *badger.Txn) error {
		if cp.Size > 0 {
			if tree, _, err = checkpointAt(txn, o.st.meta.Number, cp.Size); err != nil {
				return fmt.Errorf("%w: own checkpoint of %d: %w", ErrCorrupt, cp.Size, err)
			}
		}
		if tree.Root() != cp.Root {
			return fmt.Errorf("%w: the first %d own records do not hash to the signed root", ErrCorrupt, cp.Size)
		}
		for tree.Size() < o.st.tree.Size() {
			if err := ctx.Err(); err != nil {
				return err
			}
			rec, err := get(txn, seqKey(recordKeys, o.st.meta.Number, tree.Size()))
			if err != nil {
				return err
			}
			tree.Append(audit.LeafHash(rec))
		}
		return nil
	})
	return tree, err
}

// run is the own log's one writer: it drains who waits into one append.
func (o *ownLog) run() {
	defer close(o.stopped)
	tick := time.NewTicker(checkpointTick)
	defer tick.Stop()
	var held *ownEntry
	for {
		batch := []*ownEntry{held}
		if held == nil {
			select {
			case batch[0] = <-o.queue:
			case <-tick.C:
				if err := o.persist(); err != nil {
					o.s.log.Error("keeping the own checkpoint failed", "error", err)
				}
				continue
			case <-o.closing:
				select {
				case batch[0] = <-o.queue:
				default:
					return
				}
			}
		}
		held = nil
		size := len(batch[0].record)
	gather:
		for len(batch) < audit.MaxAppendRecords {
			select {
			case e := <-o.queue:
				if size += len(e.record); size > ownBatchBytes {
					held = e
					break gather
				}
				batch = append(batch, e)
			default:
				break gather
			}
		}
		err := o.append(batch)
		for _, e := range batch {
			e.done <- err
		}
	}
}

func (o *ownLog) append(batch []*ownEntry) error {
	o.st.mu.Lock()
	defer o.st.mu.Unlock()
	tree := o.st.tree.Clone()
	records := make([][]byte, len(batch))
	for i, e := range batch {
		records[i] = e.record
		tree.Append(audit.LeafHash(e.record))
	}
	// Signed before it is on disk, unlike an agent's, because it goes into the
	// same transaction and to nobody before that.
	signed, err := o.signer.Sign(&tree)
	if err != nil {
		return err
	}
	return o.s.store(o.st, o.src, records, &tree, signed)
}

// persist countersigns the tree on disk and keeps that outside Badger.
func (o *ownLog) persist() error {
	o.st.mu.Lock()
	tree := o.st.tree.Clone()
	o.st.mu.Unlock()
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.signed != nil && tree.Size() == o.persisted {
		return nil
	}
	signed, err := o.signer.Sign(&tree)
	if err != nil {
		return err
	}
	both, err := o.s.cosigner.Cosign(o.verifier, signed)
	if err != nil {
		return err
	}
	if err := pki.WriteFile(o.path(), both); err != nil {
		return fmt.Errorf("keeping own checkpoint: %w", err)
	}
	o.signed, o.persisted = both, tree.Size()
	return nil
}

func (o *ownLog) close() error {
	close(o.closing)
	<-o.stopped
	if o.s.Err() != nil {
		return nil // said by the store
	}
	return o.persist()
}
