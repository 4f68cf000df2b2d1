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
