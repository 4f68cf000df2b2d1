package login

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/sallyport-mesh/sallyport/coordinator/coordinatortest"
	"github.com/sallyport-mesh/sallyport/coordinator/internal/store"
)

// waiting is a device without a browser.
type waiting struct {
	t          *testing.T
	key        [32]byte
	DeviceCode string `json:"device_code"`
	UserCode   string `json:"user_code"`
	URI        string `json:"verification_uri"`
	Complete   string `json:"verification_uri_complete"`
}

// post sends a form to an endpoint and decodes the answer.
func post(t *testing.T, path string, form url.Values, into any) int {
	t.Helper()
	resp := raw(t, "POST", path, strings.NewReader(form.Encode()), func(r *http.Request) {
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	})
	if err := json.NewDecoder(resp.Body).Decode(into); err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode
}

func newDevice(t *testing.T) *waiting {
	t.Helper()
	d := &waiting{t: t, key: sha256.Sum256([]byte(t.Name()))}
	code := post(t, DeviceAuthorizationPath, url.Values{
		"client_id": {ClientID}, "device_key": {hex.EncodeToString(d.key[:])}, "device_name": {"build-7\u202e<b>"}, "device_os": {"linux"},
	}, d)
	if code != http.StatusOK || d.DeviceCode == "" || d.Complete != "" {
		t.Fatalf("%d %+v", code, d)
	}
	return d
}

// asks polls once: a token, or an error code.
func (d *waiting) asks() (token, refused string) {
	d.t.Helper()
	var answer struct {
		Token string `json:"access_token"`
		Error string `json:"error"`
	}
	post(d.t, DeviceTokenPath, url.Values{"client_id": {ClientID}, "grant_type": {deviceGrant}, "device_code": {d.DeviceCode}}, &answer)
	return answer.Token, answer.Error
}

func (d *waiting) wants(code string) {
	d.t.Helper()
	if token, refused := d.asks(); refused != code || token != "" {
		d.t.Errorf("the device hears %q (token %v), want %q", refused, token != "", code)
	}
}

// visits opens a page for somebody who is logged in, logging in on the way.
func (f *fixture) visits(b *coordinatortest.Browser, path, name string) *page {
	f.t.Helper()
	p := must[*page](f.t)(b.Open(f.t.Context(), front.server.URL+path))
	if p.URL.Path != "/login" {
		f.t.Fatalf("%s shows %s without a login: %s", path, p.URL.Path, p.Text)
	}
	p = must[*page](f.t)(b.Submit(f.t.Context(), p.Form, map[string]string{"username": name, "password": password}))
	if p.URL.Path != path || p.Status != http.StatusOK {
		f.t.Fatalf("after the login: %d %s %s", p.Status, p.URL, p.Text)
	}
	return p
}

func TestDeviceIsApprovedElsewhere(t *testing.T) {
	f := newFixture(t)
	ctx := t.Context()
	d := newDevice(t)
	d.wants("authorization_pending")

	b := browser(t)
	p := f.visits(b, "/device", "shivam")
	// However it is typed.
	typed := strings.ToLower(strings.ReplaceAll(d.UserCode, "-", " - "))
	p = must[*page](t)(b.Submit(ctx, p.Form, map[string]string{"code": typed}))
	for _, want := range []string{"build-7", "linux", "127.0.0.1", "shivam", d.UserCode, "less than a minute ago"} {
		if !strings.Contains(p.Text, want) {
			t.Errorf("the page does not show %q: %s", want, p.Text)
		}
	}
	f.forward(devicePoll)
	d.wants("authorization_pending") // looking at it approves nothing
	done := must[*page](t)(b.Submit(ctx, p.Form, map[string]string{"decision": "approve"}))
	if !strings.Contains(done.Text, "approved") {
		t.Fatal(done.Text)
	}
	// Once: the same click again, and its opposite.
	for _, decision := range []string{"approve", "deny"} {
		if again := must[*page](t)(b.Submit(ctx, p.Form, map[string]string{"decision": decision})); again.Status != http.StatusGone {
			t.Errorf("%s again: %d %s", decision, again.Status, again.Text)
		}
	}
	token, refused := d.asks()
	if refused != "" {
		t.Fatal(refused)
	}
	d.wants("invalid_grant") // a code is worth one token
	// For this key alone, and once.
	if _, err := f.Introspect(ctx, token, sha256.Sum256([]byte("another key"))); err == nil {
		t.Error("the token is good for another key")
	}
	if _, err := f.Redeem(ctx, token, sha256.Sum256([]byte("another key"))); err == nil {
		t.Error("the token is spent by another key")
	}
	for _, use := range []func() (string, error){
		func() (string, error) { return f.Introspect(ctx, token, d.key) },
		func() (string, error) { return f.Redeem(ctx, token, d.key) },
	} {
		if id, err := use(); err != nil || id != f.user.Id {
			t.Errorf("%s, %v", id, err)
		}
	}
	if _, err := f.Redeem(ctx, token, d.key); err == nil {
		t.Error("the token works twice")
	}
	f.recorded("login", "login.device")
}

func TestDeniedDeviceHearsSo(t *testing.T) {
	f := newFixture(t)
	d := newDevice(t)
	b := browser(t)
	p := f.visits(b, "/device", "shivam")
	p = must[*page](t)(b.Submit(t.Context(), p.Form, map[string]string{"code": d.UserCode}))
	p = must[*page](t)(b.Submit(t.Context(), p.Form, map[string]string{"decision": "deny"}))
	if !strings.Contains(p.Text, "denied") {
		t.Fatal(p.Text)
	}
	d.wants("access_denied")
	f.recorded("login", "!login.device")
}

// TestDeviceThatHurriesIsSlowedDown and what time does to codes and tokens.
func TestDeviceThatHurriesIsSlowedDownAndRunsOut(t *testing.T) {
	f := newFixture(t)
	d := newDevice(t)
	d.wants("authorization_pending")
	d.wants("slow_down")
	f.forward(devicePoll)
	d.wants("slow_down") // the interval has grown
	f.forward(devicePoll + 3*slowerBy)
	d.wants("authorization_pending")
	f.forward(deviceLife)
	d.wants("expired_token")
	d.wants("invalid_grant")
	if err := f.pruneDevices(t.Context()); err != nil {
		t.Fatal(err)
	}
	f.holdsNothing(deviceCodePrefix, userCodePrefix, deviceTokenPrefix)
}

// TestNothingApprovesButTheClick tries what is not a click on the page that was
// shown: links, another visit's form, a form without its token, a code that was
// not looked at.
func TestNothingApprovesButTheClick(t *testing.T) {
	f := newFixture(t)
	ctx := t.Context()
	d := newDevice(t)
	b := browser(t)
	code := f.visits(b, "/device", "shivam")
	for _, link := range []string{"/device?code=" + d.UserCode + "&user_code=" + d.UserCode, "/device/decision?decision=approve&code=" + d.UserCode} {
		if p := must[*page](t)(b.Open(ctx, front.server.URL+link)); strings.Contains(p.Text, d.UserCode) || p.Form != nil && p.Form.Values.Get("code") != "" {
			t.Errorf("%s filled something in: %s", link, p.Text)
		}
	}
	shown := must[*page](t)(b.Submit(ctx, code.Form, map[string]string{"code": d.UserCode}))
	other := newDevice(t)
	for name, set := range map[string]map[string]string{
		"no token":            {"decision": "approve", "token": ""},
		"the first page's":    {"decision": "approve", "token": code.Form.Values.Get("token")},
		"another device":      {"decision": "approve", "code": other.UserCode},
		"no decision":         {"decision": ""},
		"an unknown decision": {"decision": "yes"},
	} {
		if p := must[*page](t)(b.Submit(ctx, shown.Form, set)); p.Status == http.StatusOK {
			t.Errorf("%s: %s", name, p.Text)
		}
	}
	// The form in another person's browser.
	stranger := browser(t)
	if p := must[*page](t)(stranger.Submit(ctx, shown.Form, map[string]string{"decision": "approve"})); p.Status != http.StatusForbidden {
		t.Errorf("without a visit: %d %s", p.Status, p.Text)
	}
	f.forward(devicePoll)
	d.wants("authorization_pending")
	other.wants("authorization_pending")
	// A form of another site.
	form := maps(shown.Form.Values)
	form.Set("decision", "approve")
	resp := raw(t, "POST", "/device/decision", strings.NewReader(form.Encode()), func(r *http.Request) {
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		r.Header.Set("Sec-Fetch-Site", "cross-site")
		for _, c := range b.Cookies(front.server.URL) {
			r.AddCookie(c)
		}
	})
	if resp.StatusCode != http.StatusForbidden {
		t.Errorf("from another site: %s", resp.Status)
	}
	// The account changed: what was approved under the old generation is void.
	if p := must[*page](t)(b.Submit(ctx, shown.Form, map[string]string{"decision": "approve"})); p.Status != http.StatusOK {
		t.Fatal(p.Text)
	}
	token, _ := d.asks()
	if _, _, err := f.dir.EndSessions(ctx, "shivam"); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Introspect(ctx, token, d.key); err == nil {
		t.Error("an approval outlives the end of all sessions")
	}
	// And so is the visit.
	if p := must[*page](t)(b.Open(ctx, front.server.URL+"/device")); p.URL.Path != "/login" {
		t.Errorf("the visit goes on: %s", p.Text)
	}
}

func TestCodesCannotBeGuessed(t *testing.T) {
	f := newFixture(t)
	d := newDevice(t)
	b := browser(t)
	p := f.visits(b, "/device", "shivam")
	last := 0
	for range 8 {
		last = must[*page](t)(b.Submit(t.Context(), p.Form, map[string]string{"code": "BCDF-BCDF"})).Status
	}
	if last != http.StatusTooManyRequests {
		t.Errorf("the eighth guess: %d", last)
	}
	// The right one has to wait as well, and not for long.
	if p := must[*page](t)(b.Submit(t.Context(), p.Form, map[string]string{"code": d.UserCode})); p.Status != http.StatusTooManyRequests {
		t.Errorf("%d %s", p.Status, p.Text)
	}
	f.forward(10 * time.Second)
	if p := must[*page](t)(b.Submit(t.Context(), p.Form, map[string]string{"code": d.UserCode})); p.Status != http.StatusOK {
		t.Errorf("%d %s", p.Status, p.Text)
	}
}

func (f *fixture) holdsNothing(prefixes ...string) {
	f.t.Helper()
	for _, prefix := range prefixes {
		err := f.store.View(f.t.Context(), func(r store.Reader) error {
			return r.List(prefix, func(it store.Item) error {
				f.t.Errorf("%s is left", it.Key)
				return nil
			})
		})
		if err != nil {
			f.t.Fatal(err)
		}
	}
}

func FuzzUserCode(f *testing.F) {
	for _, s := range []string{"BCDF-GHJK", "bcdf ghjk", " b.c.d.f/g-h-j-k ", "5CDF-8HJK", "BCDFGHJ", "", "BCDF-GHJKL", "\u212aCDFGHJK", "ÄCDFGHJK"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, typed string) {
		code, ok := parseUserCode(typed)
		if !ok {
			return
		}
		if len(code) != codeLength || strings.Trim(code, codeLetters) != "" {
			t.Fatalf("%q reads as %q", typed, code)
		}
		if again, ok := parseUserCode(showCode(code)); !ok || again != code {
			t.Fatalf("%q shown and typed is %q", code, again)
		}
	})
}
