package login

import (
	"encoding/base64"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"

	"golang.org/x/oauth2"

	"github.com/sallyport-mesh/sallyport/coordinator/coordinatortest"
	"github.com/sallyport-mesh/sallyport/coordinator/internal/directory"
)

// TestUsedChallengeIsNotAcceptedForAnotherSubject replays a finished login as
// another user, in its canonical text and in the other texts that Hydra decodes
// to the same challenge.
func TestUsedChallengeIsNotAcceptedForAnotherSubject(t *testing.T) {
	f := newFixture(t)
	ctx := t.Context()
	if _, _, err := f.dir.CreateUser(ctx, directory.UserSpec{Name: "mallory", Password: password}); err != nil {
		t.Fatal(err)
	}
	b := browser(t)
	login := must[*page](t)(b.Open(ctx, newFlow().address()))
	cookies := b.Cookies(front.server.URL)
	consent := must[*page](t)(b.Submit(ctx, login.Form, map[string]string{"username": "shivam", "password": password}))
	if consent.Form == nil {
		t.Fatal(consent.Text)
	}
	challenge := login.Form.Values.Get("login_challenge")

	for name, text := range map[string]string{
		"as it was":       challenge,
		"with a newline":  challenge[:20] + "\n" + challenge[20:],
		"with other bits": malleable(t, challenge),
	} {
		form := maps(login.Form.Values)
		form.Set("login_challenge", text)
		form.Set("username", "mallory")
		form.Set("password", password)
		resp := raw(t, "POST", "/login", strings.NewReader(form.Encode()), func(r *http.Request) {
			r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
			for _, c := range cookies { // the cookie of before it was used
				r.AddCookie(c)
			}
		})
		if resp.StatusCode != http.StatusGone && resp.StatusCode != http.StatusBadRequest || resp.Header.Get("Location") != "" {
			t.Errorf("%s: %s to %q", name, resp.Status, resp.Header.Get("Location"))
		}
	}
	f.recorded("login")
}

// malleable is another text of the same bytes.
func malleable(t *testing.T, challenge string) string {
	t.Helper()
	body := strings.TrimRight(challenge, "=")
	if len(body) == len(challenge) {
		return challenge + "\r\n"
	}
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	last := strings.IndexByte(alphabet, body[len(body)-1])
	other := body[:len(body)-1] + string(alphabet[last|1]) + challenge[len(body):]
	if other == challenge {
		t.Fatal("no other text found")
	}
	if _, err := base64.URLEncoding.DecodeString(other); err != nil {
		t.Fatalf("the other text does not decode: %v", err)
	}
	return other
}

func maps(v url.Values) url.Values {
	out := url.Values{}
	for k, vs := range v {
		out[k] = append([]string(nil), vs...)
	}
	return out
}

// TestOneChallengeRacedIsAcceptedOnce sends the same good form many times at
// once: one is accepted.
func TestOneChallengeRacedIsAcceptedOnce(t *testing.T) {
	f := newFixture(t)
	b := browser(t)
	login := must[*page](t)(b.Open(t.Context(), newFlow().address()))
	form := maps(login.Form.Values)
	form.Set("username", "shivam")
	form.Set("password", password)
	cookies := b.Cookies(front.server.URL)
	var group sync.WaitGroup
	var mu sync.Mutex
	accepted := 0
	for range 4 { // fewer than the wrong passwords that are free
		group.Go(func() {
			resp := raw(t, "POST", "/login", strings.NewReader(form.Encode()), func(r *http.Request) {
				r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
				for _, c := range cookies {
					r.AddCookie(c)
				}
			})
			mu.Lock()
			defer mu.Unlock()
			switch resp.StatusCode {
			case http.StatusSeeOther:
				accepted++
			case http.StatusGone:
			default:
				t.Errorf("%s", resp.Status)
			}
		})
	}
	group.Wait()
	if accepted != 1 {
		t.Errorf("accepted %d times", accepted)
	}
	f.recorded("login")
}

// TestChallengeIsTheBrowsersThatBeganIt opens a login's page elsewhere, with no
// cookie and with the cookie of another login.
func TestChallengeIsTheBrowsersThatBeganIt(t *testing.T) {
	f := newFixture(t)
	ctx := t.Context()
	login := must[*page](t)(browser(t).Open(ctx, newFlow().address()))
	other := browser(t)
	for range 2 {
		p := must[*page](t)(other.Open(ctx, login.URL.String()))
		if p.Status != http.StatusForbidden || p.Form != nil || !strings.Contains(p.Text, "in which it was begun") {
			t.Errorf("%d: %s", p.Status, p.Text)
		}
		p = must[*page](t)(other.Submit(ctx, login.Form, map[string]string{"username": "shivam", "password": password}))
		if p.Status != http.StatusForbidden || p.Location != nil {
			t.Errorf("submitted elsewhere: %d %v: %s", p.Status, p.Location, p.Text)
		}
		must[*page](t)(other.Open(ctx, newFlow().address())) // now it has cookies of its own
	}
	f.recorded()
}

// TestFormWithoutItsTokenIsRefused leaves out and changes each of what a form
// carries, and sends it from another site.
func TestFormWithoutItsTokenIsRefused(t *testing.T) {
	f := newFixture(t)
	ctx := t.Context()
	b := browser(t)
	login := must[*page](t)(b.Open(ctx, newFlow().address()))
	who := map[string]string{"username": "shivam", "password": password}
	for name, token := range map[string]string{"none": "", "another": "AAAA", "longer": login.Form.Values.Get("token") + "A"} {
		form := *login.Form
		form.Values = maps(form.Values)
		form.Values.Set("token", token)
		p := must[*page](t)(b.Submit(ctx, &form, who))
		if p.Status != http.StatusForbidden || p.Form != nil {
			t.Errorf("token %s: %d %s", name, p.Status, p.Text)
		}
	}
	form := maps(login.Form.Values)
	form.Set("username", "shivam")
	form.Set("password", password)
	for _, h := range [][2]string{{"Sec-Fetch-Site", "cross-site"}, {"Sec-Fetch-Site", "same-site"}, {"Origin", "https://evil.example"}, {"Origin", "null"}} {
		resp := raw(t, "POST", "/login", strings.NewReader(form.Encode()), func(r *http.Request) {
			r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
			r.Header.Set(h[0], h[1])
			for _, c := range b.Cookies(front.server.URL) {
				r.AddCookie(c)
			}
		})
		if resp.StatusCode != http.StatusForbidden {
			t.Errorf("%s: %s: %s", h[0], h[1], resp.Status)
		}
	}
	// The consent form has the same locks.
	consent := must[*page](t)(b.Submit(ctx, login.Form, who))
	bad := *consent.Form
	bad.Values = maps(bad.Values)
	bad.Values.Set("token", login.Form.Values.Get("token")) // of the step before
	if p := must[*page](t)(b.Submit(ctx, &bad, map[string]string{"decision": "allow"})); p.Status != http.StatusForbidden {
		t.Errorf("consent with the login's token: %d %s", p.Status, p.Text)
	}
	if p := must[*page](t)(browser(t).Submit(ctx, consent.Form, map[string]string{"decision": "allow"})); p.Status != http.StatusForbidden {
		t.Errorf("consent from elsewhere: %d %s", p.Status, p.Text)
	}
	f.recorded("login")
}

// TestNoRequestChoosesWhereTheBrowserGoes puts addresses wherever they could be
// taken for one.
func TestNoRequestChoosesWhereTheBrowserGoes(t *testing.T) {
	newFixture(t)
	ctx := t.Context()
	evil := url.QueryEscape("https://evil.example/")
	for _, path := range []string{
		"/login?redirect_to=" + evil, "/login?login_challenge=" + evil, "/consent?redirect_to=" + evil,
		"/logout?post_logout_redirect_uri=" + evil, "/error?error=x&error_description=" + evil, "//evil.example/login", "/login/..//evil.example",
		"/oauth2/sessions/logout?post_logout_redirect_uri=" + evil,
		"/oauth2/auth?client_id=sallyport&response_type=code&state=12345678&redirect_uri=" + evil,
	} {
		p, err := browser(t).Open(ctx, front.server.URL+path)
		if err != nil {
			t.Errorf("%s: %v", path, err)
			continue
		}
		if p.URL.Host != strings.TrimPrefix(front.server.URL, "https://") || p.Location != nil || strings.Contains(p.Text, "evil") {
			t.Errorf("%s led to %s (%v): %s", path, p.URL, p.Location, p.Text)
		}
	}
	// A redirect_uri of another form is Hydra's to refuse.
	for _, to := range []string{"http://127.0.0.1:1/other", "http://localhost:1/callback", "http://127.0.0.1.evil.example/callback", "https://127.0.0.1:1/callback"} {
		fl := newFlow()
		fl.RedirectURL = to
		p := must[*page](t)(browser(t).Open(ctx, fl.address()))
		if p.Form != nil || p.Location != nil {
			t.Errorf("%s was taken: %s", to, p.Text)
		}
	}
}

// TestSuspendedBetweenLoginAndConsent ends the login with the reason, which the
// terminal hears.
func TestSuspendedBetweenLoginAndConsent(t *testing.T) {
	for name, end := range map[string]func(f *fixture) error{
		"suspended": func(f *fixture) error { _, _, err := f.dir.SuspendUser(t.Context(), "shivam", ""); return err },
		"suspended and resumed": func(f *fixture) error {
			if _, _, err := f.dir.SuspendUser(t.Context(), "shivam", ""); err != nil {
				return err
			}
			_, _, err := f.dir.ResumeUser(t.Context(), "shivam", "")
			return err
		},
		"deleted": func(f *fixture) error { _, _, err := f.dir.DeleteUser(t.Context(), "shivam"); return err },
		"new password": func(f *fixture) error {
			_, _, err := f.dir.SetPassword(t.Context(), "shivam", "another horse")
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			ctx := t.Context()
			fl, b := newFlow(), browser(t)
			p := must[*page](t)(b.Open(ctx, fl.address()))
			consent := must[*page](t)(b.Submit(ctx, p.Form, map[string]string{"username": "shivam", "password": password}))
			if err := end(f); err != nil {
				t.Fatal(err)
			}
			p = must[*page](t)(b.Submit(ctx, consent.Form, map[string]string{"decision": "allow"}))
			if token, err := fl.exchange(ctx, p.Location); err == nil || !strings.Contains(err.Error(), "access_denied") {
				t.Errorf("token %v, %v", token, err)
			}
			f.recorded("login", "!login.consent")
		})
	}
}

// TestTokenDiesWithTheGenerationBeforeHydraHears holds that what ends a user's
// access ends his token here, with Hydra none the wiser.
func TestTokenDiesWithTheGenerationBeforeHydraHears(t *testing.T) {
	f := newFixture(t)
	ctx := t.Context()
	token := f.token()
	if _, err := f.Introspect(ctx, token, aKey); err != nil {
		t.Fatal(err)
	}
	if _, _, err := f.dir.SuspendUser(ctx, "shivam", ""); err != nil {
		t.Fatal(err)
	}
	if id, err := f.Introspect(ctx, token, aKey); err == nil {
		t.Errorf("a suspended user's token is good for %s", id)
	}
	if _, _, err := f.dir.ResumeUser(ctx, "shivam", ""); err != nil {
		t.Fatal(err)
	}
	if id, err := f.Introspect(ctx, token, aKey); err == nil {
		t.Errorf("a token from before the suspension is good for %s", id)
	}
}

// TestOnlyOurAccessTokensCount introspects tokens that Hydra holds for active
// and that are not for us.
func TestOnlyOurAccessTokensCount(t *testing.T) {
	f := newFixture(t)
	ctx := t.Context()
	login := func(change func(*flow) string) string {
		t.Helper()
		fl := newFlow()
		p := must[*page](t)(browser(t).LogIn(ctx, change(fl), "shivam", password))
		return must[*oauth2.Token](t)(fl.exchange(ctx, p.Location)).AccessToken
	}
	if _, err := f.Introspect(ctx, login(func(fl *flow) string { fl.Scopes = []string{"openid"}; return fl.address() }), aKey); err == nil {
		t.Error("a token without our scope is good")
	}
	fl := newFlow()
	p := must[*page](t)(browser(t).LogIn(ctx, fl.address(), "shivam", password))
	token := must[*oauth2.Token](t)(fl.exchange(ctx, p.Location))
	id, _ := token.Extra("id_token").(string)
	for name, bad := range map[string]string{"none": "", "id token": id, "garbage": "ory_at_x.y", "long": strings.Repeat("a", 5000)} {
		if who, err := f.Introspect(ctx, bad, aKey); err == nil {
			t.Errorf("%s is good for %s", name, who)
		}
	}
	// For another audience than this coordinator.
	moved := *f.App
	other := *f.url
	other.Host = "other.example"
	moved.url = &other
	if _, err := moved.Introspect(ctx, token.AccessToken, aKey); err == nil {
		t.Error("a token for another coordinator is good")
	}
}

// TestHydraAdminIsNotReachable asks the public port for what is Hydra's alone.
func TestHydraAdminIsNotReachable(t *testing.T) {
	newFixture(t)
	for _, path := range []string{
		"/admin/clients", "/oauth2/../admin/clients", "/oauth2/%2e%2e/admin/clients", "/clients", "/oauth2/introspect", "/oauth2/auth/requests/login",
		"/oauth2/auth/sessions/consent?subject=x", "/keys/hydra.openid.id-token", "/oauth2/register", "/health/ready", "/version",
		"/oauth2/fallbacks/login", "/oauth2/flush", "/.well-known/../admin/keys/x", "/metrics/prometheus",
	} {
		for _, method := range []string{"GET", "POST", "PUT", "DELETE"} {
			resp := raw(t, method, path, http.NoBody, nil)
			body, err := io.ReadAll(resp.Body)
			if err != nil {
				t.Fatal(err)
			}
			if resp.StatusCode < 300 || strings.Contains(string(body), "client_id") {
				t.Errorf("%s %s: %s %s", method, path, resp.Status, body)
			}
		}
	}
}

func TestWrongPasswordTellsNothing(t *testing.T) {
	f := newFixture(t)
	ctx := t.Context()
	b := browser(t)
	login := must[*page](t)(b.Open(ctx, newFlow().address()))
	known := must[*page](t)(b.Submit(ctx, login.Form, map[string]string{"username": "shivam", "password": "wrong"}))
	unknown := must[*page](t)(b.Submit(ctx, known.Form, map[string]string{"username": "nobody", "password": "wrong"}))
	if known.Status != http.StatusForbidden || known.Status != unknown.Status || known.Text != unknown.Text || !strings.Contains(known.Text, "do not belong together") {
		t.Errorf("known: %d %s\nunknown: %d %s", known.Status, known.Text, unknown.Status, unknown.Text)
	}
	if known.Form.Values.Get("password") != "" {
		t.Error("the page repeats the password")
	}
	// And the right one still works on the same page.
	if p := must[*page](t)(b.Submit(ctx, unknown.Form, map[string]string{"username": "shivam", "password": password})); p.Form == nil || p.Form.Values.Get("consent_challenge") == "" {
		t.Errorf("%d %s", p.Status, p.Text)
	}
	f.recorded("!login", "!login", "login")
	for _, e := range f.records {
		if strings.Contains(e.Ext.Target, "nobody") {
			t.Errorf("what was typed is on record: %v", e.Ext.Target)
		}
	}
}

func TestGuessesAreSlowedDown(t *testing.T) {
	newFixture(t)
	ctx := t.Context()
	b := browser(t)
	p := must[*page](t)(b.Open(ctx, newFlow().address()))
	for range 20 {
		p = must[*page](t)(b.Submit(ctx, p.Form, map[string]string{"username": "shivam", "password": "guess"}))
		if p.Status == http.StatusTooManyRequests {
			if p.Header.Get("Retry-After") == "" || !strings.Contains(p.Text, "Wait") {
				t.Errorf("%v %s", p.Header, p.Text)
			}
			return
		}
	}
	t.Error("twenty guesses in a row were looked at")
}

func TestSuspendedUserIsToldOnlyWithTheRightPassword(t *testing.T) {
	f := newFixture(t)
	ctx := t.Context()
	if _, _, err := f.dir.SuspendUser(ctx, "shivam", ""); err != nil {
		t.Fatal(err)
	}
	fl, b := newFlow(), browser(t)
	p := must[*page](t)(b.Open(ctx, fl.address()))
	p = must[*page](t)(b.Submit(ctx, p.Form, map[string]string{"username": "shivam", "password": "wrong"}))
	if strings.Contains(p.Text, "suspended") {
		t.Errorf("said to a stranger: %s", p.Text)
	}
	p = must[*page](t)(b.Submit(ctx, p.Form, map[string]string{"username": "shivam", "password": password}))
	if _, err := fl.exchange(ctx, p.Location); err == nil || !strings.Contains(err.Error(), "suspended") {
		t.Errorf("the terminal hears: %v", err)
	}
	f.recorded("!login", "!login")
}

func TestRefusingTheDeviceEndsTheLogin(t *testing.T) {
	f := newFixture(t)
	ctx := t.Context()
	fl, b := newFlow(), browser(t)
	p := must[*page](t)(b.Open(ctx, fl.address()))
	p = must[*page](t)(b.Submit(ctx, p.Form, map[string]string{"username": "shivam", "password": password}))
	consent := p.Form
	p = must[*page](t)(b.Submit(ctx, consent, map[string]string{"decision": "deny"}))
	if _, err := fl.exchange(ctx, p.Location); err == nil || !strings.Contains(err.Error(), "access_denied") {
		t.Errorf("the terminal hears: %v", err)
	}
	if p := must[*page](t)(b.Submit(ctx, consent, map[string]string{"decision": "allow"})); p.Location != nil {
		t.Errorf("allowed after it was refused: %v", p.Location)
	}
	f.recorded("login", "!login.consent")
}

func TestExpiredChallengeSaysWhatToRun(t *testing.T) {
	f := newFixture(t)
	ctx := t.Context()
	b := browser(t)
	// A challenge that is ours in form, bound to this browser, and that Hydra
	// does not know (any more).
	c, err := parseChallenge(loginStep, base64.URLEncoding.EncodeToString([]byte(strings.Repeat("gone", 20))))
	if err != nil {
		t.Fatal(err)
	}
	b.SetCookie(front.server.URL, f.bind(c))
	p := must[*page](t)(b.Open(ctx, front.server.URL+"/login?login_challenge="+url.QueryEscape(c.text)))
	if p.Status != http.StatusGone || !strings.Contains(p.Text, "run out") || !strings.Contains(p.Text, "sallyport login") {
		t.Errorf("%d %s", p.Status, p.Text)
	}
}

func TestPagesCannotBeFramedScriptedOrCached(t *testing.T) {
	newFixture(t)
	p := must[*coordinatortest.Page](t)(browser(t).Open(t.Context(), newFlow().address()))
	csp := p.Header.Get("Content-Security-Policy")
	for _, want := range []string{"default-src 'none'", "frame-ancestors 'none'", "base-uri 'none'", "style-src 'self'"} {
		if !strings.Contains(csp, want) {
			t.Errorf("no %s in %s", want, csp)
		}
	}
	if strings.Contains(csp, "unsafe") || strings.Contains(csp, "script-src") || p.Header.Get("X-Frame-Options") != "DENY" || p.Header.Get("Cache-Control") != "no-store" || p.Header.Get("X-Content-Type-Options") != "nosniff" {
		t.Errorf("headers: %v", p.Header)
	}
	for _, path := range []string{"/assets/", "/assets/../templates/login.html", "/assets/%2e%2e/templates/login.html"} {
		if resp := raw(t, "GET", path, nil, nil); resp.StatusCode == http.StatusOK {
			t.Errorf("%s is served", path)
		}
	}
}
