package login

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/oauth2"

	"github.com/sallyport-mesh/sallyport/coordinator/coordinatortest"
	"github.com/sallyport-mesh/sallyport/coordinator/internal/directory"
	"github.com/sallyport-mesh/sallyport/coordinator/internal/store"
	"github.com/sallyport-mesh/sallyport/test/upstream"
)

// withProvider lets people log in through the second Hydra too.
func withProvider(change ...func(*Provider)) func(*Config) {
	return func(c *Config) {
		p := Provider{
			Name: "corp", Title: "Example Corp", Issuer: front.upstream.Issuer, ClientID: upstream.ClientID, ClientSecret: upstream.ClientSecret,
			Roots: x509.NewCertPool(), Scopes: []string{"profile", "email", "offline_access"}, GroupsClaim: "groups",
			Groups: map[string]string{"k8s-admins": "aws-members", "k8s-readers": "readers"}, NameClaim: "preferred_username",
			CreateUsers: true, Refresh: time.Minute,
		}
		p.Roots.AddCert(front.upstream.Root)
		for _, f := range change {
			f(&p)
		}
		c.Providers = []Provider{p}
	}
}

// both is a browser that trusts the coordinator and the provider.
func both(t *testing.T) *coordinatortest.Browser {
	t.Helper()
	cfg := tlsConfig()
	cfg.RootCAs.AddCert(front.upstream.Root)
	b, err := coordinatortest.NewBrowser(&tls.Config{RootCAs: cfg.RootCAs})
	if err != nil {
		t.Fatal(err)
	}
	b.StopAtLoopback()
	return b
}

// through begins a login and goes through the provider, to the page behind it.
func (f *fixture) through(b *coordinatortest.Browser, fl *flow) *page {
	f.t.Helper()
	p := must[*page](f.t)(b.Open(f.t.Context(), fl.address()))
	if !strings.Contains(p.Text, "Log in with Example Corp") {
		f.t.Fatalf("no way to the provider: %s", p.Text)
	}
	return must[*page](f.t)(b.Open(f.t.Context(), upstreamLink(p)))
}

func upstreamLink(p *page) string {
	return front.server.URL + providerPath + "corp?" + url.Values{"login_challenge": {p.Form.Values.Get("login_challenge")}}.Encode()
}

// enters logs in through the provider, to an access token.
func (f *fixture) enters(b *coordinatortest.Browser) string {
	f.t.Helper()
	fl := newFlow()
	p := f.through(b, fl)
	if p.Form == nil || p.Form.Values.Get("consent_challenge") == "" {
		f.t.Fatalf("%d %s %s", p.Status, p.URL, p.Text)
	}
	p = must[*page](f.t)(b.Submit(f.t.Context(), p.Form, map[string]string{"decision": "allow"}))
	return must[*oauth2.Token](f.t)(fl.exchange(f.t.Context(), p.Location)).AccessToken
}

func (f *fixture) groups(names ...string) {
	f.t.Helper()
	for _, name := range names {
		if _, _, err := f.dir.CreateGroup(f.t.Context(), name); err != nil {
			f.t.Fatal(err)
		}
	}
}

// in lists the groups that a user is in.
func (f *fixture) in(userID string) []string {
	var out []string
	for _, g := range f.dir.Snapshot().Groups {
		if slices.Contains(g.MemberIds, userID) {
			out = append(out, g.Name)
		}
	}
	slices.Sort(out)
	return out
}

func TestGroupsFollowTheProvider(t *testing.T) {
	f := newFixture(t, withProvider())
	ctx := t.Context()
	f.groups("aws-members", "readers", "others")
	front.upstream.Say("00u1", upstream.Person{"preferred_username": "Virat.K@corp.example", "name": "Virat K.", "groups": []string{"k8s-admins", "aws-members", "others"}})
	token := f.enters(both(t))
	id := must[string](t)(f.Introspect(ctx, token, aKey))
	u := f.dir.Snapshot().Users[id]
	if u.Name != "virat-k" || u.DisplayName != "Virat K." || u.HasPassword || len(u.Identities) != 1 || u.Identities[0].Subject != "00u1" {
		t.Errorf("made %v", u)
	}
	// Values of the claim that are not mapped mean nothing, also if they are the
	// name of a group of ours.
	if got := f.in(id); !slices.Equal(got, []string{"aws-members"}) {
		t.Errorf("in %v", got)
	}
	if _, _, err := f.dir.AddMember(ctx, "others", id); err != nil {
		t.Fatal(err)
	}
	// Not yet due: nothing is asked.
	asked := front.upstream.Asked()
	if err := f.refreshUpstreams(ctx); err != nil || front.upstream.Asked() != asked {
		t.Errorf("asked %d times, %v", front.upstream.Asked()-asked, err)
	}
	// Moved there: moved here, and what the provider does not decide stays.
	front.upstream.Say("00u1", upstream.Person{"groups": []string{"k8s-readers"}})
	f.forward(time.Minute)
	if err := f.refreshUpstreams(ctx); err != nil {
		t.Fatal(err)
	}
	if got := f.in(id); !slices.Equal(got, []string{"others", "readers"}) {
		t.Errorf("after the refresh in %v", got)
	}
	// No claim at all is no group at all.
	front.upstream.Say("00u1", upstream.Person{"name": "Virat"})
	f.forward(time.Minute)
	if err := f.refreshUpstreams(ctx); err != nil {
		t.Fatal(err)
	}
	if got := f.in(id); !slices.Equal(got, []string{"others"}) {
		t.Errorf("without the claim in %v", got)
	}
	if _, err := f.Introspect(ctx, token, aKey); err != nil {
		t.Errorf("the login is over: %v", err)
	}
	// What is stored is of no use to who has only the store.
	err := f.store.View(ctx, func(r store.Reader) error {
		return r.List(upstreamPrefix, func(it store.Item) error {
			if strings.Contains(string(it.Value), "ory_rt") {
				t.Error("the refresh token is stored in the clear")
			}
			return nil
		})
	})
	if err != nil {
		t.Fatal(err)
	}
	f.recorded("login.created", "login.groups", "login", "login.consent", "login.groups", "login.groups")
}

func TestRefusedRefreshEndsTheSessions(t *testing.T) {
	f := newFixture(t, withProvider())
	ctx := t.Context()
	front.upstream.Say("00u2", upstream.Person{"preferred_username": "rohit"})
	token := f.enters(both(t))
	front.upstream.Refuse("00u2")
	f.forward(time.Minute)
	if err := f.refreshUpstreams(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Introspect(ctx, token, aKey); err == nil {
		t.Error("the login goes on")
	}
	f.holdsNothing(upstreamPrefix)
	f.recorded("login.created", "login", "login.consent", "login.ended")
}

// TestProviderThatCannotAnswerEndsNothing: it is away, or does not know us any
// more, which is nobody's fault who is logged in. It is asked again.
func TestProviderThatCannotAnswerEndsNothing(t *testing.T) {
	f := newFixture(t, withProvider())
	ctx := t.Context()
	front.upstream.Say("00u9", upstream.Person{"preferred_username": "axar"})
	token := f.enters(both(t))
	up := f.upstreams["corp"]
	right, transport := up.ClientSecret, up.http.Transport
	for name, broken := range map[string]func(){
		"an unknown client": func() { up.ClientSecret = "another" },
		"away": func() {
			up.http.Transport = roundTrip(func(*http.Request) (*http.Response, error) { return nil, io.ErrUnexpectedEOF })
		},
		"overloaded": func() {
			up.http.Transport = roundTrip(func(*http.Request) (*http.Response, error) {
				return &http.Response{StatusCode: http.StatusServiceUnavailable, Body: io.NopCloser(strings.NewReader(`{"error":"invalid_grant"}`)), Header: http.Header{"Content-Type": {"application/json"}}}, nil
			})
		},
	} {
		broken()
		f.forward(time.Minute)
		if err := f.refreshUpstreams(ctx); err == nil || strings.Contains(err.Error(), right) {
			t.Errorf("%s: %v", name, err)
		}
		up.ClientSecret, up.http.Transport = right, transport
		if _, err := f.Introspect(ctx, token, aKey); err != nil {
			t.Errorf("%s ended the login: %v", name, err)
		}
	}
	asked := front.upstream.Asked()
	if err := f.refreshUpstreams(ctx); err != nil || front.upstream.Asked() == asked {
		t.Errorf("it is not asked again: %v", err)
	}
}

func TestLogoutAtTheProviderEndsTheSessionsAtOnce(t *testing.T) {
	f := newFixture(t, withProvider())
	ctx, stop := context.WithTimeout(t.Context(), 30*time.Second)
	defer stop()
	front.upstream.Say("00u3", upstream.Person{"preferred_username": "hardik"})
	b := both(t)
	token := f.enters(b)
	id := must[string](t)(f.Introspect(ctx, token, aKey))
	before := f.dir.Snapshot().Users[id].AuthGeneration
	sent := must[string](t)(front.upstream.LogOut(ctx, "00u3"))
	if _, err := f.Introspect(ctx, token, aKey); err == nil {
		t.Error("the login goes on")
	}
	if now := f.dir.Snapshot().Users[id].AuthGeneration; now != before+1 {
		t.Errorf("generation %d, was %d", now, before)
	}
	// The same token again, and tokens that are none.
	again := f.enters(b)
	for name, bad := range map[string]string{
		"replayed": sent, "empty": "", "text": "x.y.z", "unsigned": unsigned(sent), "cut": sent[:len(sent)-8],
	} {
		if code := must[int](t)(front.upstream.Send(ctx, bad)); code != http.StatusBadRequest {
			t.Errorf("%s: %d", name, code)
		}
	}
	if _, err := f.Introspect(ctx, again, aKey); err != nil {
		t.Errorf("a token that is none ended the login: %v", err)
	}
}

// unsigned is a token with the algorithm none.
func unsigned(token string) string {
	parts := strings.Split(token, ".")
	return "eyJhbGciOiJub25lIn0." + parts[1] + "."
}

// TestIDTokenIsNoLogoutToken: both are signed by the same key for the same
// audience.
func TestIDTokenIsNoLogoutToken(t *testing.T) {
	f := newFixture(t, withProvider())
	ctx := t.Context()
	front.upstream.Say("00u4", upstream.Person{"preferred_username": "jasprit", "jti": "one", "events": map[string]any{logoutEvent: map[string]any{}}})
	token := f.enters(both(t))
	up := f.upstreams["corp"]
	p, err := up.discover(ctx)
	if err != nil {
		t.Fatal(err)
	}
	var id string
	err = f.store.View(ctx, func(r store.Reader) error {
		return r.List(upstreamPrefix, func(it store.Item) error {
			var s upstreamSession
			if _, err := store.GetJSON(r, it.Key, &s); err != nil {
				return err
			}
			refresh, err := f.vault.open(sealRefresh(it.Key), s.Sealed)
			if err != nil {
				return err
			}
			client := up.client(p)
			t, err := client.TokenSource(up.context(ctx), &oauth2.Token{RefreshToken: string(refresh)}).Token()
			if err == nil {
				id, _ = t.Extra("id_token").(string)
			}
			return err
		})
	})
	if err != nil || id == "" {
		t.Fatalf("no id token: %v", err)
	}
	if code := must[int](t)(front.upstream.Send(ctx, id)); code != http.StatusBadRequest {
		t.Errorf("an id token logs out: %d", code)
	}
	if _, err := f.Introspect(ctx, token, aKey); err != nil {
		t.Error(err)
	}
}

// TestNobodyIsTakenForSomebodyElse: a name or an address that somebody here has
// too gives nothing of his.
func TestNobodyIsTakenForSomebodyElse(t *testing.T) {
	f := newFixture(t, withProvider())
	ctx := t.Context()
	front.upstream.Say("00u5", upstream.Person{"preferred_username": "shivam", "email": "shivam@corp.example", "email_verified": true})
	id := must[string](t)(f.Introspect(ctx, f.enters(both(t)), aKey))
	if u := f.dir.Snapshot().Users[id]; id == f.user.Id || u.Name != "shivam-2" {
		t.Errorf("came in as %s", u.Name)
	}
	// The same subject again is the same user, whatever he is called now.
	front.upstream.Say("00u5", upstream.Person{"preferred_username": "renamed"})
	if again := must[string](t)(f.Introspect(ctx, f.enters(both(t)), aKey)); again != id {
		t.Errorf("came in as another user: %s", again)
	}
}

func TestStrangersComeInOnlyWhereTheyMay(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*Provider)
		says   upstream.Person
		in     bool
	}{
		"nobody is added":        {func(p *Provider) { p.CreateUsers = false }, upstream.Person{"email": "a@corp.example", "email_verified": true}, false},
		"another domain":         {func(p *Provider) { p.Domains = []string{"corp.example"} }, upstream.Person{"email": "a@evil.example", "email_verified": true}, false},
		"an address not checked": {func(p *Provider) { p.Domains = []string{"corp.example"} }, upstream.Person{"email": "a@corp.example", "email_verified": false}, false},
		"the right domain":       {func(p *Provider) { p.Domains = []string{"corp.example"} }, upstream.Person{"email": "a@Corp.example", "email_verified": true}, true},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t, withProvider(c.change))
			front.upstream.Say("00u6", c.says)
			p := f.through(both(t), newFlow())
			if in := p.Form != nil; in != c.in {
				t.Fatalf("%d %s", p.Status, p.Text)
			}
			if !c.in && (p.Status != http.StatusForbidden || !strings.Contains(p.Text, "00u6")) {
				t.Errorf("%d %s", p.Status, p.Text)
			}
			if users := len(f.dir.Snapshot().Users); (users == 2) != c.in {
				t.Errorf("%d users", users)
			}
		})
	}
}

// TestAnswerIsTheBrowsersThatLeft: the provider's answer is good in the browser
// that left for it, once.
func TestAnswerIsTheBrowsersThatLeft(t *testing.T) {
	newFixture(t, withProvider())
	ctx := t.Context()
	front.upstream.Say("00u7", upstream.Person{"preferred_username": "kl"})
	b := both(t)
	login := must[*page](t)(b.Open(ctx, newFlow().address()))
	// Stop on the way back.
	var answer *url.URL
	b.StopAt(func(u *url.URL) bool {
		if strings.HasSuffix(u.Path, "/callback") {
			answer = u
		}
		return answer != nil
	})
	must[*page](t)(b.Open(ctx, upstreamLink(login)))
	if answer == nil {
		t.Fatal("no answer came")
	}
	for name, who := range map[string]*coordinatortest.Browser{"another browser": both(t)} {
		if p := must[*page](t)(who.Open(ctx, answer.String())); p.Status != http.StatusForbidden || !strings.Contains(p.Text, "began elsewhere") {
			t.Errorf("%s: %d %s", name, p.Status, p.Text)
		}
	}
	other := *answer
	q := other.Query()
	q.Set("iss", "https://evil.example")
	other.RawQuery = q.Encode()
	if p := must[*page](t)(b.Open(ctx, other.String())); p.Status != http.StatusForbidden {
		t.Errorf("another issuer's: %d %s", p.Status, p.Text)
	}
	b.StopAtLoopback()
	if p := must[*page](t)(b.Open(ctx, answer.String())); p.Form == nil || p.Form.Values.Get("consent_challenge") == "" {
		t.Fatalf("%d %s", p.Status, p.Text)
	}
	if p := must[*page](t)(b.Open(ctx, answer.String())); p.Status != http.StatusForbidden {
		t.Errorf("twice: %d %s", p.Status, p.Text)
	}
	// And without the login's own cookie nobody leaves.
	if p := must[*page](t)(both(t).Open(ctx, upstreamLink(login))); p.Status != http.StatusGone && p.Status != http.StatusForbidden {
		t.Errorf("a stranger leaves: %d %s", p.Status, p.Text)
	}
}

// TestLinkIsMadeByThePersonAlone links at the account page and logs in by it.
func TestLinkIsMadeByThePersonAlone(t *testing.T) {
	f := newFixture(t, withProvider(func(p *Provider) { p.CreateUsers = false }))
	ctx := t.Context()
	front.upstream.Say("00u8", upstream.Person{"preferred_username": "somebody"})
	b := both(t)
	f.visits(b, "/account", "shivam")
	if p := must[*page](t)(b.Open(ctx, front.server.URL+"/account/link/corp")); p.Status != http.StatusForbidden {
		t.Errorf("without the page's token: %d %s", p.Status, p.Text)
	}
	v := f.visitorOf(b)
	p := must[*page](t)(b.Open(ctx, front.server.URL+"/account/link/corp?token="+f.visitToken(v, "link", "corp")))
	if p.URL.Path != "/account" || !strings.Contains(p.Text, "00u8") {
		t.Fatalf("%d %s %s", p.Status, p.URL, p.Text)
	}
	if id := must[string](t)(f.Introspect(ctx, f.enters(both(t)), aKey)); id != f.user.Id {
		t.Errorf("came in as %s", id)
	}
	// Another user cannot have it, and unlinking ends what it let in.
	if _, _, err := f.dir.CreateUser(ctx, directory.UserSpec{Name: "mallory", Password: password}); err != nil {
		t.Fatal(err)
	}
	mallory := both(t)
	f.visits(mallory, "/account", "mallory")
	v = f.visitorOf(mallory)
	p = must[*page](t)(mallory.Open(ctx, front.server.URL+"/account/link/corp?token="+f.visitToken(v, "link", "corp")))
	if p.Status != http.StatusConflict {
		t.Errorf("linked twice: %d %s", p.Status, p.Text)
	}
	if _, _, err := f.dir.UnlinkIdentity(ctx, "shivam", "corp"); err != nil {
		t.Fatal(err)
	}
	if p := f.through(both(t), newFlow()); p.Status != http.StatusForbidden {
		t.Errorf("unlinked: %d %s", p.Status, p.Text)
	}
}

// visitorOf is whom the browser's cookie names.
func (f *fixture) visitorOf(b *coordinatortest.Browser) visitor {
	f.t.Helper()
	r, err := http.NewRequestWithContext(f.t.Context(), http.MethodGet, front.server.URL, nil)
	if err != nil {
		f.t.Fatal(err)
	}
	for _, c := range b.Cookies(front.server.URL) {
		r.AddCookie(c)
	}
	v, ok := f.visitor(r)
	if !ok {
		f.t.Fatal("nobody visits")
	}
	return v
}
