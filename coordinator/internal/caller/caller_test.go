package caller

import (
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/sallyport-mesh/sallyport/coordinator/internal/ca"
	"github.com/sallyport-mesh/sallyport/coordinator/internal/directory"
	"github.com/sallyport-mesh/sallyport/coordinator/internal/store/storetest"
	apiv1 "github.com/sallyport-mesh/sallyport/pkg/api/sallyport/v1"
	"github.com/sallyport-mesh/sallyport/pkg/identity"
	"github.com/sallyport-mesh/sallyport/pkg/pki"
)

const domain = "example.test"

// fixture is a TLS server that says who calls, on a real directory and CA.
type fixture struct {
	*directory.Directory
	t      *testing.T
	ca     *ca.Authority
	key    *ecdsa.PrivateKey
	server *httptest.Server
	later  atomic.Int64 // how far the clock has gone on

	user    *apiv1.User
	device  *apiv1.Device
	session *apiv1.Session
	agent   *apiv1.Agent
}

func open(t *testing.T) *fixture {
	t.Helper()
	f := &fixture{t: t}
	d, err := directory.Open(t.Context(), directory.Config{Store: storetest.New(t), Builtin: []*apiv1.Role{{Name: "view", Builtin: true}}})
	f.must(err)
	f.Directory = d
	f.ca, err = ca.Open(ca.Config{Dir: filepath.Join(t.TempDir(), "ca"), TrustDomain: domain})
	f.must(err)
	f.key, err = pki.GenerateKey()
	f.must(err)

	f.user, _, err = d.CreateUser(t.Context(), directory.UserSpec{Name: "shivam"})
	f.must(err)
	f.device, _, err = d.EnrollDevice(t.Context(), directory.DeviceSpec{UserID: f.user.Id, KeySHA256: sha256.Sum256([]byte("device")), Name: "laptop", OS: "linux"})
	f.must(err)
	f.session, _, err = d.CreateSession(t.Context(), f.user.Id, f.device.Id, time.Hour)
	f.must(err)
	_, _, err = d.CreateProject(t.Context(), "aws")
	f.must(err)
	_, token, _, err := d.CreateCluster(t.Context(), directory.ClusterSpec{Name: "edge-1", Project: "aws", Ceiling: "admin"})
	f.must(err)
	var rev uint64
	f.agent, rev, err = d.RedeemJoinToken(t.Context(), directory.Join{
		Token: token.Secret, KubeSystemUID: uuid.NewString(), KeySHA256: sha256.Sum256([]byte("agent")), CheckpointVKey: "vkey", Version: "test",
	})
	f.seen(rev, err)

	cfg := Config{
		TrustDomain: domain, UserCA: f.ca.UserCAs(), AgentCA: f.ca.AgentCAs(), Snapshot: d.Snapshot,
		Now: func() time.Time { return time.Now().Add(time.Duration(f.later.Load())) },
	}
	pool, err := cfg.Pool()
	f.must(err)
	f.server = httptest.NewUnstartedServer(cfg.Identify(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c := From(r.Context())
		switch {
		case c.User != nil:
			_, _ = io.WriteString(w, "user "+c.User.Name+" on "+c.Device.Name+" in "+c.Session.Id)
		case c.Agent != nil:
			_, _ = io.WriteString(w, "agent "+c.Agent.Id+" of "+c.Cluster.Name)
		default:
			_, _ = io.WriteString(w, "nobody: "+c.Refused.Error())
		}
	})))
	f.server.TLS = &tls.Config{ClientAuth: tls.VerifyClientCertIfGiven, ClientCAs: pool}
	f.server.StartTLS()
	t.Cleanup(f.server.Close)
	return f
}

func (f *fixture) must(err error) {
	f.t.Helper()
	if err != nil {
		f.t.Fatal(err)
	}
}

// seen waits until the directory shows a change.
func (f *fixture) seen(revision uint64, err error) {
	f.t.Helper()
	f.must(err)
	_, err = f.Wait(f.t.Context(), revision)
	f.must(err)
}

func (f *fixture) csr() []byte {
	f.t.Helper()
	csr, err := pki.NewCSR(f.key)
	f.must(err)
	return csr
}

// asUser is a certificate that the coordinator issued for the session.
func (f *fixture) asUser(edit func(*identity.UserCert)) *tls.Certificate {
	f.t.Helper()
	id := identity.UserCert{
		TrustDomain: domain, UserID: f.user.Id, DeviceID: f.device.Id, SessionID: f.session.Id, Generation: f.user.AuthGeneration,
	}
	if edit != nil {
		edit(&id)
	}
	issued, err := f.ca.IssueUser(f.csr(), id, "shivam", time.Now().Add(time.Hour))
	f.must(err)
	return f.certificate(issued)
}

func (f *fixture) asAgent() *tls.Certificate {
	f.t.Helper()
	issued, err := f.ca.IssueAgent(f.csr(), identity.AgentCert{TrustDomain: domain, ClusterID: f.agent.ClusterId, AgentID: f.agent.Id}, "edge-1")
	f.must(err)
	return f.certificate(issued)
}

func (f *fixture) certificate(issued ca.Issued) *tls.Certificate {
	f.t.Helper()
	cert, err := pki.Certificate([]byte(issued.ChainPEM), f.key)
	f.must(err)
	return &cert
}

// client keeps its connection, as a stolen or forgotten one would be kept.
func (f *fixture) client(cert *tls.Certificate) func() string {
	roots := x509.NewCertPool()
	roots.AddCert(f.server.Certificate())
	conf := &tls.Config{RootCAs: roots}
	if cert != nil {
		conf.Certificates = []tls.Certificate{*cert}
	}
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: conf}}
	f.t.Cleanup(client.CloseIdleConnections)
	return func() string {
		f.t.Helper()
		res, err := client.Get(f.server.URL)
		if err != nil {
			return "no connection: " + err.Error()
		}
		defer res.Body.Close()
		body, err := io.ReadAll(res.Body)
		f.must(err)
		return string(body)
	}
}

func (f *fixture) want(who func() string, words string) {
	f.t.Helper()
	if got := who(); !strings.HasPrefix(got, words) {
		f.t.Errorf("the caller is %q, want %q", got, words)
	}
}

func TestCertificateSaysWhoCalls(t *testing.T) {
	f := open(t)
	f.want(f.client(nil), "nobody: no client certificate")
	f.want(f.client(f.asUser(nil)), "user shivam on laptop in "+f.session.Id)
	f.want(f.client(f.asAgent()), "agent "+f.agent.Id+" of edge-1")
}

func TestUserIsNobodyOnceTheDirectorySaysSo(t *testing.T) {
	for name, end := range map[string]func(*fixture) (uint64, error){
		"suspended": func(f *fixture) (uint64, error) {
			_, rev, err := f.SuspendUser(t.Context(), "shivam", "")
			return rev, err
		},
		"session revoked": func(f *fixture) (uint64, error) {
			_, rev, err := f.RevokeSession(t.Context(), f.session.Id)
			return rev, err
		},
		"device revoked": func(f *fixture) (uint64, error) {
			_, rev, err := f.RevokeDevice(t.Context(), f.device.Id)
			return rev, err
		},
		"sessions ended": func(f *fixture) (uint64, error) { _, rev, err := f.EndSessions(t.Context(), "shivam"); return rev, err },
		"deleted":        func(f *fixture) (uint64, error) { _, rev, err := f.DeleteUser(t.Context(), "shivam"); return rev, err },
		"certificate over": func(f *fixture) (uint64, error) {
			f.later.Store(int64(2 * time.Hour))
			return 0, nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			f := open(t)
			who := f.client(f.asUser(nil))
			f.want(who, "user shivam")
			f.seen(end(f))
			f.want(who, "nobody: ") // on the same connection
		})
	}
}

func TestUserCertificateMustFitTheDirectory(t *testing.T) {
	f := open(t)
	other, _, err := f.CreateUser(t.Context(), directory.UserSpec{Name: "virat"})
	f.must(err)
	for name, edit := range map[string]func(*identity.UserCert){
		"another user's device":    func(id *identity.UserCert) { id.UserID = other.Id },
		"a device nobody enrolled": func(id *identity.UserCert) { id.DeviceID = identity.NewID(identity.Device) },
		"a session nobody began":   func(id *identity.UserCert) { id.SessionID = identity.NewID(identity.Session) },
		"an earlier generation":    func(id *identity.UserCert) { id.Generation-- },
		"a generation to come":     func(id *identity.UserCert) { id.Generation++ },
	} {
		t.Run(name, func(t *testing.T) { f.want(f.client(f.asUser(edit)), "nobody: ") })
	}
}

func TestAgentIsNobodyOnceItIsRemoved(t *testing.T) {
	f := open(t)
	who := f.client(f.asAgent())
	f.want(who, "agent "+f.agent.Id)
	_, rev, err := f.RemoveAgent(t.Context(), f.agent.Id)
	f.seen(rev, err)
	f.want(who, "nobody: this agent is not enrolled here any more")

	g := open(t)
	who = g.client(g.asAgent())
	_, rev, err = g.DeleteCluster(t.Context(), "edge-1")
	g.seen(rev, err)
	g.want(who, "nobody: this agent is not enrolled here any more")
}

func TestNobodyElsesAuthorityCounts(t *testing.T) {
	f := open(t)
	stranger, err := ca.Open(ca.Config{Dir: filepath.Join(t.TempDir(), "ca"), TrustDomain: domain})
	f.must(err)
	real := f.ca
	f.ca = stranger
	forged := f.asUser(nil)
	f.ca = real
	f.want(f.client(forged), "no connection: ")

	// An agent's authority cannot make users, nor a user's agents: who issued it
	// decides how a certificate is read.
	cfg := Config{TrustDomain: domain, UserCA: f.ca.AgentCAs(), AgentCA: f.ca.UserCAs(), Snapshot: f.Snapshot, Now: time.Now}
	for _, cert := range []*tls.Certificate{f.asUser(nil), f.asAgent()} {
		chain := make([]*x509.Certificate, 0, 2)
		for _, der := range cert.Certificate {
			c, err := x509.ParseCertificate(der)
			f.must(err)
			chain = append(chain, c)
		}
		if c := cfg.read(&tls.ConnectionState{VerifiedChains: [][]*x509.Certificate{chain}}); c.User != nil || c.Agent != nil || c.Refused == nil {
			t.Errorf("a certificate of the other authority is taken for %+v", c)
		}
	}
}
