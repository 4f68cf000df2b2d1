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
		d.state.set(func(s *state) { s.connected, s.watch = false, problem })
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
	for stream.Receive() {
		heard()
		d.apply(ctx, p, stream.Msg())
	}
	return stream.Err()
}

// apply makes kubeconfig and the state what the coordinator says.
func (d *Daemon) apply(ctx context.Context, p *profile.Profile, m *apiv1.SessionState) {
	var clusters []localapi.Cluster
	var entries []kubeconfig.Entry
	for _, c := range m.GetClusters() {
		// The coordinator is trusted with access, not with what stands in the
		// person's kubeconfig: only names of ours, only hosts on the overlay.
		if identity.CheckClusterName(c.GetName()) != nil || !strings.HasSuffix(c.GetServerName(), "."+p.OverlayDomain) {
			d.cfg.Log.Error("coordinator named a cluster that cannot be", "cluster", c.GetName(), "server", c.GetServerName())
			continue
		}
		cluster := localapi.Cluster{
			Name: c.GetName(), Project: c.GetProject(), Context: kubeconfig.Prefix + c.GetName(),
			ServerName: c.GetServerName(), Namespace: c.GetNamespace(), Roles: c.GetRoles(), Online: c.GetOnline(),
		}
		clusters = append(clusters, cluster)
		entries = append(entries, entry(d.cfg.Home, d.cfg.Command, p, d.socks, cluster))
	}
	file := kubeconfig.File{Path: d.cfg.Kubeconfig, Owner: d.cfg.Home.Dir()}
	change, err := file.Apply(ctx, entries)
	problem := ""
	if err != nil {
		problem = "kubeconfig: " + err.Error()
		d.cfg.Log.Error("keeping kubeconfig", "error", err)
	}
	if len(change.Added)+len(change.Removed)+len(change.Blocked) > 0 {
		d.cfg.Log.Info("kubeconfig changed", "added", change.Added, "removed", change.Removed, "blocked", change.Blocked)
	}
	d.state.set(func(s *state) {
		s.connected, s.watch, s.context = true, "", problem
		s.revision, s.clusters, s.blocked = m.GetRevision(), clusters, change.Blocked
		s.synced = true
	})
	if err := remember(d.cfg.Home, p, clusters); err != nil {
		d.cfg.Log.Warn("keeping the list of clusters", "error", err)
	}
}
