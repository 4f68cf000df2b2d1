package cli

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/sallyport-mesh/sallyport/client/internal/daemon"
	"github.com/sallyport-mesh/sallyport/client/internal/localapi"
	"github.com/sallyport-mesh/sallyport/client/internal/login"
	"github.com/sallyport-mesh/sallyport/pkg/pki"
	"github.com/sallyport-mesh/sallyport/pkg/process"
	"github.com/sallyport-mesh/sallyport/pkg/profile"
)

func loginCommand() *cli.Command {
	return verb(cli.Command{
		Name:      "login",
		Usage:     "log in with your browser, here or elsewhere",
		ArgsUsage: "[login URL]",
		Description: "The login URL is the one you were given; without one, the coordinator of the last login is asked. " +
			"On a machine without a display you get a code to approve in a browser elsewhere.\n\n" +
			"Example: sallyport login https://sallyport.example.com:8443",
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "no-browser", Usage: "show a code to approve in a browser on any machine"},
			&cli.BoolFlag{Name: "print-url", Usage: "print the address to open in a browser on this machine, and open nothing"},
			&cli.BoolFlag{Name: "new-device", Usage: "forget this device's key and log in as a new device (after it was revoked)"},
			&cli.DurationFlag{Name: "timeout", Value: 5 * time.Minute, Usage: "how long to wait for you"},
		},
	}, 1, runLogin)
}

func runLogin(c *cli.Context, h *here) error {
	link, err := linkFor(h.home, c.Args().First())
	if err != nil {
		return err
	}
	if c.Bool("new-device") {
		if err := h.home.Renounce(); err != nil {
			return err
		}
	}
	cfg := login.Config{
		Home: h.home, Link: link, Open: login.Browser, Terminal: h.err,
		Timeout: c.Duration("timeout"), Version: h.version,
	}
	switch {
	case c.Bool("print-url"):
		cfg.Open = nil
	case c.Bool("no-browser") || !login.HasDisplay():
		cfg.Code = true
	}
	p, err := login.Run(c.Context, cfg)
	if err != nil {
		return err
	}
	h.say("Logged in to %s as %s, until %s.", p.Link().URL, p.Session.UserName, when(p.Session.Expires))
	return h.wake(c.Context)
}

// linkFor is the coordinator that was named, or that of the last login.
func linkFor(home profile.Home, arg string) (pki.Link, error) {
	if arg != "" {
		link, err := pki.ParseLink(arg)
		if err != nil {
			return pki.Link{}, process.Hint(process.WithExitCode(err, process.Misused),
				"sallyport login https://sallyport.example.com:8443")
		}
		return link, nil
	}
	p, err := home.Load()
	if err != nil {
		return pki.Link{}, err
	}
	return p.Link(), nil
}

// wake tells a running daemon of the new session. One that cannot take it up,
// since it is on another coordinator's overlay, is replaced.
func (h *here) wake(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	before, err := h.daemon.Status(ctx)
	if errors.Is(err, localapi.ErrNotRunning) {
		if w, err := daemon.AsWanted(h.home); err == nil && w != nil {
			return h.ensure(ctx, *w)
		}
		h.say("Next: %s", h.command("sallyport up"))
		return nil
	}
	if err == nil && h.daemon.Reload(ctx) == nil {
		return nil
	}
	if err := h.stop(ctx); err != nil {
		return fmt.Errorf("the daemon did not take up the session: %w", err)
	}
	return h.start(ctx, before.Kubeconfig, false)
}

// when is a time as people say it.
func when(t time.Time) string {
	left := time.Until(t).Round(time.Minute)
	local := t.Local().Format("Mon 15:04")
	switch {
	case left <= 0:
		return local
	case left < time.Hour:
		return fmt.Sprintf("%s (%d minutes)", local, int(left.Minutes()))
	}
	return fmt.Sprintf("%s (%dh%02dm)", local, int(left.Hours()), int(left.Minutes())%60)
}
