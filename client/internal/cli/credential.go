package cli

import (
	"github.com/urfave/cli/v2"

	"github.com/sallyport-mesh/sallyport/client/internal/credential"
	"github.com/sallyport-mesh/sallyport/client/internal/daemon"
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
		return credential.Write(c.Context, h.home, h.home.Path(daemon.SocketFile), c.String("cluster"), h.out)
	})
}
