package store

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"

	"github.com/dgraph-io/badger/v4"
	"github.com/dgraph-io/badger/v4/options"

	"github.com/sallyport-mesh/sallyport/pkg/badgerdir"
)

// Config says where a Badger store is and how much it keeps.
type Config struct {
	// Dir is the data directory; it is made, for the owner alone. Required. It
	// must be on a local file system.
	Dir string
	// KeepCommits is how many commits a watch can go back. 0 means 10,000; they
	// are in memory, 16 MiB of them at most.
	KeepCommits int
	// MinFree is how many bytes must be free on the disk for an update to be
	// taken. 0 means 192 MiB, twelve of Badger's write-ahead logs.
	MinFree uint64
	// Log; nil means slog.Default().
	Log *slog.Logger
}

// Badger is a Store in one process's data directory.
//
// One committer runs all updates, one after the other, so there are no
// conflicts, and drains whoever waits into one Badger transaction, so that
// concurrent updates share a sync. The commits that a watch can go back are kept
// in memory only: nobody but this process can watch, and a process that starts
// reads everything anyway.
//
// A commit that fails leaves it open whether it is on disk, and an fsync that
// failed must not be tried again: the store then refuses every update and closes
// Failed, and the process is expected to exit.
type Badger struct {
	dir     string
	minFree uint64

	db   *badger.DB
	mark *watermark
	hub  *hub
	log  *slog.Logger

	updates chan *update
	done    chan struct{} // closed when the committer has ended

	mu      sync.Mutex // guards what follows
	closing chan struct{}
	closed  bool
	users   sync.WaitGroup // views and updates in progress
	failed  chan struct{}
	err     error
}

var _ Store = (*Badger)(nil)

// Badger's keys: "d/" + key holds revision (8 bytes) and value; "m/head" holds
// revision and the number of live keys (8 bytes each).
const (
	dataPrefix = "d/"
	headKey    = "m/head"
)

// Limits of one update. Everything stays in the tree of keys: what Badger's
// value log loses, it loses quietly.
const (
	memTable      = 16 << 20
	threshold     = 1 << 20 // Badger's own maximum
	maxValue      = threshold - 64
	maxUpdate     = 2 << 20 // below Badger's 15 % of memTable
	maxKey        = 1 << 10
	entryOverhead = 32
)

// NewBadger opens or makes the store in a directory.
func NewBadger(ctx context.Context, cfg Config) (*Badger, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if cfg.KeepCommits == 0 {
		cfg.KeepCommits = 10_000
	}
	if cfg.MinFree == 0 {
		cfg.MinFree = 12 * memTable
	}
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	s, err := open(cfg)
	if err != nil {
		return nil, fmt.Errorf("opening store: %w", err)
	}
	go s.commitLoop()
	return s, nil
}

func open(cfg Config) (_ *Badger, err error) {
	if cfg.Dir == "" {
		return nil, errors.New("no directory given")
	}
	db, err := badgerdir.Open(profile(cfg.Dir), cfg.Log)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			_ = db.Close() // err says more
		}
	}()
	// Badger makes a directory, and leaves one that is there, open to read.
	if err := os.Chmod(cfg.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("closing the directory to others: %w", err)
	}
	h, err := check(db)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", cfg.Dir, err)
	}
	mark, err := openWatermark(cfg.Dir, h.revision, cfg.Log)
	if err != nil {
		return nil, err
	}
	return &Badger{
		dir: cfg.Dir, minFree: cfg.MinFree,
		db: db, mark: mark, log: cfg.Log,
		hub:     newHub(h.revision, cfg.KeepCommits),
		updates: make(chan *update),
		closing: make(chan struct{}),
		done:    make(chan struct{}),
		failed:  make(chan struct{}),
	}, nil
}

// profile is the common one with room for larger transactions: the directory's
// changes are rare, and a bundle is one value. About 60 MiB resident in all.
func profile(dir string) badger.Options {
	return badgerdir.Profile(dir).
		WithNumVersionsToKeep(1).
		WithMemTableSize(memTable).
		WithValueThreshold(threshold).
		WithChecksumVerificationMode(options.OnTableAndBlockRead)
}

// head is what the last commit says of the whole.
type head struct {
	revision uint64
	keys     uint64
}

func readHead(txn *badger.Txn) (head, error) {
	it, err := txn.Get([]byte(headKey))
	if errors.Is(err, badger.ErrKeyNotFound) {
		return head{}, nil
	}
	if err != nil {
		return head{}, err
	}
	var h head
	err = it.Value(func(v []byte) error {
		if len(v) != 16 {
			return errors.New("the head record is damaged")
		}
		h.revision, h.keys = binary.BigEndian.Uint64(v), binary.BigEndian.Uint64(v[8:])
		return nil
	})
	return h, err
}

func (h head) bytes() []byte {
	return binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(nil, h.revision), h.keys)
}

// check reads everything once. A flipped bit in a table can end an iteration
// early without an error, and a directory that lost half its users or a
// suspension must not start: the keys are counted against the head.
func check(db *badger.DB) (head, error) {
	var h head
	err := db.View(func(txn *badger.Txn) error {
		var err error
		if h, err = readHead(txn); err != nil {
			return err
		}
		var keys uint64
		err = iterate(txn, dataPrefix, func(it Item) error {
			keys++
			if it.Revision > h.revision {
				return fmt.Errorf("key %q is of revision %d, after the last one, %d", it.Key, it.Revision, h.revision)
			}
			return nil
		})
		if err != nil {
			return err
		}
		if keys != h.keys {
			return fmt.Errorf("%d keys can be read, revision %d has %d", keys, h.revision, h.keys)
		}
		return nil
	})
	if err != nil {
		return head{}, fmt.Errorf("the data is damaged: %w; restore the directory from a backup", err)
	}
	return h, nil
}

// Failed is closed when a commit has failed. Err says why.
func (s *Badger) Failed() <-chan struct{} { return s.failed }

// Err says why Failed was closed.
func (s *Badger) Err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// ErrClosed says that the store was closed.
var ErrClosed = errors.New("store is closed")

// begin keeps the store open until s.users.Done.
func (s *Badger) begin() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return ErrClosed
	}
	s.users.Add(1)
	return nil
}

// View implements Store.
func (s *Badger) View(ctx context.Context, f func(Reader) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := s.begin(); err != nil {
		return err
	}
	defer s.users.Done()
	return s.db.View(func(txn *badger.Txn) error {
		h, err := readHead(txn)
		if err != nil {
			return fmt.Errorf("reading store: %w", err)
		}
		return f(reader{txn, h.revision})
	})
}

// Watch implements Store.
func (s *Badger) Watch(ctx context.Context, from uint64) Watcher {
	return s.hub.watch(ctx, from)
}

// Close waits for views and updates in progress, and closes the store. Watches
// end with ErrClosed.
func (s *Badger) Close() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil
	}
	s.closed = true
	s.mu.Unlock()
	s.users.Wait()
	close(s.closing)
	<-s.done
	s.hub.close(ErrClosed)
	err := errors.Join(s.db.Close(), s.mark.close())
	if err != nil {
		return fmt.Errorf("closing store: %w", err)
	}
	return nil
}
