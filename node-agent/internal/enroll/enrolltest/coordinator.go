// Package enrolltest is a coordinator for tests of the agent, as far as enrolment
// goes: real TLS under a root of its own, real certificates, and the checks that
// the protocol asks of a coordinator.
package enrolltest

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/timestamppb"

	apiv1 "github.com/sallyport-mesh/sallyport/pkg/api/sallyport/v1"
	"github.com/sallyport-mesh/sallyport/pkg/api/sallyport/v1/apiv1connect"
	"github.com/sallyport-mesh/sallyport/pkg/audit"
	"github.com/sallyport-mesh/sallyport/pkg/identity"
	"github.com/sallyport-mesh/sallyport/pkg/pki"
)

// Coordinator enrols agents of one cluster.
type Coordinator struct {
	apiv1connect.UnimplementedEnrollServiceHandler

	// Link is how to reach it.
	Link pki.Link
	// ClusterID and TrustDomain are what it says.
	ClusterID, TrustDomain string
	// Life of the certificates it issues.
	Life time.Duration
	// Spoil, where set, changes an answer before it goes out.
	Spoil func(*apiv1.EnrollAgentResponse)
	// Lose is how many enrolments are done but not answered.
	Lose int

	root    *x509.Certificate
	rootKey *ecdsa.PrivateKey

	mu      sync.Mutex
	tokens  map[string]string // secret → the agent that used it
	agents  map[string][]byte // agent id → SPKI of its key
	Enrolls int
	Renews  int
}

// New starts a coordinator that ends with the test.
func New(t *testing.T) *Coordinator {
	t.Helper()
	c := &Coordinator{
		ClusterID: identity.NewID(identity.Cluster), TrustDomain: "test.internal", Life: time.Hour,
		tokens: map[string]string{}, agents: map[string][]byte{},
	}
	var err error
	if c.rootKey, err = pki.GenerateKey(); err != nil {
		t.Fatal(err)
	}
	c.root = c.issue(t, &x509.Certificate{
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign, Subject: pkix.Name{CommonName: "root"},
	}, &c.rootKey.PublicKey)
	key, err := pki.GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	leaf := c.issue(t, &x509.Certificate{
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, KeyUsage: x509.KeyUsageDigitalSignature,
	}, &key.PublicKey)
	mux := http.NewServeMux()
	mux.Handle(apiv1connect.NewEnrollServiceHandler(c))
	srv := httptest.NewUnstartedServer(mux)
	srv.TLS = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{leaf.Raw, c.root.Raw}, PrivateKey: key}}, ClientAuth: tls.RequestClientCert}
	srv.EnableHTTP2 = true
	srv.StartTLS()
	t.Cleanup(srv.Close)
	c.Link = pki.Link{URL: srv.URL, Pin: pki.Pin(c.root)}
	return c
}

// NewToken makes a join token.
func (c *Coordinator) NewToken() pki.JoinToken {
	c.mu.Lock()
	defer c.mu.Unlock()
	secret := rand.Text()
	c.tokens[secret] = ""
	return pki.JoinToken{Link: c.Link, Secret: secret}
}

// EnrollAgent implements EnrollService.
func (c *Coordinator) EnrollAgent(_ context.Context, req *connect.Request[apiv1.EnrollAgentRequest]) (*connect.Response[apiv1.EnrollAgentResponse], error) {
	pub, err := pki.ParseCSR(req.Msg.Csr)
	if err != nil {
		return nil, connect.NewError(connect.CodeInvalidArgument, err)
	}
	if _, err := audit.NewVerifier(req.Msg.CheckpointVkey, "x"); err != nil || len(req.Msg.KubeSystemUid) != 36 {
		return nil, connect.NewError(connect.CodeInvalidArgument, errors.New("no checkpoint key, or no cluster"))
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	usedBy, known := c.tokens[req.Msg.JoinToken]
	spki, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		return nil, err
	}
	// Whoever used it may ask again: his answer was lost.
	if !known || usedBy != "" && string(c.agents[usedBy]) != string(spki) {
		return nil, connect.NewError(connect.CodePermissionDenied, errors.New("this join token was used already: it works once"))
	}
	if usedBy == "" {
		usedBy = identity.NewID(identity.AgentID)
		c.tokens[req.Msg.JoinToken] = usedBy
		c.Enrolls++
	}
	answer, err := c.answer(usedBy, pub)
	if c.Lose > 0 {
		c.Lose--
		panic(http.ErrAbortHandler)
	}
	return answer, err
}

// RenewAgent implements EnrollService.
func (c *Coordinator) RenewAgent(_ context.Context, req *connect.Request[apiv1.RenewAgentRequest]) (*connect.Response[apiv1.EnrollAgentResponse], error) {
	m := req.Msg
	pub, err := pki.ParseCSR(m.Csr)
	if err != nil {
		return nil, connect.NewError(connect.CodeInvalidArgument, err)
	}
	spki, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		return nil, err
	}
	// As RenewAgentRequest in enroll.proto says it.
	signed := "sallyport-renew-v1\x00" + m.AgentId + "\x00" + m.SignedAt.AsTime().UTC().Format(time.RFC3339) + "\x00" + string(m.Csr)
	digest := sha256.Sum256([]byte(signed))
	c.mu.Lock()
	defer c.mu.Unlock()
	if string(c.agents[m.AgentId]) != string(spki) || !ecdsa.VerifyASN1(pub, digest[:], m.Proof) || time.Since(m.SignedAt.AsTime()).Abs() > 5*time.Minute {
		return nil, connect.NewError(connect.CodePermissionDenied, errors.New("not the enrolled key"))
	}
	c.Renews++
	return c.answer(m.AgentId, pub)
}

func (c *Coordinator) answer(agentID string, pub *ecdsa.PublicKey) (*connect.Response[apiv1.EnrollAgentResponse], error) {
	spki, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		return nil, err
	}
	c.agents[agentID] = spki
	who := identity.AgentCert{TrustDomain: c.TrustDomain, ClusterID: c.ClusterID, AgentID: agentID}
	agent, err := c.sign(&x509.Certificate{URIs: []*url.URL{who.URI()}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}, KeyUsage: x509.KeyUsageDigitalSignature}, pub)
	if err != nil {
		return nil, err
	}
	serving, err := c.sign(&x509.Certificate{DNSNames: []string{"edge-1.test.internal"}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, KeyUsage: x509.KeyUsageDigitalSignature}, pub)
	if err != nil {
		return nil, err
	}
	policyKey, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	_, cosigner, err := audit.NewKey(c.TrustDomain + "/coordinator")
	if err != nil {
		return nil, err
	}
	res := &apiv1.EnrollAgentResponse{
		AgentId: agentID, ClusterId: c.ClusterID, ClusterName: "edge-1", ProjectName: "aws",
		AgentChainPem: string(pki.EncodeChain(agent)), ServingChainPem: string(pki.EncodeChain(serving)), RootPem: string(pki.EncodeChain(c.root)),
		TrustDomain: c.TrustDomain, AuthKey: rand.Text(), ControlUrl: c.Link.URL, OverlayDomain: "test.internal",
		PolicyKeys: [][]byte{policyKey}, CosignerVkey: cosigner, LogOrigin: c.TrustDomain + "/agents/" + agentID,
		ExpiresAt: timestamppb.New(agent.NotAfter),
	}
	if c.Spoil != nil {
		c.Spoil(res)
	}
	return connect.NewResponse(res), nil
}

func (c *Coordinator) issue(t *testing.T, tmpl *x509.Certificate, pub *ecdsa.PublicKey) *x509.Certificate {
	t.Helper()
	cert, err := c.sign(tmpl, pub)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

func (c *Coordinator) sign(tmpl *x509.Certificate, pub *ecdsa.PublicKey) (*x509.Certificate, error) {
	tmpl.SerialNumber = big.NewInt(time.Now().UnixNano())
	tmpl.NotBefore, tmpl.NotAfter = time.Now().Add(-time.Minute), time.Now().Add(c.Life)
	parent := c.root
	if parent == nil {
		parent, tmpl.NotAfter = tmpl, time.Now().Add(24*time.Hour)
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, parent, pub, c.rootKey)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}
