package proxy_test

import (
	"context"
	"crypto/tls"
	"errors"
	"net/http"
	"strings"
	"testing"

	"github.com/sallyport-mesh/sallyport/node-agent/internal/proxy"
	"github.com/sallyport-mesh/sallyport/pkg/audit"
	"github.com/sallyport-mesh/sallyport/pkg/policy"
)

// Every step before forwarding fails in turn, by an error and by a panic, and
// also where it fails after it did what it should: no byte goes upstream, on any
// transport, and the failure is on record.
func TestFaultInAnyStepLetsNothingThrough(t *testing.T) {
	token := func(c proxy.Credential, err error) func(*world) {
		return func(w *world) {
			w.accounts.hook(func(context.Context, policy.Subject, policy.Attributes) (proxy.Credential, error) { return c, err })
		}
	}
	broken := errors.New("secret detail of the fault")
	for _, f := range []struct {
		name  string
		fault func(*world)
		code  int
	}{
		{"overlay fails", func(w *world) { w.overlay.fail(broken) }, 503},
		{"overlay knows nobody", func(w *world) { w.overlay.fail(errors.New("no such peer")) }, 503},
		{"overlay panics", func(w *world) { w.overlay.setPanic(true) }, 500},
		{"no policy", func(w *world) { w.policies.current.Store(nil) }, 503},
		{"policy is stale for reads", func(w *world) { w.policies.stale.Store(int32(policy.Read)) }, 503},
		{"policy panics", func(w *world) { w.policies.panicking.Store(true) }, 500},
		{"log fails", func(w *world) { w.log.hook(func(context.Context, *audit.Event) error { return broken }) }, 503},
		{"log fails after the disk had it", func(w *world) {
			w.log.hook(func(_ context.Context, e *audit.Event) error {
				w.log.mu.Lock()
				defer w.log.mu.Unlock()
				w.log.intents = append(w.log.intents, e)
				return broken
			})
		}, 503},
		{"log panics", func(w *world) { w.log.hook(func(context.Context, *audit.Event) error { panic("disk") }) }, 500},
		{"mint fails", token(proxy.Credential{}, broken), 503},
		{"mint fails and gives a token", token(proxy.Credential{Token: "half-made"}, broken), 503},
		{"nothing to mint for", token(proxy.Credential{Token: "x"}, errors.Join(proxy.ErrNotEntitled, broken)), 403},
		{"mint gives no token", token(proxy.Credential{}, nil), 503},
		{"mint gives a token with a line break", token(proxy.Credential{Token: "a\r\nImpersonate-User: admin"}, nil), 503},
		{"mint gives a blank", token(proxy.Credential{Token: " "}, nil), 503},
		{"mint panics", func(w *world) {
			w.accounts.hook(func(context.Context, policy.Subject, policy.Attributes) (proxy.Credential, error) { panic("mint") })
		}, 500},
	} {
		t.Run(f.name, func(t *testing.T) {
			w := newWorld(t)
			p := w.person("alice", "cluster-admin")
			// The connections stand before the fault, so that it hits the request.
			conn, upgrade := w.standing(t, p), w.standing(t, p)
			f.fault(w)
			for _, c := range []struct {
				name string
				conn interface {
					Write([]byte) (int, error)
					Read([]byte) (int, error)
				}
				request string
			}{
				{"request", conn, "GET " + pods + " HTTP/1.1\r\nHost: x\r\n\r\n"},
				{"upgrade", upgrade, "POST " + execTarget + " HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\r\n"},
			} {
				_, err := c.conn.Write([]byte(c.request))
				must(t, err)
				res := readResponse(t, c.conn)
				s := readStatus(t, res)
				if res.StatusCode != f.code || strings.Contains(s.Message, "secret detail") {
					t.Errorf("%s: answer %d %q", c.name, res.StatusCode, s.Message)
				}
			}
			w.upstream.untouched(t)
			for i := range 2 {
				if e := w.log.outcome(t, 2+i); e.ResponseStatus.Code != int32(f.code) {
					t.Errorf("outcome %+v", e)
				}
			}
		})
	}
}

// standing is a connection that has had its first answer, so that the server's
// end of the handshake is behind it too.
func (w *world) standing(t *testing.T, p *person) *tls.Conn {
	t.Helper()
	_, before := w.log.counts()
	c, err := w.dial(t, p, "http/1.1")
	must(t, err)
	_, err = c.Write([]byte("GET /not//canonical HTTP/1.1\r\nHost: x\r\n\r\n"))
	must(t, err)
	if s := readStatus(t, readResponse(t, c)); s.Code != 400 {
		t.Fatalf("answer %+v", s)
	}
	w.log.outcome(t, before)
	return c
}

// A panic of WhoIs in the handshake fails the handshake, not the agent.
func TestPanicInTheHandshakeFailsItAlone(t *testing.T) {
	w := newWorld(t)
	p := w.person("alice", "cluster-admin")
	conn := w.standing(t, p)
	w.overlay.setPanic(true)
	if res, err := w.client(p, "h2").Get(w.url(pods)); err == nil {
		res.Body.Close()
		t.Errorf("answer %d", res.StatusCode)
	}
	w.overlay.setPanic(false)
	_, err := conn.Write([]byte("GET " + pods + " HTTP/1.1\r\nHost: x\r\n\r\n"))
	must(t, err)
	if res := readResponse(t, conn); res.StatusCode != 200 {
		t.Errorf("the connection that stood: answer %d", res.StatusCode)
	}
}

// Staleness is by class: what a stale policy must not decide is refused, the
// rest goes on.
func TestStalePolicyRefusesByClass(t *testing.T) {
	w := newWorld(t)
	p := w.person("alice", "cluster-admin")
	w.policies.stale.Store(int32(policy.Exec))
	for _, c := range []struct {
		method, target string
		code           int
	}{
		{"GET", pods, 200},
		{"DELETE", pods + "/p", 200},
		{"GET", "/api/v1/namespaces/default/secrets", 503},
		{"GET", pods + "?watch=1", 503},
		{"GET", pods + "/p/log?follow=true", 503},
		{"GET", pods + "/p/log", 200},
	} {
		for transport, code := range w.everyTransport(t, p, c.method, c.target, nil) {
			if code != c.code {
				t.Errorf("%s %s by %s with exec stale: answer %d, want %d", c.method, c.target, transport, code, c.code)
			}
		}
	}
	w.policies.stale.Store(int32(policy.Write))
	for transport, code := range w.everyTransport(t, p, "DELETE", pods+"/p", nil) {
		if code != 503 {
			t.Errorf("deleting by %s with writes stale: answer %d", transport, code)
		}
	}
}

// A client that goes away while its request waits is not worth an upstream byte.
func TestClientThatWentAwayIsNotForwarded(t *testing.T) {
	w := newWorld(t)
	p := w.person("alice", "cluster-admin")
	arrived, gone := make(chan struct{}), make(chan struct{})
	w.log.hook(func(ctx context.Context, _ *audit.Event) error {
		close(arrived)
		<-ctx.Done()
		close(gone)
		return nil
	})
	conn, err := w.dial(t, p, "http/1.1")
	must(t, err)
	_, err = conn.Write([]byte("GET " + pods + " HTTP/1.1\r\nHost: x\r\n\r\n"))
	must(t, err)
	<-arrived
	conn.Close()
	<-gone
	w.log.outcome(t, 0)
	w.upstream.untouched(t)
}

func TestNewRefusesToHoldNothing(t *testing.T) {
	w := newWorld(t)
	good := proxy.Config{
		TrustDomain: trustDomain, ClusterName: "c", Identify: w.overlay.identify, Policies: w.policies, Log: w.log,
		Accounts: w.accounts, Upstream: w.upstream.restConfig(), ServingCert: nil,
	}
	if _, err := proxy.New(t.Context(), good); err == nil {
		t.Error("New did without a serving certificate")
	}
}

// A write that the apiserver did not answer may have been done. It is sent once,
// and nothing tells client-go to send it again.
func TestUnansweredWriteIsSentOnce(t *testing.T) {
	for _, proto := range []string{"h1", "h2"} {
		w := newWorld(t)
		w.upstream.answer(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
		p := w.person("alice", "cluster-admin")
		for i, method := range []string{"POST", "DELETE", "PATCH"} {
			req, _ := http.NewRequest(method, w.url(pods+"/p"), strings.NewReader("{}"))
			res, err := w.client(p, proto).Do(req)
			must(t, err)
			if s := readStatus(t, res); s.Code != 503 || res.Header.Get("Retry-After") != "" || !strings.Contains(s.Message, "not known") {
				t.Errorf("%s by %s: %+v", method, proto, s)
			}
			if n := len(w.upstream.all()); n != i+1 {
				t.Errorf("%s by %s: sent %d times", method, proto, n-i)
			}
		}
	}
}
