package tailnet

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	"tailscale.com/tailcfg"
	"tailscale.com/types/dnstype"
	"tailscale.com/types/opt"

	"github.com/sallyport-mesh/sallyport/pkg/identity"
)

// since is what to send a node that was last told old, or nil if nothing is
// new. With no old view it is the whole map.
func (v *view) since(old *view, s *Server) *tailcfg.MapResponse {
	if old == nil {
		return v.whole(s)
	}
	res, news := &tailcfg.MapResponse{}, false
	if v.self != old.self {
		res.Node, news = v.self.node(), true
		res.UserProfiles = append(res.UserProfiles, v.self.owner.profile())
	}
	for _, id := range sorted(v.peers) {
		p := v.peers[id]
		was, known := old.peers[id]
		switch {
		case !known || p.fixed != was.fixed || len(p.endpoints) == 0 && len(was.endpoints) > 0:
			// A patch cannot say that a list has become empty.
			res.PeersChanged = append(res.PeersChanged, p.node())
			res.UserProfiles = append(res.UserProfiles, p.owner.profile())
		default:
			if c := p.patch(was); c != nil {
				res.PeersChangedPatch = append(res.PeersChangedPatch, c)
			}
		}
	}
	for _, id := range sorted(old.peers) {
		if _, still := v.peers[id]; !still {
			res.PeersRemoved = append(res.PeersRemoved, id)
		}
	}
	res.PacketFilters = v.filtersSince(old)
	if !slices.Equal(v.records, old.records) {
		res.DNSConfig = v.dns(s)
	}
	news = news || len(res.PeersChanged) > 0 || len(res.PeersChangedPatch) > 0 || len(res.PeersRemoved) > 0 ||
		res.PacketFilters != nil || res.DNSConfig != nil
	if !news {
		return nil
	}
	return res
}

// whole is the first response of a stream.
func (v *view) whole(s *Server) *tailcfg.MapResponse {
	now := s.now().UTC()
	res := &tailcfg.MapResponse{
		Node:            v.self.node(),
		DERPMap:         s.derpMap(),
		DNSConfig:       v.dns(s),
		Domain:          s.cfg.Domain,
		CollectServices: opt.False,
		UserProfiles:    []tailcfg.UserProfile{v.self.owner.profile()},
		PacketFilters:   v.filtersSince(&view{}),
		ControlTime:     &now,
		Debug:           &tailcfg.Debug{DisableLogTail: true},
	}
	if res.PacketFilters == nil {
		res.PacketFilters = map[string][]tailcfg.FilterRule{}
	}
	// An empty filter must be said: a client without any waits for one. It is
	// said by name, since an empty PacketFilter is left out of JSON.
	res.PacketFilters["base"] = []tailcfg.FilterRule{}
	for _, id := range sorted(v.peers) {
		res.Peers = append(res.Peers, v.peers[id].node())
		res.UserProfiles = append(res.UserProfiles, v.peers[id].owner.profile())
	}
	return res
}

// patch is what changed in how a peer is reached, or nil.
func (p peer) patch(was peer) *tailcfg.PeerChange {
	c := &tailcfg.PeerChange{NodeID: p.id}
	changed := false
	if !slices.Equal(p.endpoints, was.endpoints) {
		c.Endpoints, changed = p.endpoints, true
	}
	if p.home != was.home {
		c.DERPRegion, changed = p.home, true
	}
	if p.disco != was.disco {
		c.DiscoKey, changed = &p.disco, true
	}
	if p.online != was.online {
		c.Online, changed = &p.online, true
		if !p.lastSeen.IsZero() {
			c.LastSeen = &p.lastSeen
		}
	}
	if !changed {
		return nil
	}
	return c
}

// filtersSince is how an agent's packet filter changed: one named part for each
// device, so that the change costs what the change is. Nil is no change.
func (v *view) filtersSince(old *view) map[string][]tailcfg.FilterRule {
	parts := map[string][]tailcfg.FilterRule{}
	for id, g := range v.grants {
		if was, ok := old.grants[id]; !ok || was != g {
			parts[partName(id)] = g.rules(v.self.fixed)
		}
	}
	for id := range old.grants {
		if _, still := v.grants[id]; !still {
			parts[partName(id)] = nil // takes the part away
		}
	}
	if len(parts) == 0 {
		return nil
	}
	return parts
}

func partName(id tailcfg.NodeID) string { return fmt.Sprintf("device-%d", int64(id)) }

const (
	agentPort = 443
	protoTCP  = 6
)

// rules admit the device to the agent's port, and tell the agent who it is.
func (g grant) rules(agent fixed) []tailcfg.FilterRule {
	src := []string{g.v4.String(), g.v6.String()}
	port := tailcfg.PortRange{First: agentPort, Last: agentPort}
	claim, err := json.Marshal(g.claim)
	if err != nil {
		panic("tailnet: encoding a struct of two strings: " + err.Error())
	}
	return []tailcfg.FilterRule{
		{
			SrcIPs:  src,
			IPProto: []int{protoTCP},
			DstPorts: []tailcfg.NetPortRange{
				{IP: agent.v4.String(), Ports: port},
				{IP: agent.v6.String(), Ports: port},
			},
		},
		{
			SrcIPs: src,
			CapGrant: []tailcfg.CapGrant{{
				Dsts: agent.addrs(),
				CapMap: tailcfg.PeerCapMap{
					identity.DeviceCapability: []tailcfg.RawMessage{tailcfg.RawMessage(claim)},
				},
			}},
		},
	}
}

// dns makes names resolve: nodes by their own, and clusters by records. Nothing
// but the overlay's domain goes to the node's own resolver.
func (v *view) dns(s *Server) *tailcfg.DNSConfig {
	return &tailcfg.DNSConfig{
		Proxied:      true,
		Domains:      []string{s.cfg.Domain},
		Routes:       map[string][]*dnstype.Resolver{s.cfg.Domain: nil},
		ExtraRecords: v.records,
	}
}

func sorted[T any](m map[tailcfg.NodeID]T) []tailcfg.NodeID {
	return slices.Sorted(maps.Keys(m))
}
