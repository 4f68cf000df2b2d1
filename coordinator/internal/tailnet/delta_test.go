package tailnet

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"net/url"
	"reflect"
	"testing"
	"time"

	"tailscale.com/tailcfg"
	"tailscale.com/types/key"
)

// told is what a client has gathered from the responses of one stream, by the
// rules of tailcfg.MapResponse.
type told struct {
	self     *tailcfg.Node
	peers    map[tailcfg.NodeID]*tailcfg.Node
	filters  map[string][]tailcfg.FilterRule
	dns      *tailcfg.DNSConfig
	profiles map[tailcfg.UserID]tailcfg.UserProfile
}

func (c *told) hear(t testing.TB, res *tailcfg.MapResponse) {
	t.Helper()
	b, err := json.Marshal(res)
	if err != nil {
		t.Fatal(err)
	}
	in := new(tailcfg.MapResponse)
	if err := json.Unmarshal(b, in); err != nil {
		t.Fatal(err)
	}
	if in.Node != nil {
		c.self = in.Node
	}
	for _, p := range append(in.Peers, in.PeersChanged...) {
		c.peers[p.ID] = p
	}
	for _, id := range in.PeersRemoved {
		if c.peers[id] == nil {
			t.Errorf("peer %v is removed, and was not there", id)
		}
		delete(c.peers, id)
	}
	for _, ch := range in.PeersChangedPatch {
		p := c.peers[ch.NodeID]
		if p == nil {
			t.Errorf("peer %v is patched, and is not there", ch.NodeID)
			continue
		}
		if ch.Endpoints != nil {
			p.Endpoints = ch.Endpoints
		}
		if ch.DERPRegion != 0 {
			p.HomeDERP = ch.DERPRegion
		}
		if ch.DiscoKey != nil {
			p.DiscoKey = *ch.DiscoKey
		}
		if ch.Online != nil {
			p.Online = ch.Online
		}
		if ch.LastSeen != nil {
			p.LastSeen = ch.LastSeen
		}
	}
	for name, rules := range in.PacketFilters {
		if rules == nil {
			delete(c.filters, name)
		} else {
			c.filters[name] = rules
		}
	}
	if in.DNSConfig != nil {
		c.dns = in.DNSConfig
	}
	for _, p := range in.UserProfiles {
		c.profiles[p.ID] = p
	}
	for _, p := range c.peers {
		if _, ok := c.profiles[p.User]; !ok {
			t.Errorf("peer %v belongs to a user of whom nothing was said", p.ID)
		}
	}
}

func listener() *told {
	return &told{peers: map[tailcfg.NodeID]*tailcfg.Node{}, filters: map[string][]tailcfg.FilterRule{}, profiles: map[tailcfg.UserID]tailcfg.UserProfile{}}
}

// world changes at random: members, edges, registrations, reports, time.
type world struct {
	*Server
	rng    *rand.Rand
	top    Topology
	clock  time.Time
	nextID tailcfg.NodeID
}

func newWorld(seed uint64) *world {
	w := &world{rng: rand.New(rand.NewPCG(seed, 1)), clock: time.Unix(1700000000, 0).UTC()}
	w.Server = &Server{
		cfg: Config{Domain: domain}, url: &url.URL{Scheme: "https", Host: "coordinator:443"}, log: slog.New(slog.DiscardHandler),
		now:   func() time.Time { return w.clock },
		news:  make(chan struct{}),
		nodes: map[string]*node{}, byKey: map[key.NodePublic]*node{}, byMachine: map[key.MachinePublic]*node{},
		expired: map[string]time.Time{}, dirty: map[string]struct{}{}, poke: make(chan struct{}, 1),
	}
	w.relay = newRelay(key.NewNode(), w.admits, w.log)
	w.top = Topology{Members: map[string]Member{}, Reach: map[string][]string{}}
	return w
}

const crowd = 5

func (w *world) step() {
	i := w.rng.IntN(crowd)
	dev, agt := fmt.Sprintf("dev-%d", i), fmt.Sprintf("agt-%d", w.rng.IntN(crowd))
	who := []string{dev, agt}[w.rng.IntN(2)]
	switch w.rng.IntN(9) {
	case 0:
		m := device(dev)
		if who == agt {
			m = agent(agt, fmt.Sprintf("edge-%d", w.rng.IntN(2)))
		} else if w.rng.IntN(2) == 0 {
			m.Expiry = w.clock.Add(time.Duration(w.rng.IntN(20)) * time.Second)
		}
		m.Host = fmt.Sprintf("%s-%d", who, w.rng.IntN(2))
		w.top.Members[who] = m
	case 1:
		delete(w.top.Members, who)
	case 2:
		w.top.Reach[dev] = append(w.top.Reach[dev], agt)
	case 3:
		delete(w.top.Reach, dev)
	case 4, 5:
		rec := record{Member: who, Machine: key.NewMachine().Public(), Version: 142, Created: w.clock}
		if n := w.nodes[who]; n != nil && w.rng.IntN(2) == 0 {
			rec = n.record // only a new node key
		} else {
			w.nextID++
			rec.ID, rec.IPv4 = w.nextID, nth(uint32(w.nextID))
		}
		rec.Node = key.NewNode().Public()
		w.mu.Lock()
		w.adopt(rec)
		w.mu.Unlock()
	case 6:
		if n := w.nodes[who]; n != nil {
			n.endpoints = nil
			for range w.rng.IntN(3) {
				n.endpoints = append(n.endpoints, netip.AddrPortFrom(netip.MustParseAddr("192.0.2.1"), uint16(1+w.rng.IntN(3))))
			}
			n.Disco = key.NewDisco().Public()
		}
	case 7:
		if n := w.nodes[who]; n != nil {
			n.online, n.lastSeen = !n.online, w.clock
		}
	case 8:
		w.clock = w.clock.Add(time.Duration(w.rng.IntN(5)) * time.Second)
	}
	top := &Topology{Members: map[string]Member{}, Reach: map[string][]string{}}
	for id, m := range w.top.Members {
		top.Members[id] = m
	}
	for d, as := range w.top.Reach {
		top.Reach[d] = append([]string(nil), as...)
	}
	w.SetTopology(top)
}

// Whatever happens, and however seldom a client looks, what it has gathered
// from deltas is what a fresh map says, and holds nobody it has no edge to.
func TestDeltasAddUpToTheWholeMap(t *testing.T) {
	for seed := range uint64(10) {
		w := newWorld(seed)
		for w.nodes["dev-0"] == nil || w.plan.members["dev-0"].ID == "" || w.nodes["agt-0"] == nil || w.plan.members["agt-0"].ID == "" {
			w.step()
		}
		for _, id := range []string{"dev-0", "agt-0"} {
			var heard *told
			var last *view
			var nk key.NodePublic
			var n *node
			for range 300 {
				w.step()
				if w.rng.IntN(3) != 0 {
					continue
				}
				now := w.nodes[id]
				if last == nil || n != now || n.Node != nk {
					if last != nil {
						if v := w.view(n, nk); !v.end || len(v.peers) != 0 || !v.self.expiry.Equal(longAgo) {
							t.Fatalf("seed %d: the stream of a replaced node goes on", seed)
						}
					}
					n, nk, heard, last = now, now.Node, listener(), nil
				}
				v := w.view(n, nk)
				if res := v.since(last, w.Server); res != nil {
					heard.hear(t, res)
				}
				last = v
				fresh := listener()
				fresh.hear(t, v.since(nil, w.Server))
				for _, c := range []*told{heard, fresh} {
					c.profiles = nil // those of peers that are gone may linger
					// A patch for a change of disco key or endpoints does not
					// carry the time.
					for _, p := range c.peers {
						p.LastSeen = nil
					}
				}
				if !reflect.DeepEqual(heard, fresh) {
					a, _ := json.Marshal(heard.peers)
					b, _ := json.Marshal(fresh.peers)
					t.Fatalf("seed %d: heard\n%s\nfresh\n%s", seed, a, b)
				}
				heard.profiles = map[tailcfg.UserID]tailcfg.UserProfile{}
				for _, p := range v.peers {
					heard.profiles[p.owner.id] = p.owner.profile()
				}
				w.checkPeers(t, id, v)
			}
		}
	}
}

// checkPeers holds that the view's peers are exactly those with an edge, a node
// and time left.
func (w *world) checkPeers(t *testing.T, id string, v *view) {
	t.Helper()
	want := map[tailcfg.NodeID]bool{}
	for dev, agents := range w.top.Reach {
		for _, agt := range agents {
			other := agt
			if id == agt {
				other = dev
			} else if id != dev {
				continue
			}
			m, self := w.top.Members[other], w.top.Members[id]
			alive := func(m Member) bool { return m.ID != "" && (m.Expiry.IsZero() || m.Expiry.After(w.clock)) }
			if n := w.nodes[other]; n != nil && alive(m) && alive(self) {
				want[n.ID] = true
			}
		}
	}
	for nid := range v.peers {
		if !want[nid] {
			t.Fatalf("%s sees node %v, to which it has no edge", id, nid)
		}
	}
	if len(v.peers) != len(want) {
		t.Fatalf("%s sees %d peers of %d", id, len(v.peers), len(want))
	}
	if len(v.grants) != 0 && w.top.Members[id].Kind != Agent {
		t.Fatalf("%s is a device and lets somebody in", id)
	}
}

func TestEdgesThatMakeNoSenseAreNone(t *testing.T) {
	p := newPlan(&Topology{
		Members: map[string]Member{"dev-1": device("dev-1"), "dev-2": device("dev-2"), "agt-1": agent("agt-1", "e"), "agt-2": agent("agt-2", "e")},
		Reach: map[string][]string{
			"dev-1":   {"agt-1", "dev-2", "agt-1", "nobody", ""},
			"agt-1":   {"agt-2", "dev-1"},
			"unknown": {"agt-1"},
		},
	})
	if got := fmt.Sprint(p.agentsOf, p.devices); got != "map[dev-1:[agt-1]] map[agt-1:[dev-1]]" {
		t.Error(got)
	}
}
