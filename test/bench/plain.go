package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"connectrpc.com/connect"
	"github.com/google/uuid"
	"github.com/urfave/cli/v2"
	"google.golang.org/protobuf/types/known/timestamppb"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	apiv1 "github.com/sallyport-mesh/sallyport/pkg/api/sallyport/v1"
	"github.com/sallyport-mesh/sallyport/pkg/apiclient"
	"github.com/sallyport-mesh/sallyport/pkg/audit"
	"github.com/sallyport-mesh/sallyport/pkg/overlay"
	"github.com/sallyport-mesh/sallyport/pkg/pki"
	"github.com/sallyport-mesh/sallyport/pkg/policy"
)

// plain is the node to compare with: enrolled and joined like an agent, with
// TLS and client certificates, and a reverse proxy from the standard library
// that forwards everything as the cluster's administrator. It decides nothing
// and records nothing.
func plain(c *cli.Context) error {
	conf, err := clientcmd.BuildConfigFromFlags("", c.String("kubeconfig"))
	if err != nil {
		return err
	}
	me, err := enrol(c.Context, c.String("dir"), c.String("join-token-file"))
	if err != nil {
		return err
	}
	node, err := overlay.Join(c.Context, overlay.Config{
		Dir: filepath.Join(c.String("dir"), "tsnet"), Hostname: "plain", ControlURL: me.ControlUrl, RootPEM: []byte(me.RootPem), AuthKey: me.AuthKey,
	})
	if err != nil {
		return err
	}
	defer func() { _ = node.Close() }()
	ln, err := node.Listen(":443")
	if err != nil {
		return err
	}
	users, err := follow(c.Context, me)
	if err != nil {
		return err
	}
	upstream, err := url.Parse(conf.Host)
	if err != nil {
		return err
	}
	tc, err := rest.TLSConfigFor(conf)
	if err != nil {
		return err
	}
	proxy := httputil.NewSingleHostReverseProxy(upstream)
	proxy.Transport = &http.Transport{TLSClientConfig: tc, ForceAttemptHTTP2: true, MaxIdleConnsPerHost: 64}
	serving, err := pki.Certificate([]byte(me.ServingChainPem), me.key)
	if err != nil {
		return err
	}
	server := &http.Server{Handler: proxy, TLSConfig: &tls.Config{
		MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{serving},
		ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: users,
	}}
	return server.ServeTLS(ln, "", "")
}

type identity struct {
	*apiv1.EnrollAgentResponse
	*enrolled
}

type enrolled struct {
	key  *ecdsa.PrivateKey
	link pki.Link
}

func enrol(ctx context.Context, dir, tokenFile string) (identity, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return identity{}, err
	}
	raw, err := os.ReadFile(tokenFile)
	if err != nil {
		return identity{}, err
	}
	token, err := pki.ParseJoinToken(strings.TrimSpace(string(raw)))
	if err != nil {
		return identity{}, err
	}
	key, err := pki.GenerateKey()
	if err != nil {
		return identity{}, err
	}
	csr, err := pki.NewCSR(key)
	if err != nil {
		return identity{}, err
	}
	_, vkey, err := audit.NewKey("plain")
	if err != nil {
		return identity{}, err
	}
	client, err := apiclient.New(apiclient.Config{Link: token.Link})
	if err != nil {
		return identity{}, err
	}
	defer client.Close()
	res, err := client.Enroll().EnrollAgent(ctx, connect.NewRequest(&apiv1.EnrollAgentRequest{
		JoinToken: token.Secret, Csr: csr, KubeSystemUid: uuid.NewString(), Version: "bench", CheckpointVkey: vkey,
	}))
	if err != nil {
		return identity{}, err
	}
	return identity{res.Msg, &enrolled{key, token.Link}}, nil
}

// follow confirms every bundle, without which nobody would be let through to
// this node, and answers with the authority that issues users' certificates.
func follow(ctx context.Context, me identity) (*x509.CertPool, error) {
	cert, err := pki.Certificate([]byte(me.AgentChainPem), me.key)
	if err != nil {
		return nil, err
	}
	client, err := apiclient.New(apiclient.Config{
		Link: me.link, RootPEM: []byte(me.RootPem), Certificate: func() (*tls.Certificate, error) { return &cert, nil },
	})
	if err != nil {
		return nil, err
	}
	stream, err := client.Agent().Watch(ctx, connect.NewRequest(&apiv1.AgentWatchRequest{Version: "bench", Features: policy.Features}))
	if err != nil {
		return nil, err
	}
	users := make(chan *x509.CertPool, 1)
	go func() {
		for stream.Receive() {
			bundle := stream.Msg().GetBundle()
			if bundle == nil {
				continue
			}
			b, err := policy.ParseBundle(bundle.Payload)
			if err != nil {
				continue
			}
			now := timestamppb.Now()
			if _, err := client.Agent().Confirm(ctx, connect.NewRequest(&apiv1.ConfirmRequest{Revision: b.Revision, ReceivedAt: now, CutAt: now, CleanAt: now})); err != nil {
				continue
			}
			pool := x509.NewCertPool()
			for _, der := range b.UserCa {
				if ca, err := x509.ParseCertificate(der); err == nil {
					pool.AddCert(ca)
				}
			}
			select {
			case users <- pool:
			default:
			}
		}
		close(users)
	}()
	select {
	case pool := <-users:
		if pool == nil {
			return nil, errors.Join(errors.New("the coordinator sent no policy"), stream.Err())
		}
		return pool, nil
	case <-time.After(20 * time.Second):
		return nil, fmt.Errorf("the coordinator sent no policy in time")
	}
}
