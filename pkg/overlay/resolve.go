package overlay

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
)

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
