package login

import (
	"net/http"
	"strings"
	"testing"
)

func TestPersonChangesThePassword(t *testing.T) {
	f := newFixture(t)
	ctx := t.Context()
	token := f.token()
	b := browser(t)
	p := f.visits(b, "/account/password", "shivam")
	const next = "another long password"
	for name, try := range map[string]struct {
		set  map[string]string
		code int
	}{
		"wrong now":       {map[string]string{"current": "not this one", "password": next, "again": next}, http.StatusForbidden},
		"not the same":    {map[string]string{"current": password, "password": next, "again": next + "x"}, http.StatusUnprocessableEntity},
		"too short":       {map[string]string{"current": password, "password": "short", "again": "short"}, http.StatusUnprocessableEntity},
		"without a token": {map[string]string{"current": password, "password": next, "again": next, "token": ""}, http.StatusForbidden},
	} {
		if q := must[*page](t)(b.Submit(ctx, p.Form, try.set)); q.Status != try.code {
			t.Errorf("%s: %d %s", name, q.Status, q.Text)
		}
	}
	if _, err := f.Introspect(ctx, token, aKey); err != nil {
		t.Fatalf("a change that failed ended the login: %v", err)
	}
	q := must[*page](t)(b.Submit(ctx, p.Form, map[string]string{"current": password, "password": next, "again": next}))
	if q.Status != http.StatusOK || !strings.Contains(q.Text, "is changed") {
		t.Fatalf("%d %s", q.Status, q.Text)
	}
	if _, err := f.Introspect(ctx, token, aKey); err == nil {
		t.Error("an earlier login goes on")
	}
	if q := must[*page](t)(b.Open(ctx, front.server.URL+"/account")); q.URL.Path != "/login" {
		t.Errorf("the visit goes on: %s", q.Text)
	}
	if _, err := f.dir.VerifyPassword(ctx, "shivam", next, "elsewhere"); err != nil {
		t.Error(err)
	}
}
