package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/sallyport-mesh/sallyport/node-agent/internal/config"
	"github.com/sallyport-mesh/sallyport/node-agent/internal/enroll"
	"github.com/sallyport-mesh/sallyport/pkg/overlay"
	"github.com/sallyport-mesh/sallyport/pkg/pki"
	"github.com/sallyport-mesh/sallyport/pkg/process"
)

// whoWeAre loads the identity, or enrols at the first start.
func whoWeAre(ctx context.Context, cfg config.Config, dir *directory, c *cluster, version string, log *slog.Logger) (*enroll.Identity, error) {
	id, err := enroll.Load(dir.path, version)
	if err == nil {
		return id, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return nil, process.Hint(err, "to begin anew, move "+dir.path+" away and make another join token: sallyportctl cluster token CLUSTER")
	}
	token, id, err := enrol(ctx, cfg, dir, c, version)
	if err != nil {
		dir.abandon()
		return nil, err
	}
	log.Info("enrolled", "cluster", id.Enrolment().ClusterName, "agent", id.Enrolment().AgentID)
	if err := c.forgetJoinSecret(ctx, token); err != nil {
		log.Warn("the used join token could not be deleted", "error", err)
	}
	return id, nil
}

func enrol(ctx context.Context, cfg config.Config, dir *directory, c *cluster, version string) (token pki.JoinToken, id *enroll.Identity, err error) {
	if err := c.whoAmI(ctx); err != nil {
		return token, nil, err
	}
	uid, err := c.uid(ctx)
	if err != nil {
		return token, nil, err
	}
	if token, err = joinToken(ctx, cfg, c); err != nil {
		return token, nil, err
	}
	id, err = enroll.Enroll(ctx, enroll.Config{Dir: dir.path, Token: token, KubeSystemUID: uid, Version: version})
	return token, id, err
}

func joinToken(ctx context.Context, cfg config.Config, c *cluster) (pki.JoinToken, error) {
	text, from := cfg.JoinToken, "the join token"
	switch {
	case text != "":
	case cfg.JoinTokenFile != "":
		raw, err := os.ReadFile(cfg.JoinTokenFile)
		if err != nil {
			return pki.JoinToken{}, process.Hint(fmt.Errorf("reading join token: %w", err), "make one: sallyportctl cluster token CLUSTER")
		}
		text, from = strings.TrimSpace(string(raw)), cfg.JoinTokenFile
	default:
		var err error
		if text, err = c.joinSecret(ctx); err != nil {
			return pki.JoinToken{}, err
		}
		from = "the Secret with the join token"
	}
	token, err := pki.ParseJoinToken(text)
	if err != nil {
		return pki.JoinToken{}, process.Hint(fmt.Errorf("%s: %w", from, err), "make one: sallyportctl cluster token CLUSTER")
	}
	return token, nil
}

// sameCluster waits until the apiserver answers, and checks that it is the
// cluster that this agent is enrolled for and takes us for who we are. Nobody is
// lent anything before that, so a kubeconfig of another cluster is never served
// under this one's name.
func sameCluster(ctx context.Context, c *cluster, id *enroll.Identity, log *slog.Logger) error {
	for wait := time.Second; ; wait = min(2*wait, 30*time.Second) {
		err := c.whoAmI(ctx)
		var uid string
		if err == nil {
			uid, err = c.uid(ctx)
		}
		e := id.Enrolment()
		switch {
		case err == nil && uid == e.KubeSystemUID:
			return nil
		case err == nil:
			return process.Hint(fmt.Errorf("the apiserver at %s is of another cluster than %s, which this agent is enrolled for", c.rest.Host, e.ClusterName),
				"give this agent the kubeconfig of "+e.ClusterName+", or the other cluster an agent of its own")
		case errors.Is(err, errWrongAccount):
			return err
		}
		log.Warn("the apiserver does not answer; trying again", "error", err, "in", wait)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
		}
	}
}

// readyWait is how long the overlay may take before we ask whether it is our
// auth key that keeps us out.
const readyWait = 20 * time.Second

// joinOverlay waits until the node is on the overlay. An auth key works once and
// for minutes: where it is no good any more, a renewal brings another.
func joinOverlay(ctx context.Context, node *overlay.Node, id *enroll.Identity, log *slog.Logger) {
	wait := time.Second
	for {
		err := ready(ctx, node)
		if err == nil {
			status, err := node.Status(ctx)
			log.Info("on the overlay", "name", status.Name, "addresses", status.Addrs, "error", err)
			return
		}
		if ctx.Err() != nil {
			return
		}
		log.Warn("not on the overlay yet; trying again", "error", err, "in", wait)
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
		wait = min(2*wait, time.Minute)
		if status, err := node.Status(ctx); err == nil && status.State != "NeedsLogin" {
			continue // enrolled, and waiting for the coordinator
		}
		if err := id.Renew(ctx); err != nil {
			log.Warn("no new overlay auth key", "error", err)
			continue
		}
		bounded, cancel := context.WithTimeout(ctx, readyWait)
		if err := node.Reauth(bounded, id.Enrolment().AuthKey); err != nil {
			log.Warn("enrolling with the overlay again failed", "error", err)
		}
		cancel()
	}
}

func ready(ctx context.Context, node *overlay.Node) error {
	ctx, cancel := context.WithTimeout(ctx, readyWait)
	defer cancel()
	return node.Ready(ctx)
}
