package login

import (
	"context"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"net/http"
	"net/url"
	"strings"
	"time"

	"golang.org/x/oauth2"

	apiv1 "github.com/sallyport-mesh/sallyport/pkg/api/sallyport/v1"
)

// A visit is a person's stay at the account pages: approving a device elsewhere,
// looking after second factors. It begins with the ordinary login at Hydra, of
// which these pages are a client like any other, and lasts a quarter of an hour,
// so that whoever changes something here has proved a moment ago who he is.
//
// The visit lives in a sealed cookie of the browser. It carries the auth
// generation of its login and ends with it.

// PagesClientID is the OAuth client that the account pages are. A token for it
// enrols nothing.
const PagesClientID = "sallyport-pages"

const (
	visitCookie = cookiePrefix + "visit"
	visitLife   = 15 * time.Minute
)

// visit is what the cookie holds.
type visit struct {
	UserID     string    `json:"u"`
	Generation uint64    `json:"g"`
	Ends       time.Time `json:"e"`
	Nonce      string    `json:"n"` // makes form tokens of two visits differ
}

// visitor is who is at the account pages.
type visitor struct {
	user *apiv1.User
	visit
}

// freshVisit is how long after the login a new way to log in may be added: a
// browser that was left alone gives nobody one that lasts.
const freshVisit = 5 * time.Minute

// mayAddWay reports whether the visitor may add a way to log in, and says why not.
// Who has no password here comes through his provider, and not past it.
func (a *App) mayAddWay(w http.ResponseWriter, r *http.Request, v visitor) bool {
	switch {
	case !v.user.HasPassword:
		a.problem(w, r, http.StatusForbidden, problem{Title: "Your provider decides how you log in", Text: "You have no password here. An administrator can send you a link to set one, or link another identity."})
	case a.cfg.Now().After(v.Ends.Add(freshVisit - visitLife)):
		a.problem(w, r, http.StatusForbidden, problem{Title: "You logged in a while ago", Text: "Nothing was changed. Log out of this page, log in again, and do it within five minutes."})
	default:
		return true
	}
	return false
}

// token ties a form to the visit and to what the form is about.
func (a *App) visitToken(v visitor, about ...string) string {
	parts := [][]byte{[]byte("visit"), []byte(v.Nonce), []byte(v.UserID)}
	for _, s := range about {
		parts = append(parts, []byte(s))
	}
	return base64.RawURLEncoding.EncodeToString(a.mac(parts...))
}

// visitor is who shows a valid cookie, if anybody does.
func (a *App) visitor(r *http.Request) (visitor, bool) {
	c, err := r.Cookie(visitCookie)
	if err != nil {
		return visitor{}, false
	}
	var v visit
	if a.cookies.openText("visit", c.Value, &v) != nil || !a.cfg.Now().Before(v.Ends) {
		return visitor{}, false
	}
	u := a.cfg.Directory.Snapshot().Users[v.UserID]
	if u == nil || u.Suspended || u.AuthGeneration != v.Generation {
		return visitor{}, false
	}
	return visitor{u, v}, true
}

// visiting wraps a page that is for somebody who is logged in. Who is not is
// sent to log in, and comes back; a form is not sent along.
func (a *App) visiting(page func(http.ResponseWriter, *http.Request, visitor)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if v, ok := a.visitor(r); ok {
			page(w, r, v)
			return
		}
		if r.Method != http.MethodGet {
			a.problem(w, r, http.StatusForbidden, problem{Title: "You have been away for a while", Text: "Nothing was changed. Open the page again and log in."})
			return
		}
		a.beginVisit(w, r)
	}
}

// form reads a visitor's form and checks that it came from a page of this visit
// about these things.
func (a *App) visitForm(w http.ResponseWriter, r *http.Request, v visitor, about ...string) bool {
	if !a.form(w, r) {
		return false
	}
	if !equalToken(r.PostForm.Get("token"), a.visitToken(v, about...)) {
		a.problem(w, r, http.StatusForbidden, problem{Title: "This form is not from this visit", Text: "Nothing was changed. Open the page again."})
		return false
	}
	return true
}

// arrival is what the browser keeps between leaving for the login and coming
// back from it.
type arrival struct {
	State    string    `json:"s"`
	Verifier string    `json:"v"`
	Path     string    `json:"p"`
	Ends     time.Time `json:"e"`
}

func arrivalCookie(state string) string {
	return cookiePrefix + "arrival-" + hex.EncodeToString([]byte(state)[:6])
}

// places a visit can begin at.
func place(path string) string {
	switch {
	case path == "/device", path == "/account", strings.HasPrefix(path, "/account/") && path != visitCallback:
		return path
	}
	return "/account"
}

const visitCallback = "/account/arrived"

func (a *App) pagesClient() oauth2.Config {
	return oauth2.Config{
		ClientID: PagesClientID, RedirectURL: a.url.String() + visitCallback, Scopes: []string{"openid"},
		Endpoint: oauth2.Endpoint{
			AuthURL: a.url.String() + "/oauth2/auth", TokenURL: strings.TrimSuffix(a.cfg.HydraPublic, "/") + "/oauth2/token",
			AuthStyle: oauth2.AuthStyleInParams,
		},
	}
}

func (a *App) beginVisit(w http.ResponseWriter, r *http.Request) {
	in := arrival{State: randomText(), Verifier: oauth2.GenerateVerifier(), Path: place(r.URL.Path), Ends: a.cfg.Now().Add(cookieLife)}
	value, err := a.cookies.sealText("arrival", in)
	if err != nil {
		a.failure(w, r, err)
		return
	}
	http.SetCookie(w, cookie(arrivalCookie(in.State), value, cookieLife))
	client := a.pagesClient()
	w.Header().Set("Cache-Control", "no-store")
	http.Redirect(w, r, client.AuthCodeURL(in.State, oauth2.S256ChallengeOption(in.Verifier)), http.StatusSeeOther)
}

// arrive is where the login sends the browser back to.
func (a *App) arrive(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	state := q.Get("state")
	var in arrival
	if len(state) < 16 {
		a.lost(w, r)
		return
	}
	c, err := r.Cookie(arrivalCookie(state))
	if err != nil || a.cookies.openText("arrival", c.Value, &in) != nil || !equalToken(in.State, state) || !a.cfg.Now().Before(in.Ends) {
		a.lost(w, r)
		return
	}
	http.SetCookie(w, cookie(c.Name, "", -1))
	if q.Get("error") != "" {
		a.problem(w, r, http.StatusForbidden, problem{Title: "You were not logged in", Text: "The login was refused or ended before it was finished."})
		return
	}
	v, err := a.exchangeVisit(r.Context(), q.Get("code"), in)
	if err != nil {
		a.failure(w, r, err)
		return
	}
	value, err := a.cookies.sealText("visit", v)
	if err != nil {
		a.failure(w, r, err)
		return
	}
	http.SetCookie(w, cookie(visitCookie, value, visitLife))
	w.Header().Set("Cache-Control", "no-store")
	http.Redirect(w, r, in.Path, http.StatusSeeOther)
}

func (a *App) lost(w http.ResponseWriter, r *http.Request) {
	a.problem(w, r, http.StatusForbidden, problem{Title: "This login began elsewhere", Text: "A login is finished in the browser in which it was begun, within half an hour. If somebody sent you this address, do not go on."})
}

// exchangeVisit asks Hydra whose login the code is of.
func (a *App) exchangeVisit(ctx context.Context, code string, in arrival) (visit, error) {
	client := a.pagesClient()
	token, err := client.Exchange(context.WithValue(ctx, oauth2.HTTPClient, a.inner), code, oauth2.VerifierOption(in.Verifier))
	if refused, ok := errors.AsType[*oauth2.RetrieveError](err); ok && refused.Response.StatusCode < http.StatusInternalServerError {
		return visit{}, hydraError("exchanging a code", refused.Response, errHydraGone)
	}
	if err != nil {
		return visit{}, errors.Join(errHydraAway, err)
	}
	t, resp, err := a.admin.OAuth2API.IntrospectOAuth2Token(ctx).Token(token.AccessToken).Execute()
	if err != nil {
		return visit{}, hydraError("introspecting a token", resp, err)
	}
	if !t.Active || t.GetClientId() != PagesClientID || t.GetTokenUse() != "access_token" {
		return visit{}, errHydraGone
	}
	u := a.cfg.Directory.Snapshot().Users[t.GetSub()]
	if u == nil || u.Suspended || generation(t.Ext) != u.AuthGeneration {
		return visit{}, errHydraGone
	}
	return visit{UserID: u.Id, Generation: u.AuthGeneration, Ends: a.cfg.Now().Add(visitLife), Nonce: randomText()}, nil
}

// leave ends the visit in this browser.
func (a *App) leave(w http.ResponseWriter, r *http.Request, v visitor) {
	if !a.visitForm(w, r, v, "leave") {
		return
	}
	http.SetCookie(w, cookie(visitCookie, "", -1))
	a.pages.render(w, http.StatusOK, "done", "You are logged out", doneView{Text: "This browser holds no login. Sessions on your devices go on."})
}

// cookie is one of ours: for this host alone, sent over TLS alone, out of reach
// of scripts. A negative life takes it back.
func cookie(name, value string, life time.Duration) *http.Cookie {
	age := int(life.Seconds())
	if life < 0 {
		age = -1
	}
	return &http.Cookie{Name: name, Value: value, Path: "/", Secure: true, HttpOnly: true, SameSite: http.SameSiteLaxMode, MaxAge: age}
}

// pagesURL is a page of ours, as people see it.
func (a *App) pagesURL(path string) string {
	return (&url.URL{Scheme: a.url.Scheme, Host: a.url.Host, Path: path}).String()
}
