package tailnet

import (
	"cmp"
	"net/netip"
	"slices"
	"time"

	"tailscale.com/tailcfg"
	"tailscale.com/types/key"

	"github.com/sallyport-mesh/sallyport/pkg/identity"
)

// view is all that one node is told: itself, the peers it has an edge to, who
// of them may come in, and the names of clusters. Two views of a node are
// compared to find what to send.
type view struct {
	self    self
	peers   map[tailcfg.NodeID]peer
	grants  map[tailcfg.NodeID]grant // what an agent's packet filter admits
	records []tailcfg.DNSRecord      // cluster names, for a device
	end     bool                     // the stream is over after this
}

// self is the node as it is shown to itself.
type self struct {
	fixed
	home int
}

// peer is a node as it is shown to another.
type peer struct {
	fixed
	disco     key.DiscoPublic
	home      int
	endpoints []netip.AddrPort
	online    bool
	lastSeen  time.Time
}

// fixed is what rarely changes about a node; a change sends it whole.
type fixed struct {
	id      tailcfg.NodeID
	member  string
	name    string // fully qualified, with the final dot
	host    string
	owner   owner
	key     key.NodePublic
	v4, v6  netip.Addr
	expiry  time.Time // in UTC; zero is never
	created time.Time
	version tailcfg.CapabilityVersion
}

// grant lets a device in to an agent, and says who it is.
type grant struct {
	v4, v6 netip.Addr
	claim  identity.DeviceClaim
}

// longAgo is when the key of a node that is not allowed any more has expired.
var longAgo = time.Unix(123, 0).UTC()

// view computes what a node is told now, on a stream opened for the node key.
func (s *Server) view(n *node, nk key.NodePublic) *view {
	s.mu.RLock()
	defer s.mu.RUnlock()
	m := s.plan.members[n.Member]
	v := &view{self: self{s.fixed(n, m), n.home}}
	v.self.key = nk
	switch st := s.standing(n); {
	case n.Node != nk:
		// The machine has rotated its key: it knows, and polls with the new one.
		v.self.expiry, v.end = longAgo, true
		return v
	case st == removed:
		v.self.expiry, v.end = longAgo, true
		return v
	case st == lapsed:
		return v // alone; it may be extended yet
	}
	v.peers = map[tailcfg.NodeID]peer{}
	for _, id := range s.plan.neighbours(n.Member) {
		o := s.nodes[id]
		if o == nil || s.standing(o) != good {
			continue
		}
		om := s.plan.members[id]
		v.peers[o.ID] = peer{
			fixed: s.fixed(o, om),
			disco: o.Disco, home: o.home, endpoints: o.endpoints, online: o.online, lastSeen: o.lastSeen.UTC().Round(0),
		}
		switch m.Kind {
		case Agent:
			if v.grants == nil {
				v.grants = map[tailcfg.NodeID]grant{}
			}
			v.grants[o.ID] = grant{o.IPv4, o.ipv6(), identity.DeviceClaim{Device: om.ID, User: om.UserID}}
		case Device:
			name := om.Cluster + "." + s.cfg.Domain + "."
			for _, a := range []netip.Addr{o.IPv4, o.ipv6()} {
				v.records = append(v.records, tailcfg.DNSRecord{Name: name, Value: a.String()})
			}
		}
	}
	slices.SortFunc(v.records, func(a, b tailcfg.DNSRecord) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Value, b.Value))
	})
	return v
}

// fixed is the lasting part of a node. s.mu is held.
func (s *Server) fixed(n *node, m Member) fixed {
	host := m.Host
	if host == "" {
		host = n.Member // not a member any more
	}
	return fixed{
		id: n.ID, member: n.Member, name: host + "." + s.cfg.Domain + ".", host: host, owner: ownerOf(m),
		key: n.Node, v4: n.IPv4, v6: n.ipv6(), expiry: m.Expiry.UTC().Round(0), created: n.Created, version: n.Version,
	}
}

func (f fixed) addrs() []netip.Prefix {
	return []netip.Prefix{netip.PrefixFrom(f.v4, 32), netip.PrefixFrom(f.v6, 128)}
}

func (f fixed) node() *tailcfg.Node {
	return &tailcfg.Node{
		ID: f.id, StableID: tailcfg.StableNodeID(f.member), Name: f.name, User: f.owner.id,
		Key: f.key, KeyExpiry: f.expiry, Addresses: f.addrs(), AllowedIPs: f.addrs(),
		Hostinfo: (&tailcfg.Hostinfo{Hostname: f.host}).View(), Created: f.created, Cap: f.version,
		MachineAuthorized: true,
	}
}

// selfCaps turn off what would reach beyond the overlay, and let nodes start
// from the map they had while the coordinator is away.
var selfCaps = tailcfg.NodeCapMap{
	tailcfg.NodeAttrDisableCaptivePortalDetection: nil,
	tailcfg.NodeAttrDisableUPnP:                   nil,
	tailcfg.NodeAttrDisableWebClient:              nil,
	tailcfg.NodeAttrDisableRelayServer:            nil,
	tailcfg.NodeAttrDisableRelayClient:            nil,
	tailcfg.NodeAttrCacheNetworkMaps:              nil,
}

func (v self) node() *tailcfg.Node {
	n := v.fixed.node()
	n.HomeDERP, n.CapMap = v.home, selfCaps
	return n
}

func (p peer) node() *tailcfg.Node {
	n := p.fixed.node()
	n.DiscoKey, n.HomeDERP, n.Endpoints, n.Online = p.disco, p.home, p.endpoints, &p.online
	if !p.lastSeen.IsZero() {
		n.LastSeen = &p.lastSeen
	}
	return n
}
