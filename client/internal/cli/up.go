package cli

import (
	"context"
	"fmt"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/sallyport-mesh/sallyport/client/internal/daemon"
	"github.com/sallyport-mesh/sallyport/client/internal/kubeconfig"
	"github.com/sallyport-mesh/sallyport/client/internal/localapi"
	"github.com/sallyport-mesh/sallyport/pkg/process"
)

func upCommand() *cli.Command {
	return verb(cli.Command{
		Name:  "up",
		Usage: "join the overlay and keep kubeconfig right",
		Description: "Starts the daemon in the background and shows which clusters are open to you. After a reboot\n" +
			"the next kubectl starts it again, until sallyport down.\n\n" +
			"Example: sallyport up && kubectl --context sallyport/edge-1 get pods",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "kubeconfig", Usage: "keep contexts in `FILE` (default: the first of $KUBECONFIG, else ~/.kube/config)"},
			&cli.BoolFlag{Name: "foreground", Usage: "stay in this terminal"},
			&cli.BoolFlag{Name: "verbose", Usage: "log what the overlay does"},
			&cli.DurationFlag{Name: "timeout", Value: 30 * time.Second, Usage: "how long to wait until the overlay is joined"},
		},
	}, 0, runUp)
}

func runUp(c *cli.Context, h *here) error {
	if _, err := h.home.LoadSession(time.Now()); err != nil {
		return err
	}
	path, err := kubeconfig.DefaultPath(c.String("kubeconfig"))
	if err != nil {
		return err
	}
	if c.Bool("foreground") {
		return h.stay(c.Context, path, c.Bool("verbose"), nil)
	}
	ctx, cancel := context.WithTimeout(c.Context, c.Duration("timeout"))
	defer cancel()
	before, err := h.running(ctx)
	switch {
	case err != nil:
		return err
	case before != nil && c.IsSet("kubeconfig") && before.Kubeconfig != path:
		return process.Hint(fmt.Errorf("the daemon that is running keeps %s", before.Kubeconfig), "sallyport down, then up again")
	case before != nil:
		h.say("The daemon is running already (process %d).", before.PID)
		path = before.Kubeconfig
	}
	if err := h.ensure(ctx, daemon.Wanted{Kubeconfig: path, Verbose: c.Bool("verbose")}); err != nil {
		return err
	}
	st, err := h.settled(ctx)
	if err != nil {
		return err
	}
	h.welcome(st)
	return nil
}

// settled waits until the daemon has joined, and says why when it has not.
func (h *here) settled(ctx context.Context) (localapi.Status, error) {
	st, err := h.daemon.Settled(ctx)
	if err != nil && ctx.Err() != nil {
		look, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		st, err = h.daemon.Status(look)
	}
	if err == nil {
		err = st.Err()
	}
	return st, err
}

func (h *here) welcome(st localapi.Status) {
	h.say("You are %s, until %s.", st.UserName, when(st.Expires))
	if len(st.Clusters) == 0 {
		h.say("No cluster is open to you yet. When one is, it appears in %s by itself.", st.Kubeconfig)
		return
	}
	h.table(st.Clusters, "", true)
	h.say("\nIn %s. Try: kubectl --context %s get pods", st.Kubeconfig, st.Clusters[0].Context)
	h.problems(st)
}
