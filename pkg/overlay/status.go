package overlay

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"tailscale.com/ipn/ipnstate"
	"tailscale.com/tailcfg"
)

// Status is the node as it sees itself.
type Status struct {
	// Running says that the node has a map and a way to talk to peers. When it
	// is not, State is tsnet's word for what it waits for, such as "NeedsLogin".
	Running bool
	State   string
	// Name is the node's name on the overlay, Addrs its addresses.
	Name  string
	Addrs []netip.Addr
	// KeyExpiry is when the node's key ends; zero is never.
	KeyExpiry time.Time
	// RelayConnected says that the node stands connected to its relay.
	RelayConnected bool
	// Problems are tsnet's own health messages.
	Problems []string
	Peers    []PeerStatus
}

// PeerStatus is one peer of the node.
type PeerStatus struct {
	Name  string
	Addrs []netip.Addr
	// Online is what the coordinator last said.
	Online bool
	// Path tells how packets go now.
	Path Path
	// Handshake is when WireGuard last agreed on keys; zero is never.
	Handshake time.Time
	// Received and Sent are bytes since the node started.
	Received, Sent int64
}

// Path tells how packets reach a peer.
type Path string

// The paths there are.
const (
	// Idle: nothing was sent lately, so no path has been chosen.
	Idle Path = "idle"
	// Direct: straight to the peer's address.
	Direct Path = "direct"
	// Relayed: through a relay of the coordinator's.
	Relayed Path = "relayed"
)

// Status reports on the node and its peers.
func (n *Node) Status(ctx context.Context) (Status, error) {
	st, err := n.lc.Status(ctx)
	if err != nil {
		return Status{}, fmt.Errorf("reading overlay status: %w", err)
	}
	s := Status{
		Running:        st.BackendState == "Running",
		State:          st.BackendState,
		Addrs:          st.TailscaleIPs,
		RelayConnected: n.relay.connected(),
		Problems:       st.Health,
	}
	if st.Self != nil {
		s.Name = canonical(st.Self.DNSName)
		if st.Self.KeyExpiry != nil {
			s.KeyExpiry = *st.Self.KeyExpiry
		}
	}
	for _, p := range st.Peer {
		s.Peers = append(s.Peers, PeerStatus{
			Name: canonical(p.DNSName), Addrs: p.TailscaleIPs, Online: p.Online, Path: path(p),
			Handshake: p.LastHandshake, Received: p.RxBytes, Sent: p.TxBytes,
		})
	}
	slices.SortFunc(s.Peers, func(a, b PeerStatus) int { return cmp.Compare(a.Name, b.Name) })
	return s, nil
}

func path(p *ipnstate.PeerStatus) Path {
	switch {
	case p.CurAddr != "":
		return Direct
	case p.Active && p.Relay != "":
		return Relayed
	default:
		return Idle
	}
}

// Ping is an answer of a peer.
type Ping struct {
	Latency time.Duration
	// Path is Direct or Relayed, Endpoint the peer's address where it is direct.
	Path     Path
	Endpoint string
}

// Ping asks a peer for an answer on the path that packets take, without going
// through WireGuard or its packet filter.
func (n *Node) Ping(ctx context.Context, addr netip.Addr) (Ping, error) {
	r, err := n.lc.Ping(ctx, addr, tailcfg.PingDisco)
	switch {
	case err != nil:
		return Ping{}, fmt.Errorf("pinging %v: %w", addr, err)
	case r.Err != "":
		return Ping{}, fmt.Errorf("pinging %v: %w", addr, errors.New(r.Err))
	}
	p := Ping{Latency: time.Duration(r.LatencySeconds * float64(time.Second)), Path: Direct, Endpoint: r.Endpoint}
	if r.Endpoint == "" {
		p.Path = Relayed
	}
	return p, nil
}
