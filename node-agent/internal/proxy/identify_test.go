package proxy_test

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/sallyport-mesh/sallyport/node-agent/internal/proxy"
	apiv1 "github.com/sallyport-mesh/sallyport/pkg/api/sallyport/v1"
	"github.com/sallyport-mesh/sallyport/pkg/identity"
)

// Who cannot be a user does not get through the handshake.
func TestHandshakeTakesOnlyAUsersCertificateOfThisDevice(t *testing.T) {
	w := newWorld(t)
	p := w.person("alice", "cluster-admin")
	mallory := w.person("mallory", "cluster-admin")
	agents := newAuthority(t, "agents")
	agent := identity.AgentCert{TrustDomain: trustDomain, ClusterID: identity.NewID(identity.Cluster), AgentID: identity.NewID(identity.AgentID)}
	template := func(change func(*x509.Certificate)) *x509.Certificate {
		tmpl := w.users.userTemplate(t, p.UserCert)
		change(tmpl)
		return tmpl
	}
	for name, cert := range map[string]tls.Certificate{
		"another person's certificate on this device": mallory.cert,
		"right names, a CA of his own":                newAuthority(t, "users").issue(t, w.users.userTemplate(t, p.UserCert)),
		"right names, the agents' CA":                 agents.issue(t, w.users.userTemplate(t, p.UserCert)),
		"an agent's certificate":                      agents.issue(t, &x509.Certificate{URIs: []*url.URL{agent.URI()}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}),
		"an agent's name from the users' CA":          w.users.issue(t, template(func(c *x509.Certificate) { c.URIs = []*url.URL{agent.URI()} })),
		"a server's certificate":                      w.users.issue(t, template(func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} })),
		"no session":                                  w.users.issue(t, template(func(c *x509.Certificate) { c.ExtraExtensions = nil })),
		"two names":                                   w.users.issue(t, template(func(c *x509.Certificate) { c.URIs = append(c.URIs, mallory.URI()) })),
		"another trust domain": w.users.issue(t, template(func(c *x509.Certificate) {
			u := p.UserCert
			u.TrustDomain = "other.test"
			c.URIs = []*url.URL{u.URI()}
		})),
		"expired": w.users.issue(t, template(func(c *x509.Certificate) {
			c.NotBefore, c.NotAfter = time.Now().Add(-2*time.Hour), time.Now().Add(-time.Hour)
		})),
		"not valid yet": w.users.issue(t, template(func(c *x509.Certificate) {
			c.NotBefore, c.NotAfter = time.Now().Add(time.Hour), time.Now().Add(2*time.Hour)
		})),
		"the CA itself": {Certificate: [][]byte{w.users.cert.Raw}, PrivateKey: w.users.key},
		"none":          {},
	} {
		t.Run(name, func(t *testing.T) {
			wrong := *p
			wrong.cert = cert
			for _, proto := range []string{"h1", "h2"} {
				if res, err := w.client(&wrong, proto).Get(w.url(pods)); err == nil {
					res.Body.Close()
					t.Errorf("%s: answer %d", proto, res.StatusCode)
				}
			}
			w.upstream.untouched(t)
		})
	}
	res, err := w.client(p, "h2").Get(w.url(pods))
	must(t, err)
	if res.Body.Close(); res.StatusCode != 200 {
		t.Errorf("the right certificate: answer %d", res.StatusCode)
	}
}

func TestHandshakeIsTLS13WithoutResumption(t *testing.T) {
	w := newWorld(t)
	p := w.person("alice", "cluster-admin")
	cfg := w.tlsConfig(p, "http/1.1")
	cfg.MaxVersion = tls.VersionTLS12
	if c, err := tls.DialWithDialer(dialer(p), "tcp", w.addr, cfg); err == nil {
		c.Close()
		t.Error("TLS 1.2 was taken")
	}
	cache := &countingCache{ClientSessionCache: tls.NewLRUClientSessionCache(4)}
	for range 3 {
		cfg := w.tlsConfig(p, "http/1.1")
		cfg.ClientSessionCache = cache
		c, err := tls.DialWithDialer(dialer(p), "tcp", w.addr, cfg)
		must(t, err)
		io.WriteString(c, "GET "+pods+" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
		if answer, _ := io.ReadAll(c); !strings.HasPrefix(string(answer), "HTTP/1.1 200 ") {
			t.Errorf("answer %q", answer)
		}
		if c.ConnectionState().DidResume {
			t.Error("a session was resumed")
		}
		c.Close()
	}
	if cache.tickets != 0 {
		t.Errorf("%d session tickets were issued", cache.tickets)
	}
}

type countingCache struct {
	tls.ClientSessionCache
	tickets int
}

func (c *countingCache) Put(key string, s *tls.ClientSessionState) {
	if s != nil {
		c.tickets++
	}
	c.ClientSessionCache.Put(key, s)
}

// What was true at the handshake is looked at again for each request of a
// connection that was open already.
func TestPooledConnectionIsCheckedAgainPerRequest(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*world, *person)
		code   int
		says   string
	}{
		"suspended": {func(w *world, p *person) { w.publish(suspend(p)) }, 403, "nothing here is granted"},
		"device revoked": {func(w *world, p *person) {
			w.publish(func(b *apiv1.Bundle) { b.Subjects[0].RevokedDeviceIds = []string{p.DeviceID} })
		}, 403, "device was revoked"},
		"session ended": {func(w *world, p *person) {
			w.publish(func(b *apiv1.Bundle) { b.Subjects[0].RevokedSessionIds = []string{p.SessionID} })
		}, 403, "session was ended"},
		"generation":        {func(w *world, p *person) { w.publish(func(b *apiv1.Bundle) { b.Subjects[0].AuthGeneration++ }) }, 403, "sallyport login"},
		"session ran out":   {func(w *world, _ *person) { w.advance(2 * time.Hour) }, 401, "sallyport login"},
		"another device":    {func(w *world, p *person) { w.overlay.set(p.addr, proxy.Peer{DeviceID: "dev-x", UserID: p.UserID}) }, 401, "not this device's"},
		"another user":      {func(w *world, p *person) { w.overlay.set(p.addr, proxy.Peer{DeviceID: p.DeviceID, UserID: "usr-x"}) }, 401, "not this device's"},
		"nobody any more":   {func(w *world, p *person) { w.overlay.set(p.addr, proxy.Peer{}) }, 401, "not this device's"},
		"overlay is silent": {func(w *world, _ *person) { w.overlay.fail(errors.New("no netmap")) }, 503, "overlay"},
		"no policy":         {func(w *world, _ *person) { w.policies.current.Store(nil) }, 503, "no policy"},
	} {
		for _, proto := range []string{"h1", "h2"} {
			t.Run(name+" "+proto, func(t *testing.T) {
				w := newWorld(t)
				p := w.person("alice", "cluster-admin")
				client := w.client(p, proto)
				get := func() *http.Response {
					res, err := client.Get(w.url(pods))
					must(t, err)
					return res
				}
				res := get()
				io.Copy(io.Discard, res.Body)
				if res.Body.Close(); res.StatusCode != 200 {
					t.Fatalf("answer %d", res.StatusCode)
				}
				c.change(w, p)
				res = get()
				if s := readStatus(t, res); res.StatusCode != c.code || !strings.Contains(s.Message, c.says) {
					t.Errorf("answer %d %q", res.StatusCode, s.Message)
				}
				w.upstream.only(t)
			})
		}
	}
}

// A connection does not outlive the CA that let it in.
func TestConnectionEndsWithItsCA(t *testing.T) {
	for _, proto := range []string{"h1", "h2"} {
		w := newWorld(t)
		p := w.person("alice", "cluster-admin")
		s := &stream{contentType: "application/json", line: event, tick: make(chan struct{})}
		w.upstream.answer(s.ServeHTTP)
		watch := w.open(t, p, proto, pods+"?watch=true")
		next := newAuthority(t, "users")
		w.policies.cas.Store(next)
		if n := w.proxy.Cut(w.policies.current.Load()); n != 1 {
			t.Errorf("%s: Cut ended %d", proto, n)
		}
		if line, _ := watch.ReadString('\n'); !strings.Contains(line, "no longer trusted") {
			t.Errorf("%s: the watch was told %q", proto, line)
		}
	}
}

// A session that was ended is told so at its next connection, in words.
func TestEndedSessionIsToldSoOnANewConnection(t *testing.T) {
	w := newWorld(t)
	p := w.person("alice", "cluster-admin")
	w.publish(func(b *apiv1.Bundle) { b.Subjects[0].AuthGeneration++ })
	res, err := w.client(p, "h2").Get(w.url(pods))
	must(t, err)
	if s := readStatus(t, res); s.Code != 403 || !strings.Contains(s.Message, "sallyport login") {
		t.Errorf("%+v", s)
	}
	w.upstream.untouched(t)
}

func TestNoPolicyMeansNoHandshake(t *testing.T) {
	w := newWorld(t, func(cfg *proxy.Config) { cfg.Policies = noPolicies{cfg.Policies} })
	p := w.person("alice", "cluster-admin")
	if c, err := w.dial(t, p, "h2"); err == nil {
		if _, err := c.Read(make([]byte, 1)); err == nil {
			t.Error("the handshake was done without a CA to take users from")
		}
	}
	w.upstream.untouched(t)
}

type noPolicies struct{ proxy.Policies }

func (noPolicies) UserCAs() *x509.CertPool { return nil }
