package publish

import (
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/sallyport-mesh/sallyport/coordinator/internal/directory"
	"github.com/sallyport-mesh/sallyport/coordinator/internal/tailnet"
	apiv1 "github.com/sallyport-mesh/sallyport/pkg/api/sallyport/v1"
)

// edge is a device that may reach an agent.
type edge struct{ device, agent string }

// leave is an edge that the directory no longer gives, on its way out.
type leave struct {
	revision uint64    // goes when the agent has confirmed this and it has settled
	cut      bool      // the agent has confirmed
	deadline time.Time // goes then, whatever happened
}

// retopology publishes the overlay's topology if it changed. It returns after
// how long time alone may change it again.
func (h *Hub) retopology() time.Duration {
	at := h.cfg.Now()
	s := h.cfg.Directory.Snapshot()
	h.mu.Lock()
	if h.processed == 0 {
		// Without bundles nobody reaches anything, and the overlay would be torn
		// down at every start.
		h.mu.Unlock()
		return retryAfter
	}
	t, next := h.topologyLocked(s, at)
	old := h.topology
	sameReach := old != nil && maps.EqualFunc(t.Reach, old.Reach, slices.Equal)
	if !sameReach {
		h.broadcast(&h.reach)
	}
	if sameReach && maps.Equal(t.Members, old.Members) {
		t = nil
	} else {
		h.topology = t
	}
	if h.behind && (next.IsZero() || next.After(at.Add(retryAfter))) {
		next = at.Add(retryAfter)
	}
	h.mu.Unlock()
	if t != nil {
		h.cfg.OnTopology(t)
	}
	if next.IsZero() {
		return time.Hour
	}
	return max(next.Sub(at), time.Millisecond)
}

// topologyLocked computes who may be on the overlay and who reaches whom, and
// the next moment at which that may change by itself.
func (h *Hub) topologyLocked(s *directory.Snapshot, at time.Time) (*tailnet.Topology, time.Time) {
	var next time.Time
	soon := func(t time.Time) {
		if t.After(at) && (next.IsZero() || t.Before(next)) {
			next = t
		}
	}
	t := &tailnet.Topology{Revision: h.processed, Members: map[string]tailnet.Member{}, Reach: map[string][]string{}}
	devices := liveDevices(s, at, soon)
	names := newHosts(s)
	byCluster := map[string][]string{}
	for _, id := range slices.Sorted(maps.Keys(s.Agents)) {
		x := s.Agents[id]
		if c := s.Clusters[x.GetClusterId()]; c != nil && !x.GetRemoved() {
			byCluster[c.GetId()] = append(byCluster[c.GetId()], id)
			t.Members[id] = tailnet.Member{
				ID: id, Kind: tailnet.Agent, Host: names.pick(c.GetName(), id), Cluster: c.GetName(),
			}
		}
	}
	byUser := map[string][]string{}
	for _, id := range slices.Sorted(maps.Keys(devices)) {
		d := s.Devices[id]
		byUser[d.GetUserId()] = append(byUser[d.GetUserId()], id)
		t.Members[id] = tailnet.Member{
			ID: id, Kind: tailnet.Device, Host: names.pick(d.GetName(), id),
			UserID: d.GetUserId(), UserName: s.Users[d.GetUserId()].GetName(), Expiry: devices[id],
		}
	}
	// 1. What the bundles allow and the agents have confirmed.
	allowed := map[edge]bool{}
	for _, c := range h.clusters {
		for user, until := range c.users {
			if !c.allows(user, at) || len(byUser[user]) == 0 {
				continue
			}
			soon(until)
			for _, a := range byCluster[c.id] {
				for _, d := range byUser[user] {
					allowed[edge{d, a}] = true
					if h.agents[a] != nil && h.agents[a].users[user] {
						t.Reach[d] = append(t.Reach[d], a)
					}
				}
			}
		}
	}
	// 2. What they no longer allow, until the agents have cut it.
	h.lingerLocked(t, allowed, at, soon)
	for d := range t.Reach {
		slices.Sort(t.Reach[d])
	}
	return t, next
}

// lingerLocked keeps the edges of the last topology that are gone until their
// agent has confirmed so, or their time is up.
func (h *Hub) lingerLocked(t *tailnet.Topology, allowed map[edge]bool, at time.Time, soon func(time.Time)) {
	if h.topology == nil {
		return
	}
	still := map[edge]leave{}
	for d, agents := range h.topology.Reach {
		for _, id := range agents {
			e := edge{d, id}
			a := h.agents[id]
			if allowed[e] || a == nil {
				continue
			}
			l, ok := h.leaving[e]
			if !ok {
				l = leave{deadline: at.Add(h.cfg.Linger)}
				if c := h.clusters[a.cluster]; c != nil {
					l.revision = c.revision
				}
			}
			if !l.cut && a.confirmed >= l.revision {
				l.cut = true
				if settled := at.Add(h.cfg.Settle); settled.Before(l.deadline) {
					l.deadline = settled
				}
			}
			if !at.Before(l.deadline) {
				continue
			}
			still[e] = l
			soon(l.deadline)
			t.Reach[d] = append(t.Reach[d], id)
			for _, member := range []string{d, id} {
				if _, ok := t.Members[member]; !ok {
					t.Members[member] = h.topology.Members[member]
				}
			}
		}
	}
	h.leaving = still
}

// liveDevices lists the devices with a running session, and until when.
func liveDevices(s *directory.Snapshot, at time.Time, soon func(time.Time)) map[string]time.Time {
	out := map[string]time.Time{}
	for _, x := range s.Sessions {
		d, u := s.Devices[x.GetDeviceId()], s.Users[x.GetUserId()]
		if !live(x, d, u, at) {
			continue
		}
		until := x.GetExpiresAt().AsTime()
		soon(until)
		if until.After(out[d.GetId()]) {
			out[d.GetId()] = until
		}
	}
	return out
}

func live(x *apiv1.Session, d *apiv1.Device, u *apiv1.User, at time.Time) bool {
	return d != nil && u != nil && !x.GetRevoked() && at.Before(x.GetExpiresAt().AsTime()) &&
		x.GetAuthGeneration() == u.GetAuthGeneration() && !u.GetSuspended() &&
		!d.GetRevoked() && d.GetUserId() == u.GetId()
}

// hosts gives members DNS labels of their own. The names of clusters are taken:
// nobody's laptop answers to one.
type hosts struct{ taken map[string]bool }

func newHosts(s *directory.Snapshot) *hosts {
	h := &hosts{map[string]bool{}}
	for _, c := range s.Clusters {
		h.taken[c.GetName()] = true
	}
	return h
}

// pick makes a label of a name and the beginning of the id's random part, or
// all of it where that is taken.
func (h *hosts) pick(name, id string) string {
	_, random, _ := strings.Cut(id, "-")
	base := label(name)
	host := base + "-" + random[:min(4, len(random))]
	if h.taken[host] {
		host = base + "-" + random
	}
	h.taken[host] = true
	return host
}

// label makes a DNS label of at most 40 bytes out of any name.
func label(name string) string {
	out := make([]byte, 0, 40)
	for _, r := range strings.ToLower(name) {
		switch {
		case r >= 'a' && r <= 'z', r >= '0' && r <= '9':
			out = append(out, byte(r))
		case len(out) > 0 && out[len(out)-1] != '-' && r != '\'' && r != '’':
			out = append(out, '-')
		}
		if len(out) == 40 {
			break
		}
	}
	if s := strings.Trim(string(out), "-"); s != "" {
		return s
	}
	return "device"
}
