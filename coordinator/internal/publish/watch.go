package publish

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	apiv1 "github.com/sallyport-mesh/sallyport/pkg/api/sallyport/v1"
)

// ErrRemoved ends the stream of an agent that was taken out of service.
var ErrRemoved = errors.New("this agent is not enrolled here any more")

// stream is an agent's open Watch.
type stream struct{ news chan struct{} }

// Watch serves an agent: the newest bundle if it holds another, every later one,
// and the heartbeats. It returns when ctx ends, sending fails or the agent was
// removed.
func (h *Hub) Watch(ctx context.Context, agentID string, req *apiv1.AgentWatchRequest, send func(*apiv1.AgentDirective) error) error {
	x := h.cfg.Directory.Snapshot().Agents[agentID]
	if x == nil || x.GetRemoved() {
		return ErrRemoved
	}
	clusterID := x.GetClusterId()
	s := h.join(agentID, clusterID, req)
	defer h.leave(agentID, s)
	sent, beat := req.GetHeldRevision(), time.Time{}
	for {
		if h.removed(agentID, clusterID) {
			return ErrRemoved
		}
		bundle, revision, heartbeat, at := h.newest(clusterID)
		if bundle != nil && revision != sent {
			if revision < sent {
				h.cfg.Log.Error("agent holds a newer bundle than there is: was the coordinator set back?",
					"agent", agentID, "held", sent, "newest", revision)
			}
			if err := send(&apiv1.AgentDirective{Kind: &apiv1.AgentDirective_Bundle{Bundle: bundle}}); err != nil {
				return err
			}
			sent = revision
		}
		if heartbeat != nil && at.After(beat) {
			if err := send(&apiv1.AgentDirective{Kind: &apiv1.AgentDirective_Heartbeat{Heartbeat: heartbeat}}); err != nil {
				return err
			}
			beat = at
			h.beaten(agentID, at)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-s.news:
		}
	}
}

func (h *Hub) join(agentID, clusterID string, req *apiv1.AgentWatchRequest) *stream {
	s := &stream{news: make(chan struct{}, 1)}
	h.mu.Lock()
	defer h.mu.Unlock()
	a := h.agentLocked(agentID)
	a.cluster, a.lastSeen, a.version, a.ceiling = clusterID, h.cfg.Now(), req.GetVersion(), slices.Clone(req.GetCeilingRules())
	a.streams[s] = true
	if c := h.clusters[clusterID]; c != nil && len(req.GetFeatures()) > 0 {
		var lacking []string
		for _, f := range c.bundle.GetRequires() {
			if !slices.Contains(req.GetFeatures(), f) {
				lacking = append(lacking, f)
			}
		}
		if len(lacking) > 0 {
			h.cfg.Log.Warn("agent is too old for its policy and will refuse everything",
				"agent", agentID, "version", a.version, "lacks", strings.Join(lacking, ","))
		}
	}
	if len(a.streams) == 1 {
		h.broadcast(&h.reach)
	}
	return s
}

func (h *Hub) leave(agentID string, s *stream) {
	h.mu.Lock()
	defer h.mu.Unlock()
	a := h.agentLocked(agentID)
	delete(a.streams, s)
	a.lastSeen = h.cfg.Now()
	if len(a.streams) == 0 {
		h.dirty[agentID] = true
		h.broadcast(&h.reach)
	}
	h.broadcast(&h.changed)
}

// removed reports whether an agent was removed while its cluster stayed. If the
// cluster is gone too, the stream stays to tell the agent that nobody may do
// anything any more.
func (h *Hub) removed(agentID, clusterID string) bool {
	s := h.cfg.Directory.Snapshot()
	x := s.Agents[agentID]
	return s.Clusters[clusterID] != nil && (x == nil || x.GetRemoved())
}

func (h *Hub) newest(clusterID string) (bundle *apiv1.Signed, revision uint64, beat *apiv1.Signed, at time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	c := h.clusters[clusterID]
	if c == nil {
		return nil, 0, nil, time.Time{}
	}
	return c.signed, c.revision, c.beat, c.beatAt
}

func (h *Hub) beaten(agentID string, at time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	a := h.agentLocked(agentID)
	a.lastBeat, a.lastSeen = at, h.cfg.Now()
}

// signal tells the streams of a cluster's agents that there is news.
func (h *Hub) signal(clusterID string) {
	for _, a := range h.agents {
		if a.cluster != clusterID {
			continue
		}
		for s := range a.streams {
			select {
			case s.news <- struct{}{}:
			default:
			}
		}
	}
}
