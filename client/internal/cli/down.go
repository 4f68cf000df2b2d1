package cli

import (
	"errors"

	"github.com/urfave/cli/v2"

	"github.com/sallyport-mesh/sallyport/client/internal/daemon"
	"github.com/sallyport-mesh/sallyport/client/internal/localapi"
)

func downCommand() *cli.Command {
	return verb(cli.Command{
		Name:  "down",
		Usage: "leave the overlay and end the daemon",
		Description: "You stay logged in, and your contexts stay in kubeconfig.\n\n" +
			"Example: sallyport down",
	}, 0, func(c *cli.Context, h *here) error {
		// First, so that no kubectl starts it again.
		if err := daemon.Unwant(h.home); err != nil {
			return err
		}
		err := h.stop(c.Context)
		if errors.Is(err, localapi.ErrNotRunning) {
			h.say("The daemon was not running.")
			return nil
		}
		if err != nil {
			return err
		}
		h.say("The daemon has ended.")
		return nil
	})
}
