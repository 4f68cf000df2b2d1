package directory

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sallyport-mesh/sallyport/coordinator/internal/store"
	apiv1 "github.com/sallyport-mesh/sallyport/pkg/api/sallyport/v1"
)

// Config says what a directory needs.
type Config struct {
	// Store holds the state. Required.
	Store store.Store
	// Builtin roles (policy.Builtin()); they are written at every start, so that
	// a new version's rules replace the old ones.
	Builtin []*apiv1.Role
	// Now is the clock; nil means time.Now.
	Now func() time.Time
	// Log; nil means slog.Default().
	Log *slog.Logger
	// Hashing bounds how many passwords are hashed at a time, 19 MiB of memory
	// each. 0 means one for each CPU.
	Hashing int
	// MaxSession bounds a session's lifetime. 0 means seven days.
	MaxSession time.Duration
	// PruneEvery is the time between two rounds of Prune. 0 means a minute.
	PruneEvery time.Duration
}

// Directory is the typed state. Its methods may be called concurrently. Every
// mutation returns the object as it is after the change and the revision that
// holds the change; messages it returns are shared and must not be modified.
type Directory struct {
	store      store.Store
	now        func() time.Time
	log        *slog.Logger
	maxSession time.Duration
	guard      *guard

	current atomic.Pointer[Snapshot]

	mu          sync.Mutex // guards what follows
	newer       chan struct{}
	subscribers map[chan *Snapshot]struct{}
	err         error
	done        chan struct{} // closed when the directory stops following the store
}

// Open reads the whole directory and follows the store until ctx ends.
func Open(ctx context.Context, cfg Config) (*Directory, error) {
	if cfg.Store == nil {
		return nil, errors.New("opening directory: no store")
	}
	d := &Directory{
		store:       cfg.Store,
		now:         cfg.Now,
		log:         cfg.Log,
		maxSession:  cfg.MaxSession,
		newer:       make(chan struct{}),
		subscribers: make(map[chan *Snapshot]struct{}),
		done:        make(chan struct{}),
	}
	if d.now == nil {
		d.now = time.Now
	}
	if d.log == nil {
		d.log = slog.Default()
	}
	if d.maxSession == 0 {
		d.maxSession = 7 * 24 * time.Hour
	}
	if cfg.Hashing == 0 {
		cfg.Hashing = runtime.GOMAXPROCS(0)
	}
	if cfg.PruneEvery == 0 {
		cfg.PruneEvery = time.Minute
	}
	var err error
	if d.guard, err = newGuard(cfg.Hashing, d.now); err != nil {
		return nil, fmt.Errorf("opening directory: %w", err)
	}
	if err := d.seed(ctx, cfg.Builtin); err != nil {
		return nil, fmt.Errorf("seeding roles: %w", err)
	}
	snap, err := load(ctx, d.store)
	if err != nil {
		return nil, fmt.Errorf("reading directory: %w", err)
	}
	d.current.Store(snap)
	go d.follow(ctx)
	go d.pruneLoop(ctx, cfg.PruneEvery)
	return d, nil
}

// Snapshot is the newest revision. It never blocks.
func (d *Directory) Snapshot() *Snapshot { return d.current.Load() }

// Done is closed when the directory no longer follows the store: its context
// ended, or Err says what broke. Changes are refused from then on.
func (d *Directory) Done() <-chan struct{} { return d.done }

// Err says why Done was closed.
func (d *Directory) Err() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.err
}

// Subscribe sends the snapshot now and the newest one after each change of the
// directory, until ctx ends; then the channel is closed. A slow receiver misses
// snapshots in between, never the last one.
func (d *Directory) Subscribe(ctx context.Context) <-chan *Snapshot {
	ch := make(chan *Snapshot, 1)
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.err != nil {
		close(ch)
		return ch
	}
	ch <- d.current.Load()
	d.subscribers[ch] = struct{}{}
	context.AfterFunc(ctx, func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		if _, ok := d.subscribers[ch]; ok {
			delete(d.subscribers, ch)
			close(ch)
		}
	})
	return ch
}

// Wait returns the snapshot once it is at revision or newer.
func (d *Directory) Wait(ctx context.Context, revision uint64) (*Snapshot, error) {
	for {
		d.mu.Lock()
		newer, err := d.newer, d.err
		d.mu.Unlock()
		if s := d.current.Load(); s.Revision >= revision {
			return s, nil
		}
		if err != nil {
			return nil, fmt.Errorf("waiting for revision %d: %w", revision, err)
		}
		select {
		case <-newer:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// change commits what f writes and waits until it is visible. The wait has no
// deadline of its own: the commit has happened, and the only thing that could
// keep it from becoming visible stops the directory, which ends the wait.
func change[T any](ctx context.Context, d *Directory, f func(tx store.Txn) (T, error)) (T, uint64, error) {
	var out, zero T
	select {
	case <-d.done:
		return zero, 0, fmt.Errorf("directory has stopped: %w", d.Err())
	default:
	}
	rev, err := d.store.Update(ctx, func(tx store.Txn) error {
		var err error
		out, err = f(tx)
		return err
	})
	if err != nil {
		return zero, 0, err
	}
	if _, err := d.Wait(context.WithoutCancel(ctx), rev); err != nil {
		return zero, 0, err
	}
	return out, rev, nil
}
