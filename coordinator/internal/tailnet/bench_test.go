package tailnet

import (
	"fmt"
	"sync"
	"testing"

	"tailscale.com/types/key"
)

// BenchmarkHundredNodesJoin is the time from the first registration until each
// of fifty devices and fifty agents, all with edges to all, has every peer in
// its map.
func BenchmarkHundredNodesJoin(b *testing.B) {
	const half = 50
	for b.Loop() {
		b.StopTimer()
		var members []Member
		for i := range half {
			members = append(members, device(fmt.Sprintf("dev-%d", i)), agent(fmt.Sprintf("agt-%d", i), "edge"))
		}
		m := newMesh(b, members...)
		m.change(func(t *Topology) {
			for d := range half {
				for a := range half {
					t.Reach[fmt.Sprintf("dev-%d", d)] = append(t.Reach[fmt.Sprintf("dev-%d", d)], fmt.Sprintf("agt-%d", a))
				}
			}
		})
		keys := map[string]string{}
		for _, mb := range members {
			keys[mb.ID] = m.key(mb.ID)
		}
		b.StartTimer()
		var wg sync.WaitGroup
		for _, mb := range members {
			wg.Go(func() {
				l := m.light()
				if res := l.register(l.registerRequest(keys[mb.ID])); res.Error != "" {
					b.Error(res.Error)
					return
				}
				u := l.stream()
				peers := map[key.NodePublic]bool{}
				for len(peers) < half {
					res := u.next()
					for _, p := range append(res.Peers, res.PeersChanged...) {
						peers[p.Key] = true
					}
				}
			})
		}
		wg.Wait()
		b.StopTimer()
		m.stop()
		b.StartTimer()
	}
}

// BenchmarkChangeReachesPeer is the time from SetTopology until both ends of an
// edge have the frame that says so, among a hundred nodes that are connected.
func BenchmarkChangeReachesPeer(b *testing.B) {
	members := []Member{device("dev-0"), agent("agt-0", "edge")}
	for i := range 49 {
		members = append(members, device(fmt.Sprintf("dev-%d", i+1)), agent(fmt.Sprintf("agt-%d", i+1), "edge"))
	}
	m := newMesh(b, members...)
	var d, a *updates
	for _, mb := range members {
		u := m.enrolled(mb.ID).stream()
		u.next()
		switch mb.ID {
		case "dev-0":
			d = u
		case "agt-0":
			a = u
		}
	}
	for i := 0; b.Loop(); i++ {
		if i%2 == 0 {
			m.allow("dev-0", "agt-0")
		} else {
			m.deny("dev-0")
		}
		<-d.frame
		<-a.frame
	}
}
