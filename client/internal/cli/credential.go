package cli

import (
	"context"

	"github.com/urfave/cli/v2"

	"github.com/sallyport-mesh/sallyport/client/internal/credential"
	"github.com/sallyport-mesh/sallyport/client/internal/daemon"
	"github.com/sallyport-mesh/sallyport/client/internal/localapi"
	"github.com/sallyport-mesh/sallyport/pkg/process"
)

// credentialCommand is what kubectl runs.
func credentialCommand() *cli.Command {
	return verb(cli.Command{
		Name:   "credential",
		Hidden: true,
		Usage:  "answer kubectl (client.authentication.k8s.io/v1)",
		Flags:  []cli.Flag{&cli.StringFlag{Name: "cluster", Usage: "`NAME` of the cluster"}},
	}, 0, func(c *cli.Context, h *here) error {
		if c.String("cluster") == "" {
			return process.Usage("--cluster is missing")
		}
		return credential.Write(c.Context, credential.Config{
			Home: h.home, Daemon: h.daemon, Cluster: c.String("cluster"), Start: h.startWanted,
		}, h.out)
	})
}

// startWanted starts the daemon that `sallyport up` asked for and that is gone.
func (h *here) startWanted(ctx context.Context) error {
	w, err := daemon.AsWanted(h.home)
	if err != nil {
		return err
	}
	if w == nil || !h.home.Mine() {
		return localapi.ErrNotRunning
	}
	return h.ensure(ctx, *w)
}
