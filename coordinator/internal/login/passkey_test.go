package login

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/webauthn"
	"github.com/chromedp/chromedp"

	"github.com/sallyport-mesh/sallyport/coordinator/coordinatortest"
	"github.com/sallyport-mesh/sallyport/coordinator/internal/directory"
)

// authenticator plugs one into the browser that checks who holds it, and says yes
// to everything.
func authenticator() chromedp.Action[webauthn.AuthenticatorID] {
	return func(ctx context.Context, t *chromedp.Target) (webauthn.AuthenticatorID, error) {
		if _, err := cdp.Call(ctx, t, webauthn.Enable, webauthn.EnableParams{}); err != nil {
			return "", err
		}
		res, err := cdp.Call(ctx, t, webauthn.AddVirtualAuthenticator, webauthn.AddVirtualAuthenticatorParams{Options: &webauthn.VirtualAuthenticatorOptions{
			Protocol: webauthn.AuthenticatorProtocolCtap2, Transport: webauthn.AuthenticatorTransportInternal,
			HasResidentKey: true, HasUserVerification: true, IsUserVerified: true, AutomaticPresenceSimulation: true,
		}})
		return res.AuthenticatorID, err
	}
}

// forged makes the authenticator answer with a signature that is none, or not.
func forged(id *webauthn.AuthenticatorID, bogus bool) tabStep {
	return chromedp.Func(func(ctx context.Context, t *chromedp.Target) error {
		_, err := cdp.Call(ctx, t, webauthn.SetResponseOverrideBits, webauthn.SetResponseOverrideBitsParams{AuthenticatorID: *id, IsBogusSignature: &bogus})
		return err
	})
}

// strangerToPages forgets every cookie.
func strangerToPages() tabStep {
	return chromedp.Func(func(ctx context.Context, t *chromedp.Target) error {
		_, err := cdp.Call(ctx, t, network.ClearBrowserCookies, cdp.Empty{})
		return err
	})
}

// atName runs the pages under a name, which passkeys need, before a Hydra of
// their own.
func atName(t *testing.T, run func(*fixture, *frontend)) {
	t.Helper()
	var at frontend
	if err := at.serve("localhost", func() { run(newFixtureAt(t, &at), &at) }); err != nil {
		t.Fatal(err)
	}
}

func pool(at *frontend) *x509.CertPool {
	p := x509.NewCertPool()
	p.AddCert(at.server.Certificate())
	return p
}

// TestPersonLogsInWithAPasskey has real Chromium make a passkey on a virtual
// authenticator and log in with it, without a password.
func TestPersonLogsInWithAPasskey(t *testing.T) {
	atName(t, func(f *fixture, at *frontend) {
		// What the browser sends, for those who would send it again.
		var mu sync.Mutex
		var sent url.Values
		inner := *at.current.Load()
		var spying http.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/login/passkey" && r.ParseForm() == nil {
				mu.Lock()
				sent = r.PostForm
				mu.Unlock()
			}
			inner.ServeHTTP(w, r)
		})
		at.current.Store(&spying)

		ctx := chromium(t)
		const (
			add   = `form[data-passkey=create] button`
			use   = `form[data-passkey=get] button`
			alert = `main > [role=alert]`
		)
		var id webauthn.AuthenticatorID
		var listed, problem string
		fl := newFlowAt(at)
		answers := terminal(t, fl)
		err := chromedp.Do(ctx,
			save(&id, authenticator()),
			chromedp.Navigate(at.url+"/account/passkeys"),
			chromedp.SendKeys(chromedp.CSS("#username"), "shivam"),
			chromedp.SendKeys(chromedp.CSS("#password"), password+"\r"),
			chromedp.WaitVisible(chromedp.CSS(add)),
			chromedp.Click(chromedp.CSS(add)),
			chromedp.WaitVisible(chromedp.CSS(".links")),
			save(&listed, chromedp.Text(chromedp.CSS(".links"))),
			shoot("passkeys"),

			// A signature that is none.
			strangerToPages(),
			forged(&id, true),
			chromedp.Navigate(fl.address()),
			chromedp.WaitVisible(chromedp.CSS(use)),
			shoot("login-passkey"),
			chromedp.Click(chromedp.CSS(use)),
			chromedp.WaitVisible(chromedp.CSS(alert)),
			save(&problem, chromedp.Text(chromedp.CSS(alert))),
			// And the real one.
			forged(&id, false),
			chromedp.Click(chromedp.CSS(use)),
			chromedp.WaitVisible(chromedp.CSS("button[value=allow]")),
			chromedp.Click(chromedp.CSS("button[value=allow]")),
			chromedp.WaitVisible(chromedp.CSS("#terminal")),
		)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(listed, "passkey") || !strings.Contains(problem, "was not checked") {
			t.Errorf("saw %q, %q", listed, problem)
		}
		if q := (<-answers).URL.Query(); q.Get("code") == "" || q.Get("error") != "" {
			t.Errorf("the terminal got %v", q)
		}
		f.recorded("login", "login.passkey", "!login", "login", "login.consent")
		keys, err := f.dir.Passkeys(t.Context(), f.user.Id)
		if err != nil || len(keys) != 1 || keys[0].UsedAt.IsZero() {
			t.Fatalf("%+v, %v", keys, err)
		}

		// The answer again: to the same login, and to another, whose challenge is
		// another.
		mu.Lock()
		overheard := sent
		mu.Unlock()
		b := must[*coordinatortest.Browser](t)(coordinatortest.NewBrowser(&tls.Config{RootCAs: pool(at), ServerName: "127.0.0.1"}))
		p := must[*page](t)(b.Open(t.Context(), newFlowAt(at).address()))
		c := must[challenge](t)(parseChallenge(loginStep, p.Form.Values.Get("login_challenge")))
		fresh := must[*ceremony](t)(f.askForPasskey(c))
		with := func(set map[string]string) url.Values {
			form := url.Values{}
			for k := range overheard {
				form.Set(k, overheard.Get(k))
			}
			for k, v := range set {
				form.Set(k, v)
			}
			return form
		}
		other := map[string]string{"login_challenge": c.text, "token": p.Form.Values.Get("token")}
		for name, form := range map[string]url.Values{
			"the same login":                  with(nil),
			"another login":                   with(other),
			"another login, with its session": with(map[string]string{"login_challenge": c.text, "token": other["token"], "session": fresh.Session}),
		} {
			p := &coordinatortest.Form{Action: must[*url.URL](t)(url.Parse(at.url + "/login/passkey")), Values: form}
			if res := must[*page](t)(b.Submit(t.Context(), p, nil)); res.Status < 400 {
				t.Errorf("%s: %d %s", name, res.Status, res.Text)
			}
		}
		if got := f.kinds(); slices.Contains(got[5:], "login") || !slices.Contains(got[5:], "!login") {
			t.Errorf("an answer was sent again: %v", got)
		}

		// A suspended person's passkey, and one that was removed.
		if _, _, err := f.dir.SuspendUser(t.Context(), "shivam", ""); err != nil {
			t.Fatal(err)
		}
		ended := newFlowAt(at)
		refusals := terminal(t, ended)
		login := []chromedp.Action[chromedp.Void]{
			strangerToPages(),
			chromedp.Navigate(ended.address()),
			chromedp.WaitVisible(chromedp.CSS(use)),
			chromedp.Click(chromedp.CSS(use)),
		}
		if err := chromedp.Do(ctx, append(login, chromedp.WaitVisible(chromedp.CSS("#terminal")))...); err != nil {
			t.Fatal(err)
		}
		if q := (<-refusals).URL.Query(); !strings.Contains(q.Get("error_description"), "suspended") {
			t.Errorf("the terminal got %v", q)
		}
		if _, _, err := f.dir.ResumeUser(t.Context(), "shivam", ""); err != nil {
			t.Fatal(err)
		}
		if _, _, err := f.dir.RemoveSecondFactor(t.Context(), "shivam", true); err != nil { // an administrator's reset
			t.Fatal(err)
		}
		ended = newFlowAt(at)
		terminal(t, ended)
		login[1] = chromedp.Navigate(ended.address())
		if err := chromedp.Do(ctx, append(login, chromedp.WaitVisible(chromedp.CSS(alert)), save(&problem, chromedp.Text(chromedp.CSS(alert))))...); err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(problem, "not known here") {
			t.Errorf("after the reset: %q", problem)
		}
		f.holdsNothing("passkeys/", "passkeyid/")
	})
}

// A coordinator that is known by an address alone offers none.
func TestPasskeysNeedAName(t *testing.T) {
	f := newFixture(t)
	b := browser(t)
	p := must[*page](t)(b.Open(t.Context(), newFlow().address()))
	if strings.Contains(p.Text, "passkey") || f.passkeys != nil {
		t.Error(p.Text)
	}
	p = f.visits(b, "/account/passkeys", "shivam")
	if !strings.Contains(p.Text, "known by an address alone") {
		t.Error(p.Text)
	}
}

func TestPasskeyBelongsToOnePerson(t *testing.T) {
	f := newFixture(t)
	ctx := t.Context()
	other, _, err := f.dir.CreateUser(ctx, directory.UserSpec{Name: "virat"})
	if err != nil {
		t.Fatal(err)
	}
	key := directory.Passkey{ID: []byte("credential"), Name: "laptop", Credential: []byte("{}")}
	if err := f.dir.AddPasskey(ctx, f.user.Id, key); err != nil {
		t.Fatal(err)
	}
	if err := f.dir.AddPasskey(ctx, other.Id, key); err == nil {
		t.Error("one credential is two people's")
	}
	if err := f.dir.RemovePasskey(ctx, other.Id, key.ID); err == nil {
		t.Error("somebody else's passkey was removed")
	}
	if err := f.dir.RemovePasskey(ctx, f.user.Id, key.ID); err != nil {
		t.Error(err)
	}
	if err := f.dir.UsePasskey(ctx, f.user.Id, key.ID, key.Credential); err == nil {
		t.Error("a passkey that is gone was used")
	}
	if err := f.dir.AddPasskey(ctx, other.Id, key); err != nil {
		t.Errorf("a free one: %v", err)
	}
	if _, _, err := f.dir.DeleteUser(ctx, "virat"); err != nil {
		t.Fatal(err)
	}
	f.holdsNothing("passkeyid/")
}
