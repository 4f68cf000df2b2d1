package login

import (
	"errors"
	"math"
	"net/http"
	"net/url"
	"strconv"

	hydra "github.com/ory/hydra-client-go/v2"

	"github.com/sallyport-mesh/sallyport/coordinator/internal/directory"
	apiv1 "github.com/sallyport-mesh/sallyport/pkg/api/sallyport/v1"
)

// loginView is what the login page shows.
type loginView struct {
	Challenge, Token string
	Application      string
	Pages            bool   // it is our own pages that ask
	Port             string // of the loopback listener that waits; "" if none does
	User             string // what was typed before
	Problem          string
	Providers        []button
	Passkey          *ceremony // nil where there are none
}

// open checks what every request for a question needs: a challenge in its
// canonical form, not used yet, from the browser that got it.
func (a *App) open(w http.ResponseWriter, r *http.Request, s step, text string) (c challenge, token string, ok bool) {
	c, err := parseChallenge(s, text)
	if err != nil {
		a.problem(w, r, http.StatusBadRequest, problem{Title: "This is not a login", Text: "The address is not complete.", Again: true})
		return c, "", false
	}
	// Used comes before bound: the cookie goes once a challenge is used.
	used, err := a.wasUsed(r.Context(), c)
	if err != nil {
		a.failure(w, r, err)
		return c, "", false
	}
	if used {
		a.spent(w, r)
		return c, "", false
	}
	token, bound := a.bound(r, c)
	if !bound {
		a.problem(w, r, http.StatusForbidden, problem{Title: "This login began elsewhere", Text: "A login is finished in the browser in which it was begun, within half an hour. If somebody sent you this address, do not go on: they would be logged in as you.", Again: true})
		return c, "", false
	}
	return c, token, true
}

func (a *App) showLogin(w http.ResponseWriter, r *http.Request) {
	c, token, ok := a.open(w, r, loginStep, r.URL.Query().Get(loginStep.param()))
	if !ok {
		return
	}
	view, ok := a.loginView(w, r, c, token)
	if !ok {
		return
	}
	a.showLoginForm(w, http.StatusOK, view)
}

// loginView asks Hydra what is being logged in to.
func (a *App) loginView(w http.ResponseWriter, r *http.Request, c challenge, token string) (loginView, bool) {
	req, resp, err := a.admin.OAuth2API.GetOAuth2LoginRequest(r.Context()).LoginChallenge(c.text).Execute()
	if err != nil {
		a.failure(w, r, hydraError("reading the login request", resp, err))
		return loginView{}, false
	}
	client := req.GetClient()
	if !ours(client) {
		a.foreign(w, r)
		return loginView{}, false
	}
	passkey, err := a.askForPasskey(c)
	if err != nil {
		a.failure(w, r, err)
		return loginView{}, false
	}
	return loginView{
		Challenge: c.text, Token: token, Application: application(client), Port: port(req.GetRequestUrl()),
		Pages: client.GetClientId() == PagesClientID, Providers: a.buttons(), Passkey: passkey,
	}, true
}

func ours(c hydra.OAuth2Client) bool {
	return c.GetClientId() == ClientID || c.GetClientId() == PagesClientID
}

func application(c hydra.OAuth2Client) string {
	if name := c.GetClientName(); name != "" {
		return name
	}
	return c.GetClientId()
}

// port says which device asks: a loopback redirect is the machine on which the
// browser runs, and the port the program on it.
func port(requestURL string) string {
	u, err := url.Parse(requestURL)
	if err != nil {
		return ""
	}
	to, err := url.Parse(u.Query().Get("redirect_uri"))
	if err != nil || to.Hostname() != "127.0.0.1" && to.Hostname() != "::1" {
		return ""
	}
	return to.Port()
}

func (a *App) postLogin(w http.ResponseWriter, r *http.Request) {
	if !a.form(w, r) {
		return
	}
	// 1. Whose form is it?
	c, token, ok := a.open(w, r, loginStep, r.PostForm.Get(loginStep.param()))
	if !ok {
		return
	}
	if !equalToken(r.PostForm.Get("token"), token) {
		a.stale(w, r)
		return
	}
	// 2. Is Hydra still waiting for it?
	view, ok := a.loginView(w, r, c, token)
	if !ok {
		return
	}
	// 3. Who is the person?
	name := r.PostForm.Get("username")
	u, err := a.cfg.Directory.VerifyPassword(r.Context(), name, r.PostForm.Get("password"), source(r))
	if err != nil {
		a.refusedLogin(w, r, c, view, name, err)
		return
	}
	// 4. The second factor, or on to Hydra.
	a.proved(w, r, c, token, u, "pwd")
}

// refusedLogin shows the form again, or, to a suspended user who has proved to
// be that user, ends the login with the reason, which the terminal shows too.
func (a *App) refusedLogin(w http.ResponseWriter, r *http.Request, c challenge, view loginView, name string, err error) {
	view.User = cut(name, 64)
	// Names that do not exist are not kept: people type passwords there.
	target, known := "an unknown user", (*apiv1.User)(nil)
	if u, lookup := a.cfg.Directory.Snapshot().User(name); lookup == nil {
		target, known = "user "+u.Name, u
	}
	backoff, waiting := errors.AsType[*directory.BackoffError](err)
	switch {
	case waiting:
		seconds := int(math.Ceil(backoff.RetryAfter.Seconds()))
		w.Header().Set("Retry-After", strconv.Itoa(seconds))
		view.Problem = "Too many attempts. Wait " + strconv.Itoa(seconds) + " seconds, then try again."
		a.showLoginForm(w, http.StatusTooManyRequests, view)
	case errors.Is(err, directory.ErrWrongPassword):
		if err := a.record(r, "login", target, nil, err); err != nil {
			a.failure(w, r, err)
			return
		}
		view.Problem = "That name and password do not belong together. Check both and try again."
		a.showLoginForm(w, http.StatusForbidden, view)
	case errors.Is(err, directory.ErrSuspended):
		if err := a.record(r, "login", target, known, err); err != nil {
			a.failure(w, r, err)
			return
		}
		if a.spend(w, r, c) {
			a.rejectLogin(w, r, c, "this account is suspended")
		}
	default:
		a.failure(w, r, err)
	}
}

func (a *App) rejectLogin(w http.ResponseWriter, r *http.Request, c challenge, why string) {
	to, resp, err := a.admin.OAuth2API.RejectOAuth2LoginRequest(r.Context()).LoginChallenge(c.text).
		RejectOAuth2Request(denied(why)).Execute()
	if err != nil {
		a.failure(w, r, hydraError("rejecting the login", resp, err))
		return
	}
	http.SetCookie(w, c.unbind())
	a.redirect(w, r, to.GetRedirectTo())
}

func denied(why string) hydra.RejectOAuth2Request {
	return hydra.RejectOAuth2Request{Error: new("access_denied"), ErrorDescription: new(why), StatusCode: new(int64(http.StatusForbidden))}
}

// spend marks the challenge as used; of two requests that race one gets true.
func (a *App) spend(w http.ResponseWriter, r *http.Request, c challenge) bool {
	err := a.use(r.Context(), c)
	if errors.Is(err, errUsed) {
		a.spent(w, r)
		return false
	}
	if err != nil {
		a.failure(w, r, err)
		return false
	}
	return true
}

// form reads a posted form.
func (a *App) form(w http.ResponseWriter, r *http.Request) bool {
	if err := r.ParseForm(); err != nil {
		a.problem(w, r, http.StatusBadRequest, problem{Title: "This form cannot be read", Text: "It is too long or was cut off.", Again: true})
		return false
	}
	return true
}
