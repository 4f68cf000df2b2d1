package login

import (
	"net/http"
	"strings"
	"testing"

	"github.com/sallyport-mesh/sallyport/coordinator/internal/directory"
)

func TestWelcomeLinkLetsANewUserIn(t *testing.T) {
	f := newFixture(t)
	ctx := t.Context()
	u, _, err := f.dir.CreateUser(ctx, directory.UserSpec{Name: "virat"})
	if err != nil {
		t.Fatal(err)
	}
	w, _, err := f.dir.CreateWelcome(ctx, "virat", 0)
	if err != nil {
		t.Fatal(err)
	}
	b := browser(t)
	p := must[*page](t)(b.Open(ctx, f.WelcomeURL(w.Secret)))
	if !strings.Contains(p.Text, "virat") || p.Form == nil {
		t.Fatalf("%d %s", p.Status, p.Text)
	}
	for _, try := range []struct{ first, second, want string }{
		{"a long password", "another password", "not the same"},
		{"short", "short", "shorter than"},
	} {
		q := must[*page](t)(b.Submit(ctx, p.Form, map[string]string{"password": try.first, "again": try.second}))
		if q.Status != http.StatusUnprocessableEntity || !strings.Contains(q.Text, try.want) || q.Form == nil {
			t.Errorf("%v: %d %s", try, q.Status, q.Text)
		}
	}
	q := must[*page](t)(b.Submit(ctx, p.Form, map[string]string{"password": "a long password", "again": "a long password"}))
	if q.Status != http.StatusOK || !strings.Contains(q.Text, "sallyport login "+front.server.URL) {
		t.Errorf("%d %s", q.Status, q.Text)
	}
	if q = must[*page](t)(b.Open(ctx, f.WelcomeURL(w.Secret))); q.Status != http.StatusForbidden || !strings.Contains(q.Text, "used already") {
		t.Errorf("again: %d %s", q.Status, q.Text)
	}
	if q = must[*page](t)(b.Open(ctx, f.WelcomeURL("wlc-guess"))); q.Status != http.StatusForbidden || q.Form != nil {
		t.Errorf("a guess: %d %s", q.Status, q.Text)
	}
	fl := newFlow()
	q = must[*page](t)(browser(t).LogIn(ctx, fl.address(), "virat", "a long password"))
	token, err := fl.exchange(ctx, q.Location)
	if err != nil {
		t.Fatal(err)
	}
	if id, err := f.Introspect(ctx, token.AccessToken, aKey); err != nil || id != u.Id {
		t.Errorf("%s, %v", id, err)
	}
	f.recorded("login.password", "login", "login.consent")
}
