package login

import (
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/pquerna/otp/totp"
	"golang.org/x/oauth2"

	"github.com/sallyport-mesh/sallyport/coordinator/coordinatortest"
	"github.com/sallyport-mesh/sallyport/coordinator/internal/store"
)

var (
	secretText   = regexp.MustCompile(`[A-Z2-7]{4}(?: [A-Z2-7]{4}){7}`)
	recoveryText = regexp.MustCompile(`[a-z2-7]{4}(?:-[a-z2-7]{4}){3}`)
)

// codeNow is what the authenticator shows.
func (f *fixture) codeNow(secret string) string {
	f.t.Helper()
	code, err := totp.GenerateCode(secret, f.App.cfg.Now())
	if err != nil {
		f.t.Fatal(err)
	}
	return code
}

// nextCode waits, by the application's clock, for a code that was not used.
func (f *fixture) nextCode(secret string) string {
	f.forward(totpPeriod)
	return f.codeNow(secret)
}

// enable turns the second factor on at the account page.
func (f *fixture) enable(b *coordinatortest.Browser) (secret string, recovery []string) {
	f.t.Helper()
	p := f.visits(b, "/account/second-factor", "shivam")
	secret = strings.ReplaceAll(secretText.FindString(p.Text), " ", "")
	if wrong := must[*page](f.t)(b.Submit(f.t.Context(), p.Form, map[string]string{"act": "enable", "code": "000000"})); wrong.Status != http.StatusForbidden ||
		strings.ReplaceAll(secretText.FindString(wrong.Text), " ", "") != secret {
		f.t.Fatalf("a wrong code: %d %s", wrong.Status, wrong.Text)
	}
	done := must[*page](f.t)(b.Submit(f.t.Context(), p.Form, map[string]string{"act": "enable", "code": f.codeNow(secret)}))
	if recovery = recoveryText.FindAllString(done.Text, -1); len(recovery) != recoveryCodes {
		f.t.Fatalf("%d %s", done.Status, done.Text)
	}
	return secret, recovery
}

// first passes the first factor of a login, to the page that asks for the second.
func (f *fixture) first(b *coordinatortest.Browser, fl *flow) *page {
	f.t.Helper()
	p := must[*page](f.t)(b.Open(f.t.Context(), fl.address()))
	p = must[*page](f.t)(b.Submit(f.t.Context(), p.Form, map[string]string{"username": "shivam", "password": password}))
	if p.Form == nil || p.Form.Values.Get("halfway") == "" {
		f.t.Fatalf("it does not ask for a second factor: %d %s", p.Status, p.Text)
	}
	return p
}

func (f *fixture) second(b *coordinatortest.Browser, p *page, code string) *page {
	f.t.Helper()
	return must[*page](f.t)(b.Submit(f.t.Context(), p.Form, map[string]string{"code": code}))
}

func TestSecondFactorIsAskedForAndEachCodeWorksOnce(t *testing.T) {
	f := newFixture(t)
	ctx := t.Context()
	secret, recovery := f.enable(browser(t))

	// The code with which it was turned on is used.
	b, fl := browser(t), newFlow()
	p := f.first(b, fl)
	for name, code := range map[string]string{"used": f.codeNow(secret), "empty": "", "password": password, "unknown recovery": "aaaa-bbbb-cccc-dddd"} {
		if q := f.second(b, p, code); q.Status != http.StatusForbidden || q.Form == nil {
			t.Errorf("%s: %d %s", name, q.Status, q.Text)
		}
	}
	code := f.nextCode(secret)
	q := f.second(b, p, " "+code[:3]+" "+code[3:])
	if q.Form == nil || q.Form.Values.Get("consent_challenge") == "" {
		t.Fatalf("%d %s", q.Status, q.Text)
	}
	q = must[*page](t)(b.Submit(ctx, q.Form, map[string]string{"decision": "allow"}))
	must[*oauth2.Token](t)(fl.exchange(ctx, q.Location))

	// Not again within its half minute, in another browser.
	b = browser(t)
	p = f.first(b, newFlow())
	if q := f.second(b, p, code); q.Status != http.StatusForbidden {
		t.Errorf("the same code again: %d %s", q.Status, q.Text)
	}
	// A recovery code, in capitals and without dashes, once.
	lost := strings.ToUpper(strings.ReplaceAll(recovery[3], "-", ""))
	if q := f.second(b, p, lost); q.Form == nil || q.Form.Values.Get("consent_challenge") == "" {
		t.Fatalf("a recovery code: %d %s", q.Status, q.Text)
	}
	b = browser(t)
	p = f.first(b, newFlow())
	if q := f.second(b, p, recovery[3]); q.Status != http.StatusForbidden {
		t.Errorf("a recovery code again: %d %s", q.Status, q.Text)
	}
	// What is stored opens nothing.
	err := f.store.View(ctx, func(r store.Reader) error {
		return r.List("", func(it store.Item) error {
			for _, plain := range append(recovery, secret) {
				if strings.Contains(string(it.Value), plain) || strings.Contains(string(it.Value), strings.ReplaceAll(plain, "-", "")) {
					t.Errorf("%s holds a secret in the clear", it.Key)
				}
			}
			return nil
		})
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestSecondFactorCannotBeSteppedAround tries to get past the page that asks for
// it: another login's first factor, an old one, guesses.
func TestSecondFactorCannotBeSteppedAround(t *testing.T) {
	f := newFixture(t)
	ctx := t.Context()
	secret, _ := f.enable(browser(t))
	b := browser(t)
	p := f.first(b, newFlow())
	other := browser(t)
	login := must[*page](t)(other.Open(ctx, newFlow().address()))
	for name, set := range map[string]map[string]string{
		"no first factor":       {"halfway": ""},
		"another login's":       {"login_challenge": login.Form.Values.Get("login_challenge"), "token": login.Form.Values.Get("token")},
		"a broken first factor": {"halfway": "A" + p.Form.Values.Get("halfway")},
	} {
		set["code"] = f.nextCode(secret)
		who := b
		if name == "another login's" {
			who = other
		}
		if q := must[*page](t)(who.Submit(ctx, p.Form, set)); q.Status != http.StatusForbidden || strings.Contains(q.Text, "Allow this device") {
			t.Errorf("%s: %d %s", name, q.Status, q.Text)
		}
	}
	last := 0
	for range 7 {
		last = f.second(b, p, "123456").Status
	}
	if last != http.StatusTooManyRequests {
		t.Errorf("the seventh guess: %d", last)
	}
	f.forward(secondLife + time.Minute)
	if q := f.second(b, p, f.codeNow(secret)); q.Status != http.StatusForbidden || strings.Contains(q.Text, "Allow") {
		t.Errorf("an old first factor: %d %s", q.Status, q.Text)
	}
	// Turned off by an administrator: everything before is over.
	before := f.user.AuthGeneration
	u, _, err := f.dir.RemoveSecondFactor(ctx, "shivam", true)
	if err != nil || u.SecondFactor || u.AuthGeneration == before {
		t.Errorf("%v, %v", u, err)
	}
	if token := f.token(); token == "" {
		t.Error("no login without it")
	}
}

func TestRequiredSecondFactorIsSetUpInTheLogin(t *testing.T) {
	f := newFixture(t)
	f.App.cfg.RequireSecondFactor = true
	ctx := t.Context()
	b, fl := browser(t), newFlow()
	p := f.first(b, fl)
	secret := strings.ReplaceAll(secretText.FindString(p.Text), " ", "")
	// Nothing is skipped.
	if q := f.second(b, p, ""); q.Status != http.StatusForbidden {
		t.Fatalf("without a code: %d %s", q.Status, q.Text)
	}
	codes := f.second(b, p, f.codeNow(secret))
	if len(recoveryText.FindAllString(codes.Text, -1)) != recoveryCodes {
		t.Fatalf("%d %s", codes.Status, codes.Text)
	}
	q := f.second(b, codes, f.nextCode(secret))
	q = must[*page](t)(b.Submit(ctx, q.Form, map[string]string{"decision": "allow"}))
	must[*oauth2.Token](t)(fl.exchange(ctx, q.Location))
	f.recorded("!login", "login.second-factor", "login", "login.consent")
	// And it cannot be turned off again.
	account := browser(t)
	p = must[*page](t)(account.Open(ctx, front.server.URL+"/account/second-factor"))
	p = must[*page](t)(account.Submit(ctx, p.Form, map[string]string{"username": "shivam", "password": password}))
	p = f.second(account, p, f.nextCode(secret))
	if !strings.Contains(p.Text, "On since") {
		t.Fatal(p.Text)
	}
	f.forward(totpPeriod)
	if q := must[*page](t)(account.Submit(ctx, p.Form, map[string]string{"act": "disable", "code": f.codeNow(secret)})); q.Status != http.StatusForbidden {
		t.Errorf("turned off: %d %s", q.Status, q.Text)
	}
	if q := must[*page](t)(account.Submit(ctx, p.Form, map[string]string{"act": "codes", "code": f.codeNow(secret)})); len(recoveryText.FindAllString(q.Text, -1)) != recoveryCodes {
		t.Errorf("new codes: %d %s", q.Status, q.Text)
	}
}
