package login

import "net/http"

// logoutView is what the logout page shows.
type logoutView struct{ Challenge, Token string }

// showLogout asks before it ends a login at Hydra, since any page can link here.
func (a *App) showLogout(w http.ResponseWriter, r *http.Request) {
	text := r.URL.Query().Get("logout_challenge")
	if text == "" {
		a.pages.render(w, http.StatusOK, "done", "You are logged out", doneView{Text: "This browser holds no login. To end the session on a device, run there:", Command: "sallyport logout"})
		return
	}
	if _, resp, err := a.admin.OAuth2API.GetOAuth2LogoutRequest(r.Context()).LogoutChallenge(text).Execute(); err != nil {
		a.failure(w, r, hydraError("reading the logout request", resp, err))
		return
	}
	a.pages.render(w, http.StatusOK, "logout", "Log out?", logoutView{text, a.formToken("logout", []byte(text))})
}

func (a *App) postLogout(w http.ResponseWriter, r *http.Request) {
	if !a.form(w, r) {
		return
	}
	text := r.PostForm.Get("logout_challenge")
	if !equalToken(r.PostForm.Get("token"), a.formToken("logout", []byte(text))) {
		a.stale(w, r)
		return
	}
	to, resp, err := a.admin.OAuth2API.AcceptOAuth2LogoutRequest(r.Context()).LogoutChallenge(text).Execute()
	if err != nil {
		a.failure(w, r, hydraError("accepting the logout", resp, err))
		return
	}
	a.redirect(w, r, to.GetRedirectTo())
}
