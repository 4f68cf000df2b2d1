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
// kubectl waits for it on every call, so it reads two files, asks one question,
// and starts nothing.
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

// joining bounds how long a call waits for a daemon that has just been started.
const joining = 15 * time.Second

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

// Write writes the credential for a cluster to out.
func Write(ctx context.Context, home profile.Home, socket, cluster string, out io.Writer) error {
	p, err := home.LoadSession(time.Now())
	if err != nil {
		return err
	}
	if err := ask(ctx, localapi.NewClient(socket), cluster); err != nil {
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
func ask(ctx context.Context, daemon *localapi.Client, cluster string) error {
	a, err := daemon.Access(ctx, cluster)
	if err == nil && a.State == localapi.Joining && a.Problem == "" {
		waiting, cancel := context.WithTimeout(ctx, joining)
		_, err = daemon.Settled(waiting)
		cancel()
		if err == nil || ctx.Err() == nil {
			a, err = daemon.Access(ctx, cluster)
		}
	}
	switch {
	case errors.Is(err, localapi.ErrNotRunning):
		return process.Hint(err, "sallyport up")
	case err != nil:
		return err
	case a.State == localapi.Joined && !a.Open:
		// Nobody told this device whether there is such a cluster.
		return process.Hint(fmt.Errorf("no cluster %q is open to you", cluster), "sallyport status shows those that are")
	}
	return localapi.Status{State: a.State, Problem: a.Problem, Hint: a.Hint}.Err()
}
