package proxy_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"
	"k8s.io/client-go/rest"

	"github.com/sallyport-mesh/sallyport/node-agent/internal/proxy"
	"github.com/sallyport-mesh/sallyport/node-agent/internal/serviceaccount"
	apiv1 "github.com/sallyport-mesh/sallyport/pkg/api/sallyport/v1"
	"github.com/sallyport-mesh/sallyport/pkg/identity"
	"github.com/sallyport-mesh/sallyport/pkg/policy"
)

const trustDomain = "mesh.test"

// person is a user with a device, a session and an overlay address.
type person struct {
	identity.UserCert
	name string
	addr netip.Addr
	cert tls.Certificate
}

// world is a proxy with everything around it: the policy is real, the rest is
// in memory and can be made to fail.
type world struct {
	t        testing.TB
	users    *authority
	server   *authority
	upstream *recorder
	overlay  *overlay
	policies *policies
	log      *memoryLog
	accounts *accounts
	proxy    *proxy.Proxy
	addr     string
	clock    atomic.Pointer[func() time.Time]
	minter   *serviceaccount.Minter // in a real world

	mu     sync.Mutex
	bundle *apiv1.Bundle
	hosts  byte
}

type option func(*proxy.Config)

func newWorld(t testing.TB, opts ...option) *world {
	t.Helper()
	w := &world{}
	startWorld(t, w, opts...)
	return w
}

func startWorld(t testing.TB, w *world, opts ...option) {
	t.Helper()
	w.t, w.users, w.server = t, newAuthority(t, "users"), newAuthority(t, "servers")
	w.overlay, w.log, w.accounts = &overlay{peers: map[netip.Addr]proxy.Peer{}}, &memoryLog{}, &accounts{}
	w.bundle = &apiv1.Bundle{
		ClusterId: identity.NewID(identity.Cluster), ClusterName: "edge-1", Revision: 1, TrustDomain: trustDomain,
		IssuedAt: timestamppb.Now(), Roles: policy.Builtin(),
	}
	now := time.Now
	w.clock.Store(&now)
	w.policies = &policies{w: w}
	w.upstream = newRecorder(t)
	w.publish(nil)
	serving := w.server.issue(t, &x509.Certificate{
		DNSNames: []string{"edge-1.mesh.test"}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	})
	cfg := proxy.Config{
		TrustDomain: trustDomain, ClusterName: "edge-1",
		Identify: w.overlay.identify, Policies: w.policies, Log: w.log, Accounts: w.accounts,
		Upstream:    w.upstream.restConfig(),
		ServingCert: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return &serving, nil },
		Now:         func() time.Time { return (*w.clock.Load())() },
		Logger:      slog.New(slog.NewTextHandler(io.Discard, nil)),
	}
	for _, o := range opts {
		o(&cfg)
	}
	ctx, cancel := context.WithCancel(context.Background())
	p, err := proxy.New(ctx, cfg)
	must(t, err)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	served := make(chan error, 1)
	go func() { served <- p.Serve(l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-served; !errors.Is(err, http.ErrServerClosed) && !errors.Is(err, net.ErrClosed) {
			t.Errorf("Serve ended with %v", err)
		}
	})
	w.proxy, w.addr = p, l.Addr().String()
}

// person makes a user with a role on the whole cluster ("" for none), a device
// of his at a loopback address of its own, and a session.
func (w *world) person(name, role string, namespaces ...string) *person {
	w.t.Helper()
	u := identity.UserCert{
		TrustDomain: trustDomain, UserID: identity.NewID(identity.User), DeviceID: identity.NewID(identity.Device),
		SessionID: identity.NewID(identity.Session), Generation: 1,
	}
	w.mu.Lock()
	w.hosts++
	addr := netip.AddrFrom4([4]byte{127, 0, 1, w.hosts})
	w.mu.Unlock()
	w.overlay.set(addr, proxy.Peer{DeviceID: u.DeviceID, UserID: u.UserID})
	w.publish(func(b *apiv1.Bundle) {
		b.Subjects = append(b.Subjects, &apiv1.BundleSubject{UserId: u.UserID, Name: name, AuthGeneration: 1})
		if role != "" {
			b.Grants = append(b.Grants, &apiv1.BundleGrant{
				Id: identity.NewID(identity.Grant), UserId: u.UserID, Role: role, Namespaces: namespaces,
			})
		}
	})
	return &person{UserCert: u, name: name, addr: addr, cert: w.users.issue(w.t, w.users.userTemplate(w.t, u))}
}

// anywhere makes the person's device the one at 127.0.0.1, for the parts of
// client-go that dial by themselves.
func (w *world) anywhere(p *person) *person {
	p.addr = netip.AddrFrom4([4]byte{127, 0, 0, 1})
	w.overlay.set(p.addr, proxy.Peer{DeviceID: p.DeviceID, UserID: p.UserID})
	return p
}

// publish changes the bundle and puts the new policy in force, without Cut.
func (w *world) publish(change func(*apiv1.Bundle)) *policy.Policy {
	w.t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	next := cloneBundle(w.bundle)
	if change != nil {
		change(next)
	}
	next.Revision++
	next.Requires = policy.Requires(next)
	pol, err := policy.Compile(next, policy.WithClock(func() time.Time { return (*w.clock.Load())() }))
	must(w.t, err)
	w.bundle = next
	w.policies.current.Store(pol)
	return pol
}

// suspend is what the coordinator does to a user who must be out now.
func suspend(p *person) func(*apiv1.Bundle) {
	return func(b *apiv1.Bundle) {
		for i, s := range b.Subjects {
			if s.UserId == p.UserID {
				b.Subjects = append(b.Subjects[:i], b.Subjects[i+1:]...)
				break
			}
		}
		kept := b.Grants[:0]
		for _, g := range b.Grants {
			if g.UserId != p.UserID {
				kept = append(kept, g)
			}
		}
		b.Grants = kept
	}
}

// restConfig is the way of a client to the proxy, from the person's device.
func (w *world) restConfig(p *person) *rest.Config {
	chain, key := pemOf(w.t, p.cert)
	return &rest.Config{
		Host: "https://" + w.addr,
		TLSClientConfig: rest.TLSClientConfig{
			ServerName: "edge-1.mesh.test", CAData: pemCert(w.server.cert), CertData: chain, KeyData: key,
		},
		Dial: dialer(p).DialContext,
	}
}

func dialer(p *person) *net.Dialer {
	return &net.Dialer{LocalAddr: &net.TCPAddr{IP: p.addr.AsSlice()}, Timeout: 5 * time.Second}
}

func (w *world) tlsConfig(p *person, protos ...string) *tls.Config {
	roots := x509.NewCertPool()
	roots.AddCert(w.server.cert)
	return &tls.Config{
		RootCAs: roots, ServerName: "edge-1.mesh.test", NextProtos: protos,
		Certificates: []tls.Certificate{p.cert},
	}
}

// client is an HTTP client on the person's device. proto is "h1" or "h2".
func (w *world) client(p *person, proto string) *http.Client {
	tr := &http.Transport{DialContext: dialer(p).DialContext, DisableCompression: true}
	if proto == "h2" {
		tr.ForceAttemptHTTP2 = true
		tr.TLSClientConfig = w.tlsConfig(p, "h2", "http/1.1")
	} else {
		tr.TLSClientConfig = w.tlsConfig(p, "http/1.1")
	}
	w.t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: 20 * time.Second}
}

func (w *world) url(path string) string { return "https://" + w.addr + path }
