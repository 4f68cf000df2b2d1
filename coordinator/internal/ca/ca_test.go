package ca

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/sallyport-mesh/sallyport/pkg/identity"
)

func open(t *testing.T, dir string) *Authority {
	t.Helper()
	a, err := Open(Config{Dir: dir, TrustDomain: "example.test"})
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func request(t *testing.T, tmpl *x509.CertificateRequest) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, tmpl, key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func userID() identity.UserCert {
	return identity.UserCert{
		UserID: identity.NewID(identity.User), DeviceID: identity.NewID(identity.Device),
		SessionID: identity.NewID(identity.Session), Generation: 7,
	}
}

func TestUserCertificateSaysWhoOnWhatSinceWhen(t *testing.T) {
	a := open(t, filepath.Join(t.TempDir(), "ca"))
	id := userID()
	end := time.Now().Add(time.Hour).Truncate(time.Second)
	issued, err := a.IssueUser(request(t, &x509.CertificateRequest{
		Subject: pkix.Name{CommonName: "system:masters"}, DNSNames: []string{"kubernetes"},
	}), id, "shivam", end)
	if err != nil {
		t.Fatal(err)
	}
	got, err := identity.ParseUser("example.test", issued.Leaf)
	if err != nil {
		t.Fatal(err)
	}
	id.TrustDomain = "example.test"
	if got != id {
		t.Errorf("certificate says %+v, want %+v", got, id)
	}
	if issued.Leaf.Subject.CommonName != "shivam" || len(issued.Leaf.DNSNames) != 0 {
		t.Errorf("the request's own names were believed: %v %v", issued.Leaf.Subject, issued.Leaf.DNSNames)
	}
	if !issued.Leaf.NotAfter.Equal(end) {
		t.Errorf("ends at %v, want the session's end %v", issued.Leaf.NotAfter, end)
	}
}

// A certificate holds only where its own issuing authority is trusted and only
// for its use.
func TestCertificatesDoNotCross(t *testing.T) {
	a := open(t, filepath.Join(t.TempDir(), "ca"))
	user, err := a.IssueUser(request(t, &x509.CertificateRequest{}), userID(), "u", time.Now().Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	agent, err := a.IssueAgent(request(t, &x509.CertificateRequest{}), identity.AgentCert{
		ClusterID: identity.NewID(identity.Cluster), AgentID: identity.NewID(identity.AgentID),
	}, "edge-1")
	if err != nil {
		t.Fatal(err)
	}
	server, err := a.Server([]string{"127.0.0.1", "coordinator.test"})
	if err != nil {
		t.Fatal(err)
	}
	everyIssuer := x509.NewCertPool()
	for _, i := range []issuer{a.users, a.agents, a.servers} {
		everyIssuer.AddCert(i.cert)
	}
	rootOnly := x509.NewCertPool()
	rootOnly.AddCert(a.root)
	for _, tc := range []struct {
		name  string
		cert  *x509.Certificate
		roots *x509.CertPool
		use   x509.ExtKeyUsage
		ok    bool
	}{
		{"user as user", user.Leaf, a.Users(), x509.ExtKeyUsageClientAuth, true},
		{"user as agent", user.Leaf, a.Agents(), x509.ExtKeyUsageClientAuth, false},
		{"user as server", user.Leaf, a.Users(), x509.ExtKeyUsageServerAuth, false},
		{"agent as agent", agent.Leaf, a.Agents(), x509.ExtKeyUsageClientAuth, true},
		{"agent as user", agent.Leaf, a.Users(), x509.ExtKeyUsageClientAuth, false},
		{"agent as server", agent.Leaf, rootOnly, x509.ExtKeyUsageServerAuth, false},
		{"server as server", server.Leaf, rootOnly, x509.ExtKeyUsageServerAuth, true},
		{"server as user", server.Leaf, everyIssuer, x509.ExtKeyUsageClientAuth, false},
	} {
		_, err := tc.cert.Verify(x509.VerifyOptions{Roots: tc.roots, Intermediates: everyIssuer, KeyUsages: []x509.ExtKeyUsage{tc.use}})
		if (err == nil) != tc.ok {
			t.Errorf("%s: %v", tc.name, err)
		}
	}
	if _, err := identity.ParseUser("example.test", agent.Leaf); err == nil {
		t.Error("an agent's certificate reads as a user's")
	}
}

func TestRequestsThatProveNothingAreRefused(t *testing.T) {
	a := open(t, filepath.Join(t.TempDir(), "ca"))
	good := request(t, &x509.CertificateRequest{})
	forged := append([]byte(nil), good...)
	forged[len(forged)-1] ^= 1
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	rsaCSR, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, rsaKey)
	if err != nil {
		t.Fatal(err)
	}
	for name, csr := range map[string][]byte{"empty": nil, "forged": forged, "rsa": rsaCSR, "huge": make([]byte, 1<<20)} {
		if _, err := a.IssueUser(csr, userID(), "u", time.Now().Add(time.Hour)); err == nil {
			t.Errorf("%s request got a certificate", name)
		}
	}
	if _, err := a.IssueUser(good, userID(), "u", time.Now().Add(-time.Second)); err == nil {
		t.Error("a session that is over got a certificate")
	}
}

func TestAuthorityIsTheSameAfterARestart(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "ca")
	first := open(t, dir)
	if second := open(t, dir); !second.Root().Equal(first.Root()) {
		t.Error("the root changed")
	}
	if _, err := Open(Config{Dir: dir, TrustDomain: "other.test"}); err == nil {
		t.Error("opened for another trust domain")
	}
}

// A crash while the authority is being made leaves nothing that is used.
func TestHalfMadeAuthorityIsMadeAnew(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "ca")
	if err := os.MkdirAll(dir+".making", 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir+".making", "root.key"), []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	open(t, dir)
	for _, name := range names {
		info, err := os.Stat(filepath.Join(dir, name+".key"))
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm() != 0o600 {
			t.Errorf("%s.key has mode %v", name, info.Mode())
		}
	}
}
