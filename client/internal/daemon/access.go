package daemon

import (
	"context"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/sallyport-mesh/sallyport/client/internal/localapi"
)

const (
	// reachTime is how long a kubectl waits for an agent that may just be
	// restarting, before it is told that none answers.
	reachTime = 5 * time.Second
	// knockTime is for one answer, through a relay far away too.
	knockTime = time.Second
)

// Access tells the credential plugin whether a cluster is open. One that the
// coordinator hears is taken to answer, which costs nothing. For another one it
// looks itself: the coordinator may be away, or be the one that is cut off.
func (d *Daemon) Access(ctx context.Context, cluster string) localapi.Access {
	var a localapi.Access
	var c localapi.Cluster
	var node Node
	var heard bool
	d.state.get(func(s *state) {
		a.State, a.Problem, a.Hint = s.stage()
		if i := slices.IndexFunc(s.clusters, func(c localapi.Cluster) bool { return c.Name == cluster }); i >= 0 {
			a.Open, c = true, s.clusters[i]
		}
		node, heard = s.online, s.connected
	})
	if a.State == localapi.Joined && a.Open && node != nil && !(heard && c.Online) {
		ctx, cancel := context.WithTimeout(ctx, reachTime)
		defer cancel()
		a.Silent = !d.answers(ctx, node, c)
	}
	return a
}

// answers waits until an agent of the cluster answers, or the coordinator hears
// one.
func (d *Daemon) answers(ctx context.Context, node Node, c localapi.Cluster) bool {
	for {
		var online bool
		changed := d.state.get(func(s *state) {
			online = s.connected && slices.ContainsFunc(s.clusters, func(now localapi.Cluster) bool { return now.Name == c.Name && now.Online })
		})
		if online || d.knock(ctx, node, c.ServerName) {
			return true
		}
		select {
		case <-changed:
		case <-time.After(knockTime / 4):
		case <-ctx.Done():
			return false
		}
	}
}

// knock reports whether one of the agents behind a name answers.
func (d *Daemon) knock(ctx context.Context, node Node, name string) bool {
	ctx, cancel := context.WithTimeout(ctx, knockTime)
	defer cancel()
	addrs, err := node.Resolve(ctx, name)
	if err != nil {
		return false
	}
	addrs = slices.DeleteFunc(addrs, func(a netip.Addr) bool { return !a.Is4() }) // one for each agent
	answered := make(chan struct{}, len(addrs))
	var all sync.WaitGroup
	for _, a := range addrs {
		all.Go(func() {
			if _, err := node.Ping(ctx, a); err == nil {
				answered <- struct{}{}
				cancel()
			}
		})
	}
	all.Wait()
	return len(answered) > 0
}
