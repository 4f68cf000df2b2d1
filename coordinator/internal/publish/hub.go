package publish

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/sallyport-mesh/sallyport/coordinator/internal/directory"
	"github.com/sallyport-mesh/sallyport/coordinator/internal/store"
	"github.com/sallyport-mesh/sallyport/coordinator/internal/tailnet"
	apiv1 "github.com/sallyport-mesh/sallyport/pkg/api/sallyport/v1"
	"github.com/sallyport-mesh/sallyport/pkg/policy"
)

// Directory is what publish needs of the directory.
type Directory interface {
	Snapshot() *directory.Snapshot
	// Subscribe sends the snapshot now and the newest one after every change,
	// until ctx ends.
	Subscribe(ctx context.Context) <-chan *directory.Snapshot
}

// Config says what a Hub publishes, and to whom.
type Config struct {
	Directory Directory
	// Store keeps what was signed (bundle/<cluster>) and what agents confirmed
	// (ack/<agent>).
	Store store.Store
	// Signer signs bundles and heartbeats.
	Signer *policy.Signer
	Issuer Issuer
	// Domain is the overlay's DNS domain: a cluster is <name>.<Domain>.
	Domain string
	// OnTopology gets the overlay's topology whenever it changes, one call at a
	// time. It must not block.
	OnTopology func(*tailnet.Topology)
	// Heartbeat is the time between two heartbeats; 15 s unless set.
	Heartbeat time.Duration
	// Linger is how long an edge outlives its grant when the agent does not
	// confirm; 2 s unless set.
	Linger time.Duration
	// Settle is how long an edge outlives the agent's confirmation, 300 ms unless
	// set. The agent lets nothing more through, but what it sent last (why a stream
	// ends, and that it does) is still on its way, and without the edge WireGuard
	// has no key for it: the client would wait for a stream that is long dead.
	Settle time.Duration
	// Patience is how long an agent that is connected may take to confirm before
	// it is reported as not answering; 5 s unless set.
	Patience time.Duration
	// Now is time.Now unless set.
	Now func() time.Time
	// Log is slog.Default() unless set.
	Log *slog.Logger
}

// Hub is where bundles are made and confirmations come together. Its methods
// may be called concurrently.
type Hub struct {
	cfg     Config
	started time.Time
	kick    chan chan struct{} // asks Run to look at the directory now; closed when done
	wake    chan struct{}      // tells Run that an agent confirmed something
	view    *view              // what Run looked at last, all of it published

	mu       sync.Mutex
	clusters map[string]*cluster
	agents   map[string]*agent
	// processed is the revision up to which the directory has been looked at.
	processed uint64
	steps     []step
	// behind is true while a change of the directory could not be signed and
	// noted. There are no heartbeats then.
	behind bool
	// beat is the time of the last heartbeats.
	beat     time.Time
	topology *tailnet.Topology
	leaving  map[edge]leave
	dirty    map[string]bool // agents whose ack is not in the store yet
	// changed is closed, and replaced, when an agent confirms, comes or goes;
	// reach when what ClustersOf says may have changed.
	changed, reach chan struct{}
}

// step is one look at the directory: what changed on the way to a revision.
type step struct {
	from, to uint64 // covers revisions above from, up to to
	at       time.Time
	changed  []changedCluster
}

type changedCluster struct {
	id, name string
	revision uint64
	gone     bool
	agents   []*agent
	// budgets are those that an agent which was not reached still goes by.
	budgets *apiv1.StalenessBudgets
}

// keptSteps is how many changes back an Effects call may ask about.
const keptSteps = 1024

// New prepares a Hub with what is noted in the store. Run sets it to work.
func New(ctx context.Context, cfg Config) (*Hub, error) {
	if cfg.Directory == nil || cfg.Store == nil || cfg.Signer == nil {
		return nil, errors.New("publishing: a directory, a store and a signer are needed")
	}
	if cfg.Heartbeat == 0 {
		cfg.Heartbeat = 15 * time.Second
	}
	if cfg.Linger == 0 {
		cfg.Linger = 2 * time.Second
	}
	if cfg.Settle == 0 {
		cfg.Settle = 300 * time.Millisecond
	}
	if cfg.Patience == 0 {
		cfg.Patience = 5 * time.Second
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	if cfg.OnTopology == nil {
		cfg.OnTopology = func(*tailnet.Topology) {}
	}
	h := &Hub{
		cfg: cfg, started: cfg.Now(),
		kick: make(chan chan struct{}), wake: make(chan struct{}, 1),
		clusters: map[string]*cluster{}, agents: map[string]*agent{},
		leaving: map[edge]leave{}, dirty: map[string]bool{},
		changed: make(chan struct{}), reach: make(chan struct{}),
	}
	if err := h.load(ctx); err != nil {
		return nil, fmt.Errorf("publishing: %w", err)
	}
	return h, nil
}

// retryAfter is how long Run waits to try again what the store refused.
const retryAfter = time.Second

// saveAfter is how long confirmations are gathered before they are noted.
const saveAfter = 200 * time.Millisecond

// Run publishes until ctx ends.
func (h *Hub) Run(ctx context.Context) error {
	snapshots := h.cfg.Directory.Subscribe(ctx)
	beat := time.NewTicker(h.cfg.Heartbeat)
	defer beat.Stop()
	// due is the next moment at which time alone changes something.
	due, save, saving := time.NewTimer(0), time.NewTimer(saveAfter), true
	defer due.Stop()
	defer save.Stop()
	for {
		select {
		case <-ctx.Done():
			return h.saveAcks(context.WithoutCancel(ctx))
		case s, ok := <-snapshots:
			if !ok {
				if ctx.Err() == nil {
					return errors.New("publishing: the directory has stopped")
				}
				continue
			}
			h.step(ctx, s)
		case done := <-h.kick:
			h.step(ctx, h.cfg.Directory.Snapshot())
			close(done)
		case <-beat.C:
			// No heartbeat for a bundle that a change in the queue replaces.
			h.step(ctx, h.cfg.Directory.Snapshot())
			h.heartbeat()
		case <-h.wake:
			if !saving {
				save.Reset(saveAfter)
				saving = true
			}
		case <-save.C:
			saving = false
			if err := h.saveAcks(ctx); err != nil && ctx.Err() == nil {
				h.cfg.Log.Warn("confirmations not noted", "err", err)
				save.Reset(retryAfter)
				saving = true
			}
			continue
		case <-due.C:
			if h.isBehind() {
				h.step(ctx, h.cfg.Directory.Snapshot())
			}
		}
		due.Reset(h.retopology())
	}
}

func (h *Hub) isBehind() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.behind
}

// look makes Run look at the directory, and returns when it has.
func (h *Hub) look(ctx context.Context) error {
	done := make(chan struct{})
	select {
	case h.kick <- done:
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// step brings the bundles up to a snapshot.
func (h *Hub) step(ctx context.Context, s *directory.Snapshot) {
	at := h.cfg.Now()
	if h.isBeyond(s.Revision) {
		return
	}
	changed, err := h.resign(ctx, s, at)
	h.mu.Lock()
	defer h.mu.Unlock()
	if err != nil {
		h.behind = true
		if ctx.Err() == nil {
			h.cfg.Log.Error("bundles not published", "revision", s.Revision, "err", err)
		}
		return
	}
	h.behind = false
	st := step{from: h.processed, to: s.Revision, at: at}
	for _, c := range changed {
		old := h.clusters[c.id]
		if old == nil {
			old = c
		}
		h.clusters[c.id] = c
		st.changed = append(st.changed, changedCluster{
			id: c.id, name: c.label(old), revision: c.revision, gone: c.gone(),
			agents: h.agentsOf(c.id, s), budgets: old.bundle.GetBudgets(),
		})
	}
	h.adopt(s)
	h.processed = s.Revision
	if st.from < st.to || len(st.changed) > 0 {
		h.steps = append(h.steps, st)
		h.steps = h.steps[max(0, len(h.steps)-keptSteps):]
	}
	h.beatLocked(at, changed)
	for _, c := range changed {
		h.signal(c.id)
	}
	h.broadcast(&h.changed)
	if len(changed) > 0 {
		h.broadcast(&h.reach)
	}
}

// isBeyond reports whether there is nothing to be seen at a revision.
func (h *Hub) isBeyond(revision uint64) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return revision < h.processed || (revision == h.processed && !h.behind)
}

func (h *Hub) broadcast(ch *chan struct{}) {
	close(*ch)
	*ch = make(chan struct{})
}

// heartbeat signs for every cluster that its bundle is the newest now.
func (h *Hub) heartbeat() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.behind {
		return
	}
	all := make([]*cluster, 0, len(h.clusters))
	for _, c := range h.clusters {
		all = append(all, c)
	}
	h.beatLocked(h.cfg.Now(), all)
	for _, c := range all {
		h.signal(c.id)
	}
}

// BundleRevision is the revision of a cluster's newest bundle, 0 without one.
func (h *Hub) BundleRevision(clusterID string) uint64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	if c := h.clusters[clusterID]; c != nil {
		return c.revision
	}
	return 0
}
