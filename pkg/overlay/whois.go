package overlay

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"tailscale.com/client/local"
	"tailscale.com/tailcfg"

	"github.com/sallyport-mesh/sallyport/pkg/identity"
)

// Peer is who is behind an overlay address.
type Peer struct {
	// NodeKey is the peer's WireGuard key, as "nodekey:<hex>".
	NodeKey string
	// Name is its name on the overlay, without a trailing dot.
	Name string
	// DeviceID and UserID are the coordinator's claim about the device. Both
	// are always set: a peer without exactly one claim is an error.
	DeviceID string
	UserID   string
	// Addr is the overlay address that was asked about.
	Addr netip.Addr
}

// ErrUnknownPeer says that the address belongs to no device that may reach this
// node now.
var ErrUnknownPeer = errors.New("no device on the overlay has this address")

// WhoIs tells which device is behind the remote address of a connection that
// was accepted from the overlay. It costs about 150 µs the first time and
// nothing until the network map changes.
func (n *Node) WhoIs(ctx context.Context, remote netip.AddrPort) (Peer, error) {
	addr := remote.Addr().Unmap()
	p, generation, ok := n.peers.get(addr)
	if ok {
		return p, nil
	}
	// Asking by the address alone keeps the answer independent of the port, and
	// keeps tsnet from looking into its table of proxied local connections.
	who, err := n.lc.WhoIsProto(ctx, "tcp", netip.AddrPortFrom(addr, 0).String())
	switch {
	case errors.Is(err, local.ErrPeerNotFound):
		return Peer{}, ErrUnknownPeer
	case err != nil:
		return Peer{}, fmt.Errorf("asking who %v is: %w", addr, err)
	}
	claims, err := tailcfg.UnmarshalCapJSON[identity.DeviceClaim](who.CapMap, identity.DeviceCapability)
	if err != nil {
		return Peer{}, fmt.Errorf("reading the device claim of %v: %w", addr, err)
	}
	if len(claims) != 1 || claims[0].Device == "" || claims[0].User == "" {
		return Peer{}, ErrUnknownPeer
	}
	p = Peer{
		NodeKey:  who.Node.Key.String(),
		Name:     canonical(who.Node.Name),
		DeviceID: claims[0].Device,
		UserID:   claims[0].User,
		Addr:     addr,
	}
	n.peers.put(addr, p, generation)
	return p, nil
}

// peerCacheAge bounds how long an answer is kept in any case: the packet filter
// that carries the claims can change without a word on tsnet's bus.
const peerCacheAge = 5 * time.Second

// peerCache remembers answers between two changes of the network map. The
// generation that was current before a question was asked must still be current
// when the answer is put: an answer that a change overtook is not kept.
type peerCache struct {
	mu         sync.RWMutex
	watching   bool
	generation uint64
	peers      map[netip.Addr]cachedPeer
}

type cachedPeer struct {
	Peer
	until time.Time
}

func (c *peerCache) get(addr netip.Addr) (Peer, uint64, bool) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	p, ok := c.peers[addr]
	return p.Peer, c.generation, ok && time.Now().Before(p.until)
}

func (c *peerCache) put(addr netip.Addr, p Peer, generation uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.watching || c.generation != generation {
		return
	}
	if c.peers == nil {
		c.peers = map[netip.Addr]cachedPeer{}
	}
	c.peers[addr] = cachedPeer{p, time.Now().Add(peerCacheAge)}
}

func (c *peerCache) reset()   { c.clear(true) }
func (c *peerCache) disable() { c.clear(false) }

func (c *peerCache) clear(watching bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.watching = watching
	c.generation++
	c.peers = nil
}
