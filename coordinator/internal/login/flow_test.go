package login

import (
	"strings"
	"testing"

	"golang.org/x/oauth2"

	"github.com/sallyport-mesh/sallyport/coordinator/coordinatortest"
)

type page = coordinatortest.Page

func TestLoginGivesATokenThatIsThePersons(t *testing.T) {
	f := newFixture(t)
	ctx := t.Context()
	fl, b := newFlow(), browser(t)

	login := must[*page](t)(b.Open(ctx, fl.address()))
	for _, want := range []string{"Sallyport command line", "this computer (port 45678)", "example mesh", "sallyport login"} {
		if !strings.Contains(login.Text, want) {
			t.Errorf("the login page does not say %q: %s", want, login.Text)
		}
	}
	consent := must[*page](t)(b.Submit(ctx, login.Form, map[string]string{"username": "shivam", "password": password}))
	if !strings.Contains(consent.Text, "Hello, Shivam") {
		t.Fatalf("consent page: %s", consent.Text)
	}
	done := must[*page](t)(b.Submit(ctx, consent.Form, map[string]string{"decision": "allow"}))
	token := must[*oauth2.Token](t)(fl.exchange(ctx, done.Location))
	if token.RefreshToken != "" {
		t.Error("a refresh token was issued")
	}
	if id, err := f.Introspect(ctx, token.AccessToken, aKey); err != nil || id != f.user.Id {
		t.Errorf("introspected as %q, %v", id, err)
	}
	f.recorded("login", "login.consent")
}

// TestOlderLoginInTheSameBrowserEndsAtItsTerminal holds that of two logins in
// one browser the newer goes through, and that the older one's terminal hears of
// its end: Hydra keeps one per browser and client.
func TestOlderLoginInTheSameBrowserEndsAtItsTerminal(t *testing.T) {
	newFixture(t)
	ctx := t.Context()
	b := browser(t)
	older, newer := newFlow(), newFlow()
	one := must[*page](t)(b.Open(ctx, older.address()))
	two := must[*page](t)(b.Open(ctx, newer.address()))
	who := map[string]string{"username": "shivam", "password": password}
	p := must[*page](t)(b.Submit(ctx, two.Form, who))
	p = must[*page](t)(b.Submit(ctx, p.Form, map[string]string{"decision": "allow"}))
	must[*oauth2.Token](t)(newer.exchange(ctx, p.Location))

	p = must[*page](t)(b.Submit(ctx, one.Form, who))
	if _, err := older.exchange(ctx, p.Location); err == nil || p.Location.Query().Get("error") != "request_forbidden" {
		t.Errorf("the older login: %v, %v", p.Location, err)
	}
}
