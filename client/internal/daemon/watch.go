package daemon

import (
	"context"
	"crypto/tls"
	"strings"
	"time"

	"connectrpc.com/connect"

	"github.com/sallyport-mesh/sallyport/client/internal/kubeconfig"
	"github.com/sallyport-mesh/sallyport/client/internal/localapi"
	apiv1 "github.com/sallyport-mesh/sallyport/pkg/api/sallyport/v1"
	"github.com/sallyport-mesh/sallyport/pkg/apiclient"
	"github.com/sallyport-mesh/sallyport/pkg/identity"
	"github.com/sallyport-mesh/sallyport/pkg/profile"
)

// watch follows the coordinator's word on this session until it is over.
func (d *Daemon) watch(ctx context.Context, p *profile.Profile) error {
	client, err := apiclient.New(apiclient.Config{
		Link:        p.Link(),
		RootPEM:     p.Trust(),
		Certificate: func() (*tls.Certificate, error) { return d.cfg.Home.Certificate(p.Session) },
		Agent:       "sallyport/" + d.cfg.Version,
	})
	if err != nil {
		return err
	}
	defer client.Close()
	pause := backoff{min: 250 * time.Millisecond, max: 8 * time.Second}
	for {
		err := d.follow(ctx, p, client, pause.reset)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case apiclient.SessionOver(err):
			return apiclient.Explain(client.URL, err)
		}
		problem := "the coordinator closed the connection"
		if err != nil {
			problem = apiclient.Explain(client.URL, err).Error()
		}
		d.cfg.Log.Warn("coordinator not heard", "error", problem)
		d.state.set(func(s *state) {
			if s.connected {
				s.heard = time.Now()
			}
			s.connected, s.watch = false, problem
		})
		if err := pause.wait(ctx); err != nil {
			return err
		}
	}
}

func (d *Daemon) follow(ctx context.Context, p *profile.Profile, client *apiclient.Client, heard func()) error {
	stream, err := client.Session().Watch(ctx, connect.NewRequest(&apiv1.SessionWatchRequest{}))
	if err != nil {
		return err
	}
	defer func() { _ = stream.Close() }() // its error is stream.Err
	first := true
	for stream.Receive() {
		heard()
		if first {
			// The header left with the first message, so it is as old as that.
			off := skew(stream.ResponseHeader(), time.Now())
			d.state.set(func(s *state) { s.skew = off })
			first = false
		}
		d.apply(ctx, p, stream.Msg())
	}
	return stream.Err()
}

// apply makes kubeconfig and the state what the coordinator says.
func (d *Daemon) apply(ctx context.Context, p *profile.Profile, m *apiv1.SessionState) {
	var clusters []localapi.Cluster
	for _, c := range m.GetClusters() {
		// The coordinator is trusted with access, not with what stands in the
		// person's kubeconfig: only names of ours, only hosts on the overlay.
		if identity.CheckClusterName(c.GetName()) != nil || !strings.HasSuffix(c.GetServerName(), "."+p.OverlayDomain) {
			d.cfg.Log.Error("coordinator named a cluster that cannot be", "cluster", c.GetName(), "server", c.GetServerName())
			continue
		}
		cluster := localapi.Cluster{
			Name: c.GetName(), Project: c.GetProject(), Context: kubeconfig.Name(d.cfg.Home.Name(), c.GetName()),
			ServerName: c.GetServerName(), Namespace: c.GetNamespace(), Roles: c.GetRoles(), Online: c.GetOnline(),
		}
		clusters = append(clusters, cluster)
	}
	blocked, problem := d.keep(ctx, p, clusters)
	d.state.set(func(s *state) {
		s.connected, s.watch, s.context = true, "", problem
		s.revision, s.clusters, s.blocked = m.GetRevision(), clusters, blocked
		s.synced = true
	})
	if err := remember(d.cfg.Home, p, clusters); err != nil {
		d.cfg.Log.Warn("keeping the list of clusters", "error", err)
	}
}

// keep makes kubeconfig hold contexts for these clusters and no others of ours. It
// gives the names that somebody else holds, and what went wrong, for people.
func (d *Daemon) keep(ctx context.Context, p *profile.Profile, clusters []localapi.Cluster) (blocked []string, problem string) {
	var entries []kubeconfig.Entry
	for _, c := range clusters {
		entries = append(entries, entry(d.cfg.Home, d.cfg.Command, p, d.socks, c))
	}
	file := kubeconfig.File{Path: d.cfg.Kubeconfig, Owner: d.cfg.Home.Dir()}
	change, err := file.Apply(ctx, entries)
	if err != nil {
		problem = "kubeconfig: " + err.Error()
		d.cfg.Log.Error("keeping kubeconfig", "error", err)
	}
	if len(change.Added)+len(change.Removed)+len(change.Blocked) > 0 {
		d.cfg.Log.Info("kubeconfig changed", "added", change.Added, "removed", change.Removed, "blocked", change.Blocked)
	}
	return change.Blocked, problem
}
