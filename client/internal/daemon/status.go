package daemon

import (
	"context"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sallyport-mesh/sallyport/client/internal/localapi"
	"github.com/sallyport-mesh/sallyport/pkg/overlay"
	"github.com/sallyport-mesh/sallyport/pkg/process"
)

// pingTimeout bounds how long a status waits for a path's latency.
const pingTimeout = 800 * time.Millisecond

// Settled waits until the device is on the overlay and the coordinator was heard,
// or is away and it goes without, or the session is over.
func (d *Daemon) Settled(ctx context.Context) localapi.Status {
	for {
		var settled bool
		changed := d.state.get(func(s *state) {
			settled = s.ended != nil || s.online != nil && (s.synced || s.watch != "" && len(s.clusters) > 0)
		})
		if settled {
			return d.Status(ctx)
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return d.Status(ctx)
		}
	}
}

// Status tells what the daemon is doing.
func (d *Daemon) Status(ctx context.Context) localapi.Status {
	var st localapi.Status
	var node Node
	d.state.get(func(s *state) {
		st.State, st.Problem, st.Hint = s.stage()
		st.Warnings = s.warnings(time.Now())
		st.Connected, st.Revision = s.connected, s.revision
		st.Clusters, st.Blocked = append([]localapi.Cluster{}, s.clusters...), s.blocked // [] in JSON, not null
		st.Coordinator = s.profile.Link().URL
		if session := s.profile.Session; session != nil {
			st.UserName, st.UserID = session.UserName, session.UserID
			st.DeviceID, st.SessionID, st.Expires = session.DeviceID, session.ID, session.Expires
		}
		node = s.online
	})
	st.PID, st.Version, st.Kubeconfig = os.Getpid(), d.cfg.Version, d.cfg.Kubeconfig
	if node != nil {
		addPaths(ctx, &st, node)
	}
	return st
}

// stage is the state in one word, what is wrong, for people, and what to do.
func (s *state) stage() (localapi.State, string, string) {
	if s.ended != nil {
		return localapi.Ended, s.ended.Error(), append(process.Hints(s.ended), "sallyport login")[0]
	}
	problems := slices.DeleteFunc([]string{s.overlay, s.watch, s.context}, func(p string) bool { return p == "" })
	if s.online == nil || !s.synced && len(s.clusters) == 0 {
		return localapi.Joining, strings.Join(problems, "; "), ""
	}
	return localapi.Joined, strings.Join(problems, "; "), ""
}

// addPaths asks for each cluster's agents how packets reach them, all at once.
func addPaths(ctx context.Context, st *localapi.Status, node Node) {
	overlayStatus, err := node.Status(ctx)
	if err != nil {
		return
	}
	for _, a := range overlayStatus.Addrs {
		st.Addresses = append(st.Addresses, a.String())
	}
	var wg sync.WaitGroup
	for i := range st.Clusters {
		wg.Go(func() { st.Clusters[i].Paths = paths(ctx, node, overlayStatus, st.Clusters[i].ServerName) })
	}
	wg.Wait()
}

func paths(ctx context.Context, node Node, st overlay.Status, name string) []localapi.Path {
	ctx, cancel := context.WithTimeout(ctx, pingTimeout)
	defer cancel()
	addrs, err := node.Resolve(ctx, name)
	if err != nil {
		return nil
	}
	addrs = slices.DeleteFunc(addrs, func(a netip.Addr) bool { return !a.Is4() }) // one for each agent
	out := make([]localapi.Path, len(addrs))
	var wg sync.WaitGroup
	for i, a := range addrs {
		out[i] = localapi.Path{Address: a.String(), Kind: string(overlay.Idle)}
		for _, p := range st.Peers {
			if slices.Contains(p.Addrs, a) {
				out[i].Kind = string(p.Path)
			}
		}
		wg.Go(func() {
			pong, err := node.Ping(ctx, a)
			if err != nil {
				out[i].Silent = true
				return
			}
			out[i].Kind, out[i].Endpoint, out[i].Latency = string(pong.Path), pong.Endpoint, pong.Latency
		})
	}
	wg.Wait()
	return out
}
