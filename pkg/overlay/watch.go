package overlay

import (
	"context"
	"time"

	"tailscale.com/ipn"
)

// rewatch is how long a broken watch waits before it tries again. Nothing is
// cached meanwhile, so it only bounds the load of asking.
const rewatch = 200 * time.Millisecond

// watch forgets what the caches hold whenever the network map changes. While it
// is not watching, the caches hold nothing.
func (n *Node) watch(ctx context.Context) {
	defer close(n.done)
	for ctx.Err() == nil {
		n.follow(ctx)
		n.peers.disable()
		n.names.disable()
		select {
		case <-ctx.Done():
		case <-time.After(rewatch):
		}
	}
}

func (n *Node) follow(ctx context.Context) {
	const mask = ipn.NotifyInitialState | ipn.NotifyPeerChanges | ipn.NotifyPeerPatches
	w, err := n.lc.WatchIPNBus(ctx, mask)
	if err != nil {
		return
	}
	defer func() { _ = w.Close() }() // a watch has nothing to lose
	for {
		ev, err := w.Next()
		if err != nil {
			return
		}
		// Names are in the order of who is online, which any event may change.
		n.names.reset()
		// A patch changes how a peer is reached, not who it is. Anything else
		// empties the other caches, whether or not we know what it means.
		if len(ev.PeerChangedPatch) > 0 && len(ev.PeersChanged) == 0 && len(ev.PeersRemoved) == 0 && ev.SelfChange == nil && ev.State == nil {
			continue
		}
		n.peers.reset()
		n.met.reset()
	}
}
