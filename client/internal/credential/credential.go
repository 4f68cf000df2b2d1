// Package credential is the exec plugin that kubectl runs for each of our
// contexts (client.authentication.k8s.io/v1).
//
// It answers with the session's certificate and key, the same ones until the
// session ends: client-go drops every connection when a plugin answers with
// another certificate. Before that it asks the daemon, so that what stands in the
// way (no daemon, a session that is over, a cluster that is not open) is said in
// one sentence here rather than as a failed connection later. It decides nothing:
// the agent does, for each request.
//
// kubectl waits for it on every call, so on the usual day it reads two files and
// asks one question.
//
// Where the person has said `sallyport up` and the daemon is gone (a reboot, a
// crash), it starts that daemon again and waits for it, once for all kubectls that
// ask at the same time. This gives nobody anything: it is the same program with
// the same home that the person started before, it runs as the person, whoever
// could make kubectl run the plugin could run the daemon, and neither has any power
// without the session that the agent looks at. It never does so after `sallyport
// down` or a logout, without a session that is still valid, or in a home of
// another user (kubectl under sudo).
package credential

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/sallyport-mesh/sallyport/client/internal/localapi"
	"github.com/sallyport-mesh/sallyport/pkg/process"
	"github.com/sallyport-mesh/sallyport/pkg/profile"
)

const (
	// joining bounds how long a call waits for a daemon that has just been started.
	joining = 15 * time.Second
	// troubled bounds it where something is in the way: the coordinator is away,
	// say, and the daemon is about to go without.
	troubled = 3 * time.Second
)

// execCredential is client.authentication.k8s.io/v1 ExecCredential, as far as it
// is used; client-go's own type would bring its whole API machinery along.
type execCredential struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	Status     status `json:"status"`
}

type status struct {
	ExpirationTimestamp   time.Time `json:"expirationTimestamp"`
	ClientCertificateData string    `json:"clientCertificateData"`
	ClientKeyData         string    `json:"clientKeyData"`
}

// Config says whose credential is asked for.
type Config struct {
	Home    profile.Home
	Daemon  *localapi.Client
	Cluster string
	// Start starts a daemon that is wanted and gone, and returns when it answers.
	// localapi.ErrNotRunning says that none is wanted.
	Start func(context.Context) error
}

// Write writes the credential for a cluster to out.
func Write(ctx context.Context, cfg Config, out io.Writer) error {
	home := cfg.Home
	p, err := home.LoadSession(time.Now())
	if err != nil {
		return err
	}
	err = ask(ctx, cfg)
	if errors.Is(err, localapi.ErrNotRunning) {
		starting, cancel := context.WithTimeout(ctx, joining)
		err = cfg.Start(starting)
		cancel()
		if err == nil {
			err = ask(ctx, cfg)
		}
	}
	if errors.Is(err, localapi.ErrNotRunning) {
		return process.Hint(err, "sallyport up")
	}
	if err != nil {
		return err
	}
	cert, err := home.Certificate(p.Session)
	if err != nil {
		return err
	}
	der, err := x509.MarshalPKCS8PrivateKey(cert.PrivateKey)
	if err != nil {
		return fmt.Errorf("encoding the device key: %w", err)
	}
	err = json.NewEncoder(out).Encode(execCredential{
		APIVersion: "client.authentication.k8s.io/v1",
		Kind:       "ExecCredential",
		Status: status{
			ExpirationTimestamp:   p.Session.Expires.UTC().Truncate(time.Second),
			ClientCertificateData: p.Session.ChainPEM,
			ClientKeyData:         string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})),
		},
	})
	if err != nil {
		return fmt.Errorf("answering kubectl: %w", err)
	}
	return nil
}

// ask asks the daemon whether a request to the cluster has a chance.
func ask(ctx context.Context, cfg Config) error {
	a, err := cfg.Daemon.Access(ctx, cfg.Cluster)
	if err == nil && a.State == localapi.Joining {
		patience := joining
		if a.Problem != "" {
			patience = troubled
		}
		waiting, cancel := context.WithTimeout(ctx, patience)
		_, err = cfg.Daemon.Settled(waiting)
		cancel()
		if err == nil || ctx.Err() == nil {
			a, err = cfg.Daemon.Access(ctx, cfg.Cluster)
		}
	}
	switch {
	case err != nil:
		return err
	case a.State == localapi.Joined && !a.Open:
		// Nobody told this device whether there is such a cluster.
		return process.Hint(fmt.Errorf("no cluster %q is open to you", cfg.Cluster), "sallyport clusters shows those that are")
	case a.State == localapi.Joined && a.Silent && a.Problem != "":
		return process.Hint(fmt.Errorf("no agent of %s answers, and the coordinator, whose relay may be what is missing, is not heard: %s", cfg.Cluster, a.Problem), "sallyport status")
	case a.State == localapi.Joined && a.Silent:
		return process.Hint(fmt.Errorf("no agent of %s answers: it is offline", cfg.Cluster), "sallyport status shows when it is back; ask who runs the cluster")
	}
	return localapi.Status{State: a.State, Problem: a.Problem, Hint: a.Hint}.Err()
}
