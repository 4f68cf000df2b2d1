package tailnet

import (
	"context"
	"iter"
	"slices"
	"time"

	"tailscale.com/types/key"
)

// wake makes the streams of members look at what changed. s.mu is held.
func (s *Server) wake(ids iter.Seq[string]) {
	for id := range ids {
		if n := s.nodes[id]; n != nil && n.poll != nil {
			n.poll.wake()
		}
	}
}

// wakeNeighbours wakes those who see the member. s.mu is held.
func (s *Server) wakeNeighbours(id string) { s.wake(slices.Values(s.plan.neighbours(id))) }

// standing says whether a node may take part now. s.mu is held.
func (s *Server) standing(n *node) standing {
	if n.gone || n.LoggedOut {
		return removed
	}
	return s.plan.standing(n.Member, s.now())
}

// admits tells the relay whether a node key is one of ours, now.
func (s *Server) admits(k key.NodePublic) bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	n := s.byKey[k]
	return n != nil && s.plan != nil && s.standing(n) == good
}

// outcasts are the keys, among those members', that the relay must let go of.
// s.mu is held.
func (s *Server) outcasts(ids iter.Seq[string]) []key.NodePublic {
	var keys []key.NodePublic
	for id := range ids {
		if n := s.nodes[id]; n != nil && s.standing(n) != good {
			keys = append(keys, n.Node)
		}
	}
	return keys
}

// patience is how long Run waits when no expiry is ahead.
const patience = time.Hour

// expire acts on the members whose expiry has passed since it last looked, and
// says when to look again.
func (s *Server) expire() time.Duration {
	now := s.now()
	next := patience
	s.mu.Lock()
	if s.plan == nil {
		s.mu.Unlock()
		return next
	}
	var ids []string
	for id, m := range s.plan.members {
		if m.Expiry.IsZero() {
			continue
		}
		if left := m.Expiry.Sub(now); left > 0 {
			next = min(next, left)
			continue
		}
		if s.expired[id].Equal(m.Expiry) {
			continue
		}
		s.expired[id] = m.Expiry
		ids = append(ids, id)
		s.wakeNeighbours(id)
	}
	for id := range s.expired {
		if _, ok := s.plan.members[id]; !ok {
			delete(s.expired, id)
		}
	}
	s.wake(slices.Values(ids))
	out := s.outcasts(slices.Values(ids))
	s.mu.Unlock()
	s.relay.drop(out)
	return next
}

// awaitTopology waits until a topology is in force.
func (s *Server) awaitTopology(ctx context.Context) error {
	return s.await(ctx, func(p *plan) bool { return p != nil })
}

// await waits until the plan in force satisfies ok.
func (s *Server) await(ctx context.Context, ok func(*plan) bool) error {
	for {
		s.mu.RLock()
		p, news := s.plan, s.news
		s.mu.RUnlock()
		if ok(p) {
			return nil
		}
		select {
		case <-news:
		case <-ctx.Done():
			return ctx.Err()
		case <-s.ctx.Done():
			return s.ctx.Err()
		}
	}
}
