// Package clienttest is a coordinator for the client's tests: real TLS, a real
// certificate authority, a real (if tiny) OpenID provider and the real service
// definitions, in this process and scripted by the test.
package clienttest

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/timestamppb"

	apiv1 "github.com/sallyport-mesh/sallyport/pkg/api/sallyport/v1"
	"github.com/sallyport-mesh/sallyport/pkg/api/sallyport/v1/apiv1connect"
	"github.com/sallyport-mesh/sallyport/pkg/identity"
	"github.com/sallyport-mesh/sallyport/pkg/pki"
)

// Names that the coordinator uses.
const (
	TrustDomain   = "sallyport.test"
	OverlayDomain = "sallyport.internal"
	ClientID      = "sallyport-cli"
)

// Coordinator is one at work. Its fields say how it behaves; they are changed
// with Set.
type Coordinator struct {
	apiv1connect.UnimplementedEnrollServiceHandler
	apiv1connect.UnimplementedSessionServiceHandler

	Link    pki.Link
	RootPEM string

	mu      sync.Mutex
	b       Behaviour
	changed chan struct{}
	codes   map[string]grant
	tokens  map[string]bool
	devices map[string]string // by user and key
	over    map[string]string // sessions that ended, and why
	logouts []string
	enrols  int

	away atomic.Bool

	root   issuer
	signer *ecdsa.PrivateKey
	server *httptest.Server
}

// Behaviour is what a test decides about.
type Behaviour struct {
	UserID, UserName string
	Session          time.Duration
	Clusters         []*apiv1.ReachableCluster
	// Refuse makes the authorization end in this OAuth error.
	Refuse, RefuseBecause string
	// Code is what a device that waits for an approval hears, in this order, and
	// then its token: OAuth errors, or "away" for no answer that it can read.
	Code []string
	// EnrollError is what EnrollDevice answers.
	EnrollError error
	// Nonce and Issuer, where set, are lies in the id token and in Discover.
	Nonce, Issuer string
	// Clock is how far the coordinator's clock is ahead of this machine's.
	Clock time.Duration
	// OtherKey issues the certificate for a key of somebody else.
	OtherKey bool
}

type issuer struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// Start starts a coordinator on loopback with a root of its own.
func Start(t testing.TB) *Coordinator {
	t.Helper()
	c := &Coordinator{
		b:       Behaviour{UserID: identity.NewID(identity.User), UserName: "shivam", Session: time.Hour},
		changed: make(chan struct{}),
		codes:   map[string]grant{},
		tokens:  map[string]bool{},
		devices: map[string]string{},
		over:    map[string]string{},
		root:    newCA(t, nil),
		signer:  newKey(t),
	}
	c.RootPEM = string(pki.EncodeChain(c.root.cert))

	mux := http.NewServeMux()
	mux.Handle(apiv1connect.NewEnrollServiceHandler(c))
	mux.Handle(apiv1connect.NewSessionServiceHandler(c))
	c.provide(mux)
	c.server = c.serve(t, mux)
	c.Link = pki.Link{URL: c.server.URL, Pin: pki.Pin(c.root.cert)}
	return c
}

// Beside serves something else under the same root: a server that has a good
// certificate and is no coordinator.
func (c *Coordinator) Beside(t testing.TB, handler http.Handler) pki.Link {
	t.Helper()
	return pki.Link{URL: c.serve(t, handler).URL, Pin: c.Link.Pin}
}

func (c *Coordinator) serve(t testing.TB, handler http.Handler) *httptest.Server {
	t.Helper()
	servers, key := newCA(t, &c.root), newKey(t)
	leaf := sign(t, servers, key, &x509.Certificate{
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		KeyUsage:    x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	})
	s := httptest.NewUnstartedServer(handler)
	s.EnableHTTP2 = true
	s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	s.Config.ConnContext = func(ctx context.Context, conn net.Conn) context.Context {
		if c.away.Load() {
			conn.Close()
		}
		return context.WithValue(ctx, connKey{}, conn)
	}
	s.TLS = &tls.Config{
		MinVersion:   tls.VersionTLS13,
		ClientAuth:   tls.RequestClientCert,
		Certificates: []tls.Certificate{{Certificate: [][]byte{leaf.Raw, servers.cert.Raw, c.root.cert.Raw}, PrivateKey: key}},
	}
	s.StartTLS()
	t.Cleanup(s.Close)
	return s
}

// Client is an HTTP client that trusts the coordinator: the person's browser.
func (c *Coordinator) Client() *http.Client {
	pool := x509.NewCertPool()
	pool.AddCert(c.root.cert)
	return &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}}
}

// Set changes the behaviour. Whoever watches hears of it.
func (c *Coordinator) Set(change func(*Behaviour)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	change(&c.b)
	close(c.changed)
	c.changed = make(chan struct{})
}

// End ends every session now, for the reason given.
func (c *Coordinator) End(reason string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.over["*"] = reason
	close(c.changed)
	c.changed = make(chan struct{})
}

// Away makes the coordinator unreachable, or reachable again: connections that
// stand are cut, new ones are too.
func (c *Coordinator) Away(away bool) {
	c.away.Store(away)
	if away {
		c.server.CloseClientConnections()
	}
}

// Logouts are the sessions that were logged out.
func (c *Coordinator) Logouts() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.logouts
}

// Enrolled counts the sessions that were issued.
func (c *Coordinator) Enrolled() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.enrols
}

// Discover says what a client needs.
func (c *Coordinator) Discover(context.Context, *connect.Request[apiv1.DiscoverRequest]) (*connect.Response[apiv1.DiscoverResponse], error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	issuer := c.issuerURL()
	if c.b.Issuer != "" {
		issuer = c.b.Issuer
	}
	return connect.NewResponse(&apiv1.DiscoverResponse{
		Name: "Test coordinator", Version: "0.0.0", TrustDomain: TrustDomain, Issuer: issuer, ClientId: ClientID,
		Scopes: []string{"openid"}, Audience: c.server.URL + "/api", OverlayDomain: OverlayDomain, RootPem: c.RootPEM,
		DeviceAuthorizationUrl: c.server.URL + "/device/authorization", DeviceTokenUrl: c.server.URL + "/device/token",
	}), nil
}

// EnrollDevice issues a session for a token of ours, once.
func (c *Coordinator) EnrollDevice(_ context.Context, req *connect.Request[apiv1.EnrollDeviceRequest]) (*connect.Response[apiv1.EnrollDeviceResponse], error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.tokens[req.Msg.AccessToken] {
		return nil, connect.NewError(connect.CodeUnauthenticated, errors.New("this access token is not one of ours"))
	}
	if c.b.EnrollError != nil {
		return nil, c.b.EnrollError
	}
	pub, err := pki.ParseCSR(req.Msg.Csr)
	if err != nil {
		return nil, connect.NewError(connect.CodeInvalidArgument, err)
	}
	der, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		return nil, err
	}
	device := c.devices[c.b.UserID+string(der)]
	if device == "" {
		device = identity.NewID(identity.Device)
		c.devices[c.b.UserID+string(der)] = device
	}
	if c.b.OtherKey {
		other, err := pki.GenerateKey()
		if err != nil {
			return nil, err
		}
		pub = &other.PublicKey
	}
	delete(c.over, "*")
	c.enrols++
	who := identity.UserCert{TrustDomain: TrustDomain, UserID: c.b.UserID, DeviceID: device, SessionID: identity.NewID(identity.Session), Generation: 1}
	expires := time.Now().Add(c.b.Session).Truncate(time.Second)
	chain, err := c.issue(who, pub, expires)
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&apiv1.EnrollDeviceResponse{
		UserId: who.UserID, UserName: c.b.UserName, DeviceId: device, SessionId: who.SessionID,
		ExpiresAt: timestamppb.New(expires), CertificateChainPem: chain, RootPem: c.RootPEM,
		AuthKey: "key-" + who.SessionID, ControlUrl: c.server.URL, OverlayDomain: OverlayDomain,
	}), nil
}

// Watch sends the clusters, and each change of them.
func (c *Coordinator) Watch(ctx context.Context, _ *connect.Request[apiv1.SessionWatchRequest], stream *connect.ServerStream[apiv1.SessionState]) error {
	who, err := caller(ctx)
	if err != nil {
		return err
	}
	c.mu.Lock()
	stream.ResponseHeader().Set("Date", time.Now().Add(c.b.Clock).UTC().Format(http.TimeFormat))
	c.mu.Unlock()
	for revision := uint64(1); ; revision++ {
		c.mu.Lock()
		reason, over := c.over["*"]
		if why, gone := c.over[who.SessionID]; gone {
			reason, over = why, true
		}
		state := &apiv1.SessionState{Revision: revision, UserId: who.UserID, UserName: c.b.UserName, SessionId: who.SessionID, Clusters: c.b.Clusters}
		changed := c.changed
		c.mu.Unlock()
		if over {
			return connect.NewError(connect.CodeUnauthenticated, errors.New(reason))
		}
		if err := stream.Send(state); err != nil {
			return err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Logout ends the caller's session.
func (c *Coordinator) Logout(ctx context.Context, _ *connect.Request[apiv1.LogoutRequest]) (*connect.Response[apiv1.LogoutResponse], error) {
	who, err := caller(ctx)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.logouts = append(c.logouts, who.SessionID)
	c.over[who.SessionID] = "the session was ended by a logout"
	close(c.changed)
	c.changed = make(chan struct{})
	return connect.NewResponse(&apiv1.LogoutResponse{}), nil
}

type connKey struct{}

// caller reads the client certificate of the connection.
func caller(ctx context.Context) (identity.UserCert, error) {
	conn, _ := ctx.Value(connKey{}).(*tls.Conn)
	if conn == nil || len(conn.ConnectionState().PeerCertificates) == 0 {
		return identity.UserCert{}, connect.NewError(connect.CodeUnauthenticated, errors.New("this call takes a user's certificate"))
	}
	who, err := identity.ParseUser(TrustDomain, conn.ConnectionState().PeerCertificates[0])
	if err != nil {
		return who, connect.NewError(connect.CodeUnauthenticated, err)
	}
	return who, nil
}

func (c *Coordinator) issue(who identity.UserCert, pub *ecdsa.PublicKey, expires time.Time) (string, error) {
	ext, err := who.SessionExtension()
	if err != nil {
		return "", err
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), NotBefore: time.Now().Add(-time.Minute), NotAfter: expires,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		ExtraExtensions: []pkix.Extension{ext},
	}
	tmpl.URIs = append(tmpl.URIs, who.URI())
	der, err := x509.CreateCertificate(rand.Reader, tmpl, c.root.cert, pub, c.root.key)
	if err != nil {
		return "", err
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return "", err
	}
	return string(pki.EncodeChain(leaf)), nil
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func newCA(t testing.TB, parent *issuer) issuer {
	t.Helper()
	self := issuer{key: newKey(t)}
	by := issuer{key: self.key}
	if parent != nil {
		by = *parent
	}
	self.cert = sign(t, by, self.key, &x509.Certificate{
		Subject: pkix.Name{CommonName: "Test CA"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	})
	return self
}

func sign(t testing.TB, by issuer, key *ecdsa.PrivateKey, tmpl *x509.Certificate) *x509.Certificate {
	t.Helper()
	tmpl.SerialNumber = big.NewInt(time.Now().UnixNano())
	tmpl.NotBefore, tmpl.NotAfter = time.Now().Add(-time.Minute), time.Now().Add(time.Hour)
	parent := by.cert
	if parent == nil {
		parent = tmpl
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, parent, &key.PublicKey, by.key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}
