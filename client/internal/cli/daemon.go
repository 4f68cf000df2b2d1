package cli

import (
	"context"
	"io"
	"log/slog"
	"os"

	"github.com/urfave/cli/v2"

	"github.com/sallyport-mesh/sallyport/client/internal/daemon"
	"github.com/sallyport-mesh/sallyport/client/internal/kubeconfig"
	"github.com/sallyport-mesh/sallyport/pkg/process"
)

// daemonCommand is what up starts in the background.
func daemonCommand() *cli.Command {
	return verb(cli.Command{
		Name:   "daemon",
		Hidden: true,
		Usage:  "stay and carry kubectl (started by sallyport up)",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "kubeconfig", Usage: "keep contexts in `FILE`"},
			&cli.BoolFlag{Name: "verbose"},
			&cli.BoolFlag{Name: "started", Usage: "tell the starter, on file descriptor 3, how it went"},
		},
	}, 0, func(c *cli.Context, h *here) error {
		path, err := kubeconfig.DefaultPath(c.String("kubeconfig"))
		if err != nil {
			return err
		}
		if !c.Bool("started") {
			return h.stay(c.Context, path, c.Bool("verbose"), nil)
		}
		starter := os.NewFile(3, "starter")
		told := false
		err = h.stay(c.Context, path, c.Bool("verbose"), func() {
			_, _ = io.WriteString(starter, listening) // a starter that is gone needs no answer
			starter.Close()
			told = true
		})
		if !told {
			process.Print(starter, err)
			starter.Close()
		}
		return err
	})
}

// stay is the daemon, in this process.
func (h *here) stay(ctx context.Context, kubeconfig string, verbose bool, onListening func()) error {
	program, err := self()
	if err != nil {
		return err
	}
	level := slog.LevelInfo
	if verbose {
		level = slog.LevelDebug
	}
	return daemon.Run(ctx, daemon.Config{
		Home:        h.home,
		Kubeconfig:  kubeconfig,
		Command:     program,
		Version:     h.version,
		Log:         slog.New(slog.NewTextHandler(h.err, &slog.HandlerOptions{Level: level})),
		OnListening: onListening,
	})
}
