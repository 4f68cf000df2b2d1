package tailnet

import (
	"maps"
	"slices"
	"time"
)

// plan is a topology made ready for questions from both ends of an edge. Edges
// that make no sense (from an agent, to a device, to a stranger) are not in it.
type plan struct {
	revision uint64
	members  map[string]Member
	agentsOf map[string][]string // by device, sorted
	devices  map[string][]string // by agent, sorted
}

func newPlan(t *Topology) *plan {
	p := &plan{
		revision: t.Revision, members: t.Members,
		agentsOf: make(map[string][]string, len(t.Reach)), devices: map[string][]string{},
	}
	for device, agents := range t.Reach {
		if t.Members[device].Kind != Device {
			continue
		}
		var reach []string
		for _, agent := range agents {
			if t.Members[agent].Kind == Agent {
				reach = append(reach, agent)
			}
		}
		slices.Sort(reach)
		reach = slices.Compact(reach)
		p.agentsOf[device] = reach
		for _, agent := range reach {
			p.devices[agent] = append(p.devices[agent], device)
		}
	}
	for _, devices := range p.devices {
		slices.Sort(devices)
	}
	return p
}

// neighbours are the members at the other ends of a member's edges.
func (p *plan) neighbours(id string) []string {
	if p == nil {
		return nil
	}
	if p.members[id].Kind == Agent {
		return p.devices[id]
	}
	return p.agentsOf[id]
}

// changed lists the members whose view may differ between two plans.
func (p *plan) changed(old *plan) map[string]struct{} {
	ids := map[string]struct{}{}
	if old == nil {
		for id := range p.members {
			ids[id] = struct{}{}
		}
		return ids
	}
	touch := func(id string) {
		ids[id] = struct{}{}
		for _, n := range p.neighbours(id) {
			ids[n] = struct{}{}
		}
		for _, n := range old.neighbours(id) {
			ids[n] = struct{}{}
		}
	}
	for id, m := range p.members {
		if was, ok := old.members[id]; !ok || !was.equal(m) {
			touch(id)
		}
	}
	for id := range old.members {
		if _, ok := p.members[id]; !ok {
			touch(id)
		}
	}
	edges := func(device string, a, b []string) {
		if slices.Equal(a, b) {
			return
		}
		ids[device] = struct{}{}
		for _, agent := range a {
			if _, both := slices.BinarySearch(b, agent); !both {
				ids[agent] = struct{}{}
			}
		}
	}
	for device, agents := range p.agentsOf {
		edges(device, agents, old.agentsOf[device])
	}
	for device, agents := range old.agentsOf {
		edges(device, agents, p.agentsOf[device])
	}
	return ids
}

func (m Member) equal(o Member) bool {
	expiry := m.Expiry.Equal(o.Expiry)
	m.Expiry, o.Expiry = time.Time{}, time.Time{}
	return expiry && m == o
}

// standing says whether a member's node may take part.
type standing int

const (
	removed standing = iota // not a member
	lapsed                  // a member whose expiry has passed
	good
)

func (p *plan) standing(id string, now time.Time) standing {
	m, ok := p.members[id]
	switch {
	case !ok:
		return removed
	case !m.Expiry.IsZero() && !m.Expiry.After(now):
		return lapsed
	default:
		return good
	}
}

// SetTopology puts a topology in force, whole. Nodes that it concerns are told
// at once; those of members that are gone are told that their key has ended.
// A topology older than the one in force is ignored.
func (s *Server) SetTopology(t *Topology) {
	p := newPlan(t)
	s.mu.Lock()
	if s.plan != nil && p.revision < s.plan.revision {
		s.mu.Unlock()
		s.log.Warn("older topology ignored", "revision", p.revision)
		return
	}
	ids := p.changed(s.plan)
	s.plan = p
	close(s.news)
	s.news = make(chan struct{})
	s.wake(maps.Keys(ids))
	out := s.outcasts(maps.Keys(ids))
	s.mu.Unlock()
	s.relay.drop(out)
	s.pokeRun()
}
