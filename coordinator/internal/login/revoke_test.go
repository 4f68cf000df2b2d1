package login

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sallyport-mesh/sallyport/coordinator/internal/directory"
	"github.com/sallyport-mesh/sallyport/coordinator/internal/store"
)

// flakyHydra is the real admin API behind a switch.
func flakyHydra(t *testing.T) (address string, away *atomic.Bool) {
	t.Helper()
	away = new(atomic.Bool)
	socket := strings.TrimPrefix(front.hydra.Admin, "unix:")
	proxy := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(&url.URL{Scheme: "http", Host: "admin"}) },
		Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", socket)
		}},
	}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if away.Load() {
			panic(http.ErrAbortHandler) // as a connection that breaks
		}
		proxy.ServeHTTP(w, r)
	}))
	t.Cleanup(s.Close)
	return s.URL, away
}

func (f *fixture) outbox() (n int) {
	f.t.Helper()
	err := f.store.View(f.t.Context(), func(r store.Reader) error {
		return r.List(directory.RevokePrefix, func(store.Item) error { n++; return nil })
	})
	if err != nil {
		f.t.Fatal(err)
	}
	return n
}

// active asks Hydra itself.
func (f *fixture) active(token string) bool {
	f.t.Helper()
	t, _, err := f.admin.OAuth2API.IntrospectOAuth2Token(f.t.Context()).Token(token).Execute()
	if err != nil {
		f.t.Fatal(err)
	}
	return t.Active
}

// eventually waits for a condition that another goroutine brings about.
func eventually(t *testing.T, what string, f func() bool) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for !f() {
		if time.Now().After(deadline) {
			t.Fatalf("not within 20 s: %s", what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// TestSuspensionReachesHydraOnceHydraIsBack suspends while Hydra is away: the
// suspension does not wait, the token is refused here at once, and Hydra is told
// when it is back, also by a process that starts then.
func TestSuspensionReachesHydraOnceHydraIsBack(t *testing.T) {
	f := newFixture(t)
	token := f.token()
	address, away := flakyHydra(t)
	var err error
	if f.App.admin, err = adminClient(address); err != nil {
		t.Fatal(err)
	}
	run := func(ctx context.Context) chan error {
		done := make(chan error, 1)
		go func() { done <- f.Run(ctx) }()
		return done
	}
	ctx, stop := context.WithCancel(t.Context())
	done := run(ctx)

	away.Store(true)
	start := time.Now()
	if _, _, err := f.dir.SuspendUser(t.Context(), "shivam", ""); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(start); took > time.Second {
		t.Errorf("the suspension took %v with Hydra away", took)
	}
	if f.outbox() != 1 {
		t.Errorf("%d in the outbox, want 1", f.outbox())
	}
	stop()
	if err := <-done; err != nil {
		t.Errorf("Run: %v", err)
	}

	away.Store(false)
	if !f.active(token) {
		t.Fatal("Hydra has revoked a token that it was not told of")
	}
	ctx, stop = context.WithCancel(t.Context())
	defer stop()
	done = run(ctx)
	eventually(t, "the outbox is empty", func() bool { return f.outbox() == 0 })
	if f.active(token) {
		t.Error("Hydra still holds the token for good")
	}
	// And while it runs.
	if _, _, err := f.dir.ResumeUser(t.Context(), "shivam", ""); err != nil {
		t.Fatal(err)
	}
	token = f.token()
	if _, _, err := f.dir.EndSessions(t.Context(), "shivam"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the token is revoked", func() bool { return !f.active(token) })
	stop()
	<-done
}

func TestClientIsUpdatedWhereItExists(t *testing.T) {
	f := newFixture(t)
	c, _, err := f.admin.OAuth2API.GetOAuth2Client(t.Context(), ClientID).Execute()
	if err != nil {
		t.Fatal(err)
	}
	c.RedirectUris = []string{"https://evil.example/callback"}
	if _, _, err := f.admin.OAuth2API.SetOAuth2Client(t.Context(), ClientID).OAuth2Client(*c).Execute(); err != nil {
		t.Fatal(err)
	}
	if err := f.EnsureClient(t.Context()); err != nil {
		t.Fatal(err)
	}
	if c, _, err = f.admin.OAuth2API.GetOAuth2Client(t.Context(), ClientID).Execute(); err != nil {
		t.Fatal(err)
	}
	if len(c.RedirectUris) != 2 || c.RedirectUris[0] != "http://127.0.0.1/callback" || c.GetTokenEndpointAuthMethod() != "none" {
		t.Errorf("client: %v %v", c.RedirectUris, c.GetTokenEndpointAuthMethod())
	}
}

// TestHydraAway shows a page that says so, and logs nobody in.
func TestHydraAway(t *testing.T) {
	f := newFixture(t)
	address, away := flakyHydra(t)
	b := browser(t)
	login := must[*page](t)(b.Open(t.Context(), newFlow().address()))
	var err error
	if f.App.admin, err = adminClient(address); err != nil {
		t.Fatal(err)
	}
	away.Store(true)
	p := must[*page](t)(b.Submit(t.Context(), login.Form, map[string]string{"username": "shivam", "password": password}))
	if p.Status != http.StatusBadGateway || !strings.Contains(p.Text, "does not answer") {
		t.Errorf("%d %s", p.Status, p.Text)
	}
	if id, err := f.Introspect(t.Context(), "ory_at_x.y", aKey); !errors.Is(err, ErrUnavailable) {
		t.Errorf("introspected as %q, %v", id, err)
	}
	// It is back before the login ran out: the same page goes on.
	away.Store(false)
	if p = must[*page](t)(b.Submit(t.Context(), login.Form, map[string]string{"username": "shivam", "password": password})); p.Form == nil {
		t.Errorf("%d %s", p.Status, p.Text)
	}
}

func TestUsedChallengesAreForgottenInTheEnd(t *testing.T) {
	f := newFixture(t)
	f.token()
	count := func() (n int) {
		err := f.store.View(t.Context(), func(r store.Reader) error {
			return r.List(challengePrefix, func(store.Item) error { n++; return nil })
		})
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	if count() != 2 {
		t.Fatalf("%d challenges are marked, want 2", count())
	}
	if err := f.pruneUsed(t.Context()); err != nil || count() != 2 {
		t.Errorf("pruned too early: %d left, %v", count(), err)
	}
	f.cfg.Now = func() time.Time { return time.Now().Add(keepUsed + time.Minute) }
	if err := f.pruneUsed(t.Context()); err != nil || count() != 0 {
		t.Errorf("%d left, %v", count(), err)
	}
}

func TestUserinfoAndDiscoveryPassThrough(t *testing.T) {
	f := newFixture(t)
	token := f.token()
	resp := raw(t, "GET", "/userinfo", nil, func(r *http.Request) { r.Header.Set("Authorization", "Bearer "+token) })
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK || !strings.Contains(string(body), f.user.Id) {
		t.Errorf("userinfo: %s %s %v", resp.Status, body, err)
	}
	resp = raw(t, "GET", "/.well-known/openid-configuration", nil, nil)
	if body, err = io.ReadAll(resp.Body); err != nil || !strings.Contains(string(body), `"token_endpoint":"`+front.server.URL+`/oauth2/token"`) {
		t.Errorf("discovery: %s %s %v", resp.Status, body, err)
	}
}
