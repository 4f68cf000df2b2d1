package proxy_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"
	"k8s.io/client-go/rest"

	"github.com/sallyport-mesh/sallyport/node-agent/internal/proxy"
	"github.com/sallyport-mesh/sallyport/node-agent/internal/serviceaccount"
	apiv1 "github.com/sallyport-mesh/sallyport/pkg/api/sallyport/v1"
	"github.com/sallyport-mesh/sallyport/pkg/audit"
	"github.com/sallyport-mesh/sallyport/pkg/identity"
	"github.com/sallyport-mesh/sallyport/pkg/policy"
)

const trustDomain = "mesh.test"

// authority issues certificates: of users, and of whatever a test needs to be wrong.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t testing.TB, name string) *authority {
	t.Helper()
	key := newKey(t)
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	must(t, err)
	cert, err := x509.ParseCertificate(der)
	must(t, err)
	return &authority{cert, key}
}

var serial atomic.Int64

func (a *authority) issue(t testing.TB, tmpl *x509.Certificate) tls.Certificate {
	t.Helper()
	key := newKey(t)
	tmpl.SerialNumber = big.NewInt(serial.Add(1) + 1000)
	if tmpl.NotAfter.IsZero() {
		tmpl.NotBefore, tmpl.NotAfter = time.Now().Add(-time.Minute), time.Now().Add(time.Hour)
	}
	tmpl.KeyUsage = x509.KeyUsageDigitalSignature
	der, err := x509.CreateCertificate(rand.Reader, tmpl, a.cert, &key.PublicKey, a.key)
	must(t, err)
	leaf, err := x509.ParseCertificate(der)
	must(t, err)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
}

// person is a user with a device, a session and an overlay address.
type person struct {
	identity.UserCert
	name string
	addr netip.Addr
	cert tls.Certificate
}

func (a *authority) userTemplate(t testing.TB, u identity.UserCert) *x509.Certificate {
	t.Helper()
	ext, err := u.SessionExtension()
	must(t, err)
	return &x509.Certificate{
		URIs: []*url.URL{u.URI()}, ExtraExtensions: []pkix.Extension{ext},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
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

// policies are the real policy with a freshness that tests decide.
type policies struct {
	w       *world
	current atomic.Pointer[policy.Policy]
	stale   atomic.Int32 // classes of this value and above are stale; 0 means none

	panicking atomic.Bool
	cas       atomic.Pointer[authority] // instead of the world's, when set
}

func (p *policies) Current() *policy.Policy {
	if p.panicking.Load() {
		panic("policy panics")
	}
	return p.current.Load()
}

func (p *policies) Fresh(c policy.Class) error {
	if s := p.stale.Load(); s != 0 && int32(c) >= s {
		return errors.New("last heard from the coordinator 10m0s ago")
	}
	return nil
}

func (p *policies) UserCAs() *x509.CertPool {
	users := p.w.users
	if other := p.cas.Load(); other != nil {
		users = other
	}
	pool := x509.NewCertPool()
	pool.AddCert(users.cert)
	return pool
}

// overlay is WhoIs.
type overlay struct {
	mu    sync.Mutex
	peers map[netip.Addr]proxy.Peer
	err   error
	panic bool
}

func (o *overlay) set(a netip.Addr, p proxy.Peer) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.peers[a] = p
}

func (o *overlay) fail(err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.err = err
}

func (o *overlay) setPanic() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.panic = true
}

func (o *overlay) identify(_ context.Context, remote netip.AddrPort) (proxy.Peer, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.panic {
		panic("whois panics")
	}
	if o.err != nil {
		return proxy.Peer{}, o.err
	}
	p, ok := o.peers[remote.Addr()]
	if !ok {
		return proxy.Peer{}, fmt.Errorf("no peer at %v", remote.Addr())
	}
	return p, nil
}

// memoryLog keeps records in memory.
type memoryLog struct {
	mu       sync.Mutex
	intents  []*audit.Event
	outcomes []*audit.Event
	intent   func(context.Context, *audit.Event) error // called first, when set
	next     proxy.Log                                 // the real one, in a real world
	discard  atomic.Bool
}

func (l *memoryLog) Intent(ctx context.Context, e *audit.Event) error {
	if l.discard.Load() {
		return nil
	}
	l.mu.Lock()
	hook := l.intent
	l.mu.Unlock()
	if hook != nil {
		if err := hook(ctx, e); err != nil {
			return err
		}
	}
	if l.next != nil {
		if err := l.next.Intent(ctx, e); err != nil {
			return err
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	c := *e
	l.intents = append(l.intents, &c)
	return nil
}

func (l *memoryLog) Outcome(e *audit.Event) {
	if l.next != nil {
		l.next.Outcome(e)
	}
	if l.discard.Load() {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	c := *e
	l.outcomes = append(l.outcomes, &c)
}

func (l *memoryLog) hook(f func(context.Context, *audit.Event) error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.intent = f
}

// outcome waits for the outcome of the nth request.
func (l *memoryLog) outcome(t testing.TB, n int) *audit.Event {
	t.Helper()
	var e *audit.Event
	eventually(t, fmt.Sprintf("outcome %d is recorded", n), func() bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		if len(l.outcomes) <= n {
			return false
		}
		e = l.outcomes[n]
		return true
	})
	return e
}

func (l *memoryLog) counts() (intents, outcomes int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.intents), len(l.outcomes)
}

// accounts mint a token that names its user.
type accounts struct {
	mu   sync.Mutex
	mint func(context.Context, policy.Subject, policy.Attributes) (proxy.Credential, error)
}

func (a *accounts) Token(ctx context.Context, s policy.Subject, at policy.Attributes) (proxy.Credential, error) {
	a.mu.Lock()
	hook := a.mint
	a.mu.Unlock()
	if hook != nil {
		return hook(ctx, s, at)
	}
	return proxy.Credential{Token: tokenOf(s.UserID), ID: "jti-" + s.UserID, Account: "system:serviceaccount:sallyport-users:sp-" + s.Name}, nil
}

func (a *accounts) hook(f func(context.Context, policy.Subject, policy.Attributes) (proxy.Credential, error)) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.mint = f
}

func tokenOf(userID string) string { return "token-of-" + userID }

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

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	return key
}
