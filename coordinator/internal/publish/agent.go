package publish

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/sallyport-mesh/sallyport/coordinator/internal/directory"
	apiv1 "github.com/sallyport-mesh/sallyport/pkg/api/sallyport/v1"
)

// agent is what is known of an agent besides the directory.
type agent struct {
	id, cluster string
	// confirmed is the newest bundle that is in force there, users its subjects.
	confirmed uint64
	users     map[string]bool
	// cuts and cleans are when confirmations came in, oldest first.
	cuts, cleans []confirmation
	// problem is what went wrong last, with the bundle of problemOf.
	problem   string
	problemOf uint64

	streams  map[*stream]bool
	lastSeen time.Time
	// lastBeat is the time of the last heartbeat sent there.
	lastBeat time.Time
	version  string
	ceiling  []byte
}

type confirmation struct {
	revision uint64
	at       time.Time
	streams  uint32
}

// keptConfirmations is how many of an agent's confirmations an Effects call can
// find.
const keptConfirmations = 64

func (h *Hub) agentLocked(id string) *agent {
	a := h.agents[id]
	if a == nil {
		a = &agent{id: id, streams: map[*stream]bool{}}
		h.agents[id] = a
	}
	return a
}

// adopt takes over which cluster the agents belong to.
func (h *Hub) adopt(s *directory.Snapshot) {
	for id, x := range s.Agents {
		h.agentLocked(id).cluster = x.GetClusterId()
	}
	for id, a := range h.agents {
		if s.Agents[id] == nil && len(a.streams) == 0 {
			delete(h.agents, id)
			h.dirty[id] = true // its ack goes from the store
		}
	}
}

// agentsOf lists a cluster's agents, those too that have just been deleted.
func (h *Hub) agentsOf(clusterID string, s *directory.Snapshot) []*agent {
	var out []*agent
	for _, x := range s.AgentsOf(clusterID) {
		out = append(out, h.agentLocked(x.GetId()))
	}
	for id, a := range h.agents {
		if a.cluster == clusterID && s.Agents[id] == nil {
			out = append(out, a)
		}
	}
	slices.SortFunc(out, func(a, b *agent) int { return compare(a.id, b.id) })
	return out
}

// Confirm takes in how far an agent has put a bundle into effect. It may be told
// the same more than once.
func (h *Hub) Confirm(agentID string, req *apiv1.ConfirmRequest) error {
	at := h.cfg.Now()
	x := h.cfg.Directory.Snapshot().Agents[agentID]
	if x == nil || x.GetRemoved() {
		return errors.New("confirming: no such agent")
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	c := h.clusters[x.GetClusterId()]
	if c == nil || req.GetRevision() > c.revision {
		return fmt.Errorf("confirming: revision %d was never sent to cluster %s", req.GetRevision(), x.GetClusterId())
	}
	a := h.agentLocked(agentID)
	a.cluster, a.lastSeen = x.GetClusterId(), at
	a.problem, a.problemOf = req.GetProblem(), req.GetRevision()
	if req.GetCutAt() != nil && req.GetRevision() > a.confirmed {
		a.confirmed = req.GetRevision()
		if users := c.usersAt(req.GetRevision()); users != nil {
			a.users = keys(users)
		}
		h.dirty[agentID] = true
	}
	if req.GetCutAt() != nil {
		a.cuts = add(a.cuts, confirmation{req.GetRevision(), at, req.GetCutStreams()})
	}
	if req.GetCleanAt() != nil {
		a.cleans = add(a.cleans, confirmation{req.GetRevision(), at, 0})
	}
	h.broadcast(&h.changed)
	select {
	case h.wake <- struct{}{}:
	default:
	}
	return nil
}

// usersAt are the subjects of the bundle of a revision, nil if that is not
// known any more.
func (c *cluster) usersAt(revision uint64) map[string]time.Time {
	if revision == c.revision {
		return c.users
	}
	return c.past[revision]
}

func keys[V any](m map[string]V) map[string]bool {
	out := make(map[string]bool, len(m))
	for k := range m {
		out[k] = true
	}
	return out
}

// add appends the first confirmation of a revision.
func add(to []confirmation, c confirmation) []confirmation {
	if slices.ContainsFunc(to, func(x confirmation) bool { return x.revision == c.revision }) {
		return to
	}
	to = append(to, c)
	return to[max(0, len(to)-keptConfirmations):]
}

// reached returns the first confirmation of a revision or a later one.
func reached(list []confirmation, revision uint64) (confirmation, bool) {
	for _, c := range list {
		if c.revision >= revision {
			return c, true
		}
	}
	return confirmation{}, false
}

// AgentStatus says how an agent is, as far as this package knows.
func (h *Hub) AgentStatus(agentID string) *apiv1.AgentStatus {
	h.mu.Lock()
	defer h.mu.Unlock()
	a := h.agents[agentID]
	if a == nil {
		return &apiv1.AgentStatus{}
	}
	s := &apiv1.AgentStatus{Online: len(a.streams) > 0, ConfirmedRevision: a.confirmed}
	if !a.lastSeen.IsZero() {
		s.LastSeen = timestamppb.New(a.lastSeen)
	}
	return s
}

// Problem is what an agent last reported as wrong with its policy, or "".
func (h *Hub) Problem(agentID string) string {
	h.mu.Lock()
	defer h.mu.Unlock()
	if a := h.agents[agentID]; a != nil {
		return a.problem
	}
	return ""
}

// Ceiling is the agent's own rights as it reported them: JSON of
// []rbacv1.PolicyRule, nil if it has not.
func (h *Hub) Ceiling(agentID string) []byte {
	h.mu.Lock()
	defer h.mu.Unlock()
	if a := h.agents[agentID]; a != nil {
		return a.ceiling
	}
	return nil
}
