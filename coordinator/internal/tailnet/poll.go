package tailnet

import (
	"context"
	"net/http"
	"net/netip"
	"slices"
	"time"

	"tailscale.com/tailcfg"
	"tailscale.com/types/key"
)

// poll is an open stream of map updates. A node has one at most.
type poll struct {
	key      key.NodePublic // that it was opened for
	bell     chan struct{}  // holds a token when there may be something to send
	replaced chan struct{}  // closed by the stream that takes its place
}

func (p *poll) wake() {
	select {
	case p.bell <- struct{}{}:
	default:
	}
}

// serveMap answers a node that asks for its map, or that reports where it can be
// reached.
func (s *Server) serveMap(w http.ResponseWriter, r *http.Request, machine key.MachinePublic) {
	var req tailcfg.MapRequest
	err := readRequest(w, r, &req)
	if err == nil {
		err = checkVersion(req.Version)
	}
	if err == nil {
		ctx, cancel := context.WithTimeout(r.Context(), startupTime)
		if s.awaitTopology(ctx) != nil {
			err = refuse(http.StatusServiceUnavailable, "the coordinator is starting: try again")
		}
		cancel()
	}
	if err != nil {
		s.answerError(w, err)
		return
	}
	n, err := s.nodeOf(machine, req.NodeKey)
	if err != nil {
		s.answerError(w, err)
		return
	}
	frames := newFrameWriter(w, req.Compress == "zstd")
	switch {
	case req.Stream:
		s.introduce(n, &req)
		s.stream(r.Context(), n, req.NodeKey, frames)
	case req.OmitPeers:
		s.report(n, &req)
		w.WriteHeader(http.StatusOK)
	default:
		s.report(n, &req)
		if err := frames.send(s.view(n, req.NodeKey).since(nil, s)); err != nil {
			s.log.Debug("sending a map failed", "node", req.NodeKey, "error", err)
		}
	}
}

// nodeOf finds the node of a node key, for the machine that registered it.
func (s *Server) nodeOf(machine key.MachinePublic, nk key.NodePublic) (*node, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	n := s.byKey[nk]
	if n == nil || n.Machine != machine {
		return nil, refuse(http.StatusNotFound, "this machine has no such node key: register first")
	}
	return n, nil
}

// maxEndpoints bounds what a node may announce. Honest ones have a handful.
const maxEndpoints = 32

// introduce takes from the request for a stream what reports carry, if no report
// came since the server started: nodes report when something changes, and a
// restart of ours changes nothing for them. Later it would be older than what
// they have reported beside it.
func (s *Server) introduce(n *node, req *tailcfg.MapRequest) {
	s.mu.RLock()
	reported := n.reported
	s.mu.RUnlock()
	if !reported {
		s.report(n, req)
	}
}

// report takes in where a node can be reached. It does not touch its stream.
func (s *Server) report(n *node, req *tailcfg.MapRequest) {
	endpoints := cleanEndpoints(req.Endpoints)
	home := regionID
	if hi := req.Hostinfo; hi != nil && hi.NetInfo != nil && s.hasRegion(hi.NetInfo.PreferredDERP) {
		home = hi.NetInfo.PreferredDERP
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if n.gone || n.Node != req.NodeKey {
		return
	}
	n.reported = true
	kept := n.record
	if !req.DiscoKey.IsZero() {
		n.Disco = req.DiscoKey
	}
	n.Version = req.Version
	stored := n.record != kept
	if !stored && n.home == home && slices.Equal(n.endpoints, endpoints) {
		return
	}
	n.endpoints, n.home = endpoints, home
	if stored {
		s.dirty[n.Member] = struct{}{}
		s.pokeRun()
	}
	s.wakeNeighbours(n.Member)
}

// cleanEndpoints keeps the addresses that another host could use, in one order.
func cleanEndpoints(in []netip.AddrPort) []netip.AddrPort {
	var out []netip.AddrPort
	for _, ep := range in {
		a := ep.Addr()
		if !a.IsValid() || ep.Port() == 0 || a.Zone() != "" || a.IsUnspecified() || a.IsMulticast() || a.Is6() && a.IsLinkLocalUnicast() {
			continue
		}
		out = append(out, netip.AddrPortFrom(a.Unmap(), ep.Port()))
	}
	slices.SortFunc(out, netip.AddrPort.Compare)
	out = slices.Compact(out)
	return out[:min(len(out), maxEndpoints)]
}

// stream sends the node its map and then every change, until the client goes,
// another stream takes its place, or the node's time on the overlay ends.
func (s *Server) stream(ctx context.Context, n *node, nk key.NodePublic, frames *frameWriter) {
	p := &poll{key: nk, bell: make(chan struct{}, 1), replaced: make(chan struct{})}
	s.attach(n, p)
	defer s.detach(n, p)
	keepAlive := time.NewTimer(s.cfg.KeepAlive)
	defer keepAlive.Stop()
	var last *view
	for {
		v := s.view(n, nk)
		if res := v.since(last, s); res != nil {
			if frames.send(res) != nil {
				return
			}
			keepAlive.Reset(s.cfg.KeepAlive)
		}
		if v.end {
			return
		}
		last = v
	quiet:
		for {
			select {
			case <-p.bell:
				break quiet
			case <-keepAlive.C:
				if frames.sendKeepAlive() != nil {
					return
				}
				keepAlive.Reset(s.cfg.KeepAlive)
			case <-p.replaced:
				return
			case <-ctx.Done():
				return
			case <-s.ctx.Done():
				return
			}
		}
	}
}

func (s *Server) attach(n *node, p *poll) {
	s.mu.Lock()
	if n.poll != nil {
		close(n.poll.replaced)
	}
	n.poll = p
	was := n.online
	n.online = !n.gone
	n.lastSeen = s.now()
	member, st := n.Member, n.status()
	if !was {
		s.wakeNeighbours(n.Member)
	}
	s.mu.Unlock()
	if !was {
		s.tell(member, st)
	}
}

func (s *Server) detach(n *node, p *poll) {
	s.mu.Lock()
	if n.poll != p {
		s.mu.Unlock()
		return
	}
	n.poll, n.online, n.lastSeen = nil, false, s.now()
	member, st := n.Member, n.status()
	s.wakeNeighbours(member)
	s.mu.Unlock()
	s.tell(member, st)
}

func (s *Server) tell(memberID string, st Status) {
	if s.cfg.OnStatus != nil {
		s.cfg.OnStatus(memberID, st)
	}
}
