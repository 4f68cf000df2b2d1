package overlay

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"tailscale.com/tailcfg"
)

// Dial connects to host:port on the overlay. The host is an overlay address, a
// node's name, or a cluster's, which stands for each of the cluster's agents:
// they are tried in turn, those that are online first. Nothing outside the
// overlay is ever dialled or resolved.
func (n *Node) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, fmt.Errorf("dialling the overlay: %w", err)
	}
	addrs, err := n.Resolve(ctx, host)
	if err != nil {
		return nil, err
	}
	addrs = suited(network, addrs)
	if len(addrs) == 0 {
		return nil, fmt.Errorf("%s has no address for %s: %w", host, network, ErrUnknownName)
	}
	if len(addrs) > 1 {
		addrs = n.answering(ctx, addrs)
	}
	var errs []error
	for i, a := range addrs {
		conn, err := n.attempt(ctx, network, a, port, i == len(addrs)-1)
		if err == nil {
			return conn, nil
		}
		errs = append(errs, err)
		if ctx.Err() != nil {
			break
		}
	}
	return nil, fmt.Errorf("dialling %s: %w", address, errors.Join(errs...))
}

// answering puts the peers that answer a knock before those that do not. It asks
// no further than the first that does.
func (n *Node) answering(ctx context.Context, addrs []netip.Addr) []netip.Addr {
	var silent []netip.Addr
	for i, a := range addrs {
		once, cancel := context.WithTimeout(ctx, 2*knockAgain)
		answered := n.knock(once, a)
		cancel()
		if answered {
			return slices.Concat(addrs[i:], silent)
		}
		silent = append(silent, a)
	}
	return addrs
}

// suited keeps one address of each node: every node has both, so IPv6 is for
// those who ask for it.
func suited(network string, addrs []netip.Addr) []netip.Addr {
	v6 := strings.HasSuffix(network, "6") || len(addrs) == 1 && addrs[0].Is6()
	return slices.DeleteFunc(slices.Clone(addrs), func(a netip.Addr) bool { return a.Is6() != v6 })
}

const (
	// attemptTime bounds the attempt on one of several agents. WireGuard repeats
	// a lost handshake after five seconds.
	attemptTime = 7 * time.Second
	// meetTime bounds the wait for a path to a peer that has not been met,
	// relayTime the part of it that is for the relay.
	meetTime  = 3 * time.Second
	relayTime = time.Second
	// knockAgain is when a knock that was not answered is repeated.
	knockAgain = 250 * time.Millisecond
)

// attempt dials one address. Only the last may take as long as it likes.
func (n *Node) attempt(ctx context.Context, network string, a netip.Addr, port string, last bool) (net.Conn, error) {
	if !last {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, attemptTime)
		defer cancel()
	}
	if !n.met.has(a) {
		n.meet(ctx, a)
	}
	conn, err := n.ts.Dial(ctx, network, net.JoinHostPort(a.String(), port))
	if err == nil {
		n.met.add(a)
	}
	return conn, err
}

// meet waits until a peer that was not spoken to yet can be: the relay is there
// for its answers, and it answers a knock. A WireGuard handshake that is lost, as
// when either side has just started, costs five seconds; a lost knock costs
// knockAgain.
func (n *Node) meet(ctx context.Context, a netip.Addr) {
	ctx, cancel := context.WithTimeout(ctx, meetTime)
	defer cancel()
	relay, enough := context.WithTimeout(ctx, relayTime)
	_ = n.relay.wait(relay) // without the relay, a direct path may do
	enough()
	n.knock(ctx, a)
}

// knock asks a peer for a sign of life until it gives one.
func (n *Node) knock(ctx context.Context, a netip.Addr) bool {
	for ctx.Err() == nil {
		once, cancel := context.WithTimeout(ctx, knockAgain)
		r, err := n.lc.Ping(once, a, tailcfg.PingDisco)
		lost := once.Err() != nil
		cancel()
		switch {
		case err == nil && r.Err == "":
			return true
		case !lost:
			return false // it is no peer
		}
	}
	return false
}

// acquaintances are the peers that were reached since the map last changed.
type acquaintances struct {
	mu    sync.Mutex
	addrs map[netip.Addr]struct{}
}

func (m *acquaintances) has(a netip.Addr) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	_, ok := m.addrs[a]
	return ok
}

func (m *acquaintances) add(a netip.Addr) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.addrs == nil {
		m.addrs = map[netip.Addr]struct{}{}
	}
	m.addrs[a] = struct{}{}
}

func (m *acquaintances) reset() {
	m.mu.Lock()
	defer m.mu.Unlock()
	clear(m.addrs)
}

// ErrUnknownName says that the overlay has no such name for this node. Whether
// it exists for others is not known here.
var ErrUnknownName = errors.New("no such name on the overlay")

// Resolve gives the overlay addresses of a name, one for each node that has it,
// those that are online first.
func (n *Node) Resolve(ctx context.Context, host string) ([]netip.Addr, error) {
	if a, err := netip.ParseAddr(host); err == nil {
		a = a.Unmap()
		if !overlayAddr(a) {
			return nil, fmt.Errorf("%s is not an overlay address: %w", host, ErrUnknownName)
		}
		return []netip.Addr{a}, nil
	}
	names, err := n.names.load(func() (map[string][]netip.Addr, error) { return n.readNames(ctx) })
	if err != nil {
		return nil, err
	}
	addrs := names[canonical(host)]
	if len(addrs) == 0 {
		return nil, fmt.Errorf("resolving %s: %w", host, ErrUnknownName)
	}
	return slices.Clone(addrs), nil
}

// readNames collects the names of peers and the records of clusters.
func (n *Node) readNames(ctx context.Context) (map[string][]netip.Addr, error) {
	st, err := n.lc.Status(ctx)
	if err != nil {
		return nil, fmt.Errorf("reading the overlay's peers: %w", err)
	}
	dns, err := n.lc.DNSConfig(ctx)
	if err != nil {
		return nil, fmt.Errorf("reading the overlay's names: %w", err)
	}
	names := map[string][]netip.Addr{}
	online := map[netip.Addr]bool{}
	for _, p := range st.Peer {
		for _, a := range p.TailscaleIPs {
			online[a] = p.Online
		}
		name := canonical(p.DNSName)
		names[name] = append(names[name], p.TailscaleIPs...)
	}
	for _, r := range dns.ExtraRecords {
		a, err := netip.ParseAddr(r.Value)
		// tsnet dials an address that is no peer's on the host's own network.
		if _, peer := online[a]; err == nil && peer {
			name := canonical(r.Name)
			names[name] = append(names[name], a)
		}
	}
	for _, addrs := range names {
		// IPv4 before IPv6 keeps to one attempt for each node that is away.
		slices.SortStableFunc(addrs, func(a, b netip.Addr) int {
			if d := rank(online[a]) - rank(online[b]); d != 0 {
				return d
			}
			return rank(a.Is4()) - rank(b.Is4())
		})
	}
	return names, nil
}

func rank(first bool) int {
	if first {
		return 0
	}
	return 1
}

func canonical(name string) string { return strings.ToLower(strings.TrimSuffix(name, ".")) }

var overlayRanges = []netip.Prefix{
	netip.MustParsePrefix("100.64.0.0/10"),
	netip.MustParsePrefix("fd7a:115c:a1e0::/48"),
}

func overlayAddr(a netip.Addr) bool {
	return slices.ContainsFunc(overlayRanges, func(p netip.Prefix) bool { return p.Contains(a) })
}

// nameCache keeps the names between two changes of the network map.
type nameCache struct {
	mu         sync.Mutex
	watching   bool
	generation uint64
	names      map[string][]netip.Addr
}

func (c *nameCache) load(read func() (map[string][]netip.Addr, error)) (map[string][]netip.Addr, error) {
	c.mu.Lock()
	names, generation := c.names, c.generation
	c.mu.Unlock()
	if names != nil {
		return names, nil
	}
	names, err := read()
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.watching && c.generation == generation {
		c.names = names
	}
	return names, nil
}

func (c *nameCache) reset()   { c.clear(true) }
func (c *nameCache) disable() { c.clear(false) }

func (c *nameCache) clear(watching bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.watching = watching
	c.generation++
	c.names = nil
}
