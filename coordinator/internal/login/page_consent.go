package login

import (
	"net/http"
	"slices"

	hydra "github.com/ory/hydra-client-go/v2"

	"github.com/sallyport-mesh/sallyport/coordinator/internal/directory"
	apiv1 "github.com/sallyport-mesh/sallyport/pkg/api/sallyport/v1"
)

// consentView is what the consent page shows.
type consentView struct {
	Challenge, Token  string
	Application, Port string
	User, DisplayName string
}

func (a *App) showConsent(w http.ResponseWriter, r *http.Request) {
	c, token, ok := a.open(w, r, consentStep, r.URL.Query().Get(consentStep.param()))
	if !ok {
		return
	}
	req, u, ok := a.consentRequest(w, r, c)
	if !ok {
		return
	}
	if client := req.GetClient(); client.GetClientId() == PagesClientID {
		// These pages are ours, and the person is at them: there is nobody to be
		// asked about. The challenge is this browser's and works once.
		if a.spend(w, r, c) {
			a.acceptConsent(w, r, c, req, u)
		}
		return
	}
	a.pages.render(w, http.StatusOK, "consent", "Allow this device?", consentView{
		Challenge: c.text, Token: token, Application: application(req.GetClient()), Port: port(req.GetRequestUrl()),
		User: u.Name, DisplayName: u.DisplayName,
	})
}

// consentRequest asks Hydra what is to be allowed, and the directory whether
// the user may still be here: he can have been suspended since he logged in.
func (a *App) consentRequest(w http.ResponseWriter, r *http.Request, c challenge) (*hydra.OAuth2ConsentRequest, *apiv1.User, bool) {
	req, resp, err := a.admin.OAuth2API.GetOAuth2ConsentRequest(r.Context()).ConsentChallenge(c.text).Execute()
	if err != nil {
		a.failure(w, r, hydraError("reading the consent request", resp, err))
		return nil, nil, false
	}
	if !ours(req.GetClient()) {
		a.foreign(w, r)
		return nil, nil, false
	}
	u, ok := a.cfg.Directory.Snapshot().Users[req.GetSubject()]
	var why error
	switch {
	case !ok:
		why = &directory.RefusedError{Reason: "this account is gone"}
	case u.Suspended:
		why = directory.ErrSuspended
	case generation(req.GetContext()) != u.AuthGeneration:
		why = &directory.RefusedError{Reason: "this login was ended by a change of the account"}
	default:
		return req, u, true
	}
	target := "user " + req.GetSubject()
	if ok {
		target = "user " + u.Name
	}
	if err := a.record(r, "login.consent", target, u, why); err != nil {
		a.failure(w, r, err)
		return nil, nil, false
	}
	if a.spend(w, r, c) {
		a.rejectConsent(w, r, c, why.Error())
	}
	return nil, nil, false
}

func (a *App) postConsent(w http.ResponseWriter, r *http.Request) {
	if !a.form(w, r) {
		return
	}
	// 1. Whose form is it?
	c, token, ok := a.open(w, r, consentStep, r.PostForm.Get(consentStep.param()))
	if !ok {
		return
	}
	if !equalToken(r.PostForm.Get("token"), token) {
		a.stale(w, r)
		return
	}
	// 2. Does Hydra wait for it, and may the user still be here?
	req, u, ok := a.consentRequest(w, r, c)
	if !ok {
		return
	}
	allowed := r.PostForm.Get("decision") == "allow"
	var why error
	if !allowed {
		why = &directory.RefusedError{Reason: "you chose not to allow this device"}
	}
	// 3. Once, on record, and only then to Hydra.
	if !a.spend(w, r, c) {
		return
	}
	if err := a.record(r, "login.consent", "user "+u.Name, u, why); err != nil {
		a.failure(w, r, err)
		return
	}
	if !allowed {
		a.rejectConsent(w, r, c, why.Error())
		return
	}
	a.acceptConsent(w, r, c, req, u)
}

func (a *App) acceptConsent(w http.ResponseWriter, r *http.Request, c challenge, req *hydra.OAuth2ConsentRequest, u *apiv1.User) {
	audience := []string{a.Audience()}
	if client := req.GetClient(); client.GetClientId() == PagesClientID {
		audience = nil
	}
	to, resp, err := a.admin.OAuth2API.AcceptOAuth2ConsentRequest(r.Context()).ConsentChallenge(c.text).
		AcceptOAuth2ConsentRequest(hydra.AcceptOAuth2ConsentRequest{
			GrantScope:               slices.DeleteFunc(slices.Clone(req.GetRequestedScope()), func(s string) bool { return !slices.Contains(Scopes, s) }),
			GrantAccessTokenAudience: audience,
			Remember:                 new(false),
			Session:                  &hydra.AcceptOAuth2ConsentRequestSession{AccessToken: withGeneration(u.AuthGeneration)},
		}).Execute()
	if err != nil {
		a.failure(w, r, hydraError("accepting the consent", resp, err))
		return
	}
	http.SetCookie(w, c.unbind())
	a.redirect(w, r, to.GetRedirectTo())
}

func (a *App) rejectConsent(w http.ResponseWriter, r *http.Request, c challenge, why string) {
	to, resp, err := a.admin.OAuth2API.RejectOAuth2ConsentRequest(r.Context()).ConsentChallenge(c.text).
		RejectOAuth2Request(denied(why)).Execute()
	if err != nil {
		a.failure(w, r, hydraError("rejecting the consent", resp, err))
		return
	}
	http.SetCookie(w, c.unbind())
	a.redirect(w, r, to.GetRedirectTo())
}
