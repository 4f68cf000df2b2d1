package cli

import (
	"fmt"

	"github.com/urfave/cli/v2"

	"github.com/sallyport-mesh/sallyport/client/internal/daemon"
	"github.com/sallyport-mesh/sallyport/client/internal/kubeconfig"
)

func kubeconfigCommand() *cli.Command {
	file := &cli.StringFlag{Name: "kubeconfig", Usage: "`FILE` to work on (default: the first of $KUBECONFIG, else ~/.kube/config)"}
	return &cli.Command{
		Name:  "kubeconfig",
		Usage: "print, write or remove your contexts",
		Description: "The daemon does this by itself; these are for other files, and for repair.\n\n" +
			"Example: sallyport kubeconfig print > edge.yaml",
		HideHelpCommand: true,
		OnUsageError:    usage,
		Action:          unknown,
		Subcommands: []*cli.Command{
			verb(cli.Command{
				Name:        "print",
				Usage:       "print a kubeconfig with your contexts and nothing else",
				Description: "It holds the password of the daemon's proxy: keep it to yourself.\n\nExample: sallyport kubeconfig print > edge.yaml",
			}, 0, func(_ *cli.Context, h *here) error {
				entries, err := h.contexts()
				if err != nil {
					return err
				}
				out, err := kubeconfig.Render(entries, h.home.Dir())
				if err != nil {
					return err
				}
				_, err = h.out.Write(out)
				return err
			}),
			verb(cli.Command{
				Name:        "write",
				Usage:       "write your contexts into a kubeconfig",
				Description: "Example: sallyport kubeconfig write --kubeconfig ~/.kube/edge",
				Flags:       []cli.Flag{file},
			}, 0, func(c *cli.Context, h *here) error {
				entries, err := h.contexts()
				if err != nil {
					return err
				}
				return h.write(c, entries)
			}),
			verb(cli.Command{
				Name:        "remove",
				Usage:       "remove your contexts from a kubeconfig",
				Description: "Example: sallyport kubeconfig remove --kubeconfig ~/.kube/edge",
				Flags:       []cli.Flag{file},
			}, 0, func(c *cli.Context, h *here) error { return h.write(c, nil) }),
		},
	}
}

// kept is the kubeconfig that was named, else that which the daemon keeps.
func (h *here) kept(c *cli.Context) (string, error) {
	path := c.String("kubeconfig")
	if path == "" {
		if st, err := h.running(c.Context); err == nil && st != nil {
			path = st.Kubeconfig
		} else if w, err := daemon.AsWanted(h.home); err == nil && w != nil {
			path = w.Kubeconfig
		}
	}
	return kubeconfig.DefaultPath(path)
}

func (h *here) contexts() ([]kubeconfig.Entry, error) {
	program, err := self()
	if err != nil {
		return nil, err
	}
	return daemon.Contexts(h.home, program)
}

func (h *here) write(c *cli.Context, entries []kubeconfig.Entry) error {
	path, err := kubeconfig.DefaultPath(c.String("kubeconfig"))
	if err != nil {
		return err
	}
	change, err := kubeconfig.File{Path: path, Owner: h.home.Dir()}.Apply(c.Context, entries)
	if err != nil {
		return err
	}
	for _, n := range change.Added {
		h.say("added    %s", n)
	}
	for _, n := range change.Removed {
		h.say("removed  %s", n)
	}
	if len(change.Blocked) > 0 {
		return fmt.Errorf("%s holds entries of these names that are not ours: %v", path, change.Blocked)
	}
	return nil
}
