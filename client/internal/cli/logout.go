package cli

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"connectrpc.com/connect"
	"github.com/urfave/cli/v2"

	"github.com/sallyport-mesh/sallyport/client/internal/daemon"
	"github.com/sallyport-mesh/sallyport/client/internal/kubeconfig"
	"github.com/sallyport-mesh/sallyport/client/internal/localapi"
	apiv1 "github.com/sallyport-mesh/sallyport/pkg/api/sallyport/v1"
	"github.com/sallyport-mesh/sallyport/pkg/apiclient"
	"github.com/sallyport-mesh/sallyport/pkg/profile"
)

func logoutCommand() *cli.Command {
	return verb(cli.Command{
		Name:  "logout",
		Usage: "end the session here and at the coordinator",
		Description: "Ends the daemon, removes the certificate and the contexts. This device's own key stays for the next login.\n\n" +
			"Example: sallyport logout",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "kubeconfig", Usage: "remove contexts from `FILE` (default: the one that the daemon keeps)"},
		},
	}, 0, runLogout)
}

func runLogout(c *cli.Context, h *here) error {
	p, err := h.home.Load()
	if errors.Is(err, profile.ErrNotLoggedIn) || err == nil && p.Session == nil {
		h.say("You are not logged in on this device.")
		return nil
	}
	if err != nil {
		return err
	}
	path, err := h.kept(c)
	if err != nil {
		return err
	}
	// No kubectl starts the daemon from here on.
	if err := daemon.Unwant(h.home); err != nil {
		return err
	}
	// The coordinator first: what is gone here could not be used to tell it.
	told := h.tell(c.Context, p)

	if err := h.stop(c.Context); err != nil && !errors.Is(err, localapi.ErrNotRunning) {
		return err
	}
	if _, err := (kubeconfig.File{Path: path, Owner: h.home.Dir()}).Apply(c.Context, nil); err != nil {
		return err
	}
	ended := *p.Session
	err = h.home.Update(func(p *profile.Profile) bool {
		mine := p.Session != nil && p.Session.ID == ended.ID
		if mine {
			p.Session = nil
		}
		return mine
	})
	if err != nil {
		return err
	}
	if err := os.Remove(h.home.Path(daemon.ClustersFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("removing the list of clusters: %w", err)
	}
	if told != nil {
		return fmt.Errorf("logged out on this device, but the coordinator could not be told; there the session ends %s: %w", when(ended.Expires), told)
	}
	h.say("You are logged out.")
	return nil
}

// tell ends the session at the coordinator. One that is over already is fine.
func (h *here) tell(ctx context.Context, p *profile.Profile) error {
	if !time.Now().Before(p.Session.Expires) {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	client, err := apiclient.New(apiclient.Config{
		Link:        p.Link(),
		RootPEM:     p.Trust(),
		Certificate: func() (*tls.Certificate, error) { return h.home.Certificate(p.Session) },
		Agent:       "sallyport/" + h.version,
	})
	if err != nil {
		return err
	}
	defer client.Close()
	_, err = client.Session().Logout(ctx, connect.NewRequest(&apiv1.LogoutRequest{}))
	if apiclient.SessionOver(err) {
		return nil
	}
	return apiclient.Explain(client.URL, err)
}
