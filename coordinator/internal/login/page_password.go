package login

import (
	"errors"
	"net/http"

	"github.com/sallyport-mesh/sallyport/coordinator/internal/backoff"
	"github.com/sallyport-mesh/sallyport/coordinator/internal/directory"
)

// passwordView is the page on which somebody changes his password.
type passwordView struct {
	Token, User, Problem string
}

func (a *App) showPassword(w http.ResponseWriter, r *http.Request, v visitor) {
	a.renderPassword(w, r, v, http.StatusOK, "")
}

func (a *App) renderPassword(w http.ResponseWriter, r *http.Request, v visitor, code int, trouble string) {
	if !v.user.HasPassword {
		// A password would be a way in past the provider, which nobody decided.
		a.problem(w, r, http.StatusForbidden, problem{Title: "You have no password here", Text: "You log in through a provider. An administrator can send you a link to set a password here too."})
		return
	}
	a.pages.render(w, code, "password", "Change your password", passwordView{Token: a.visitToken(v, "password"), User: v.user.Name, Problem: trouble})
}

// postPassword takes the old password with the new one: the browser may have been
// left alone.
func (a *App) postPassword(w http.ResponseWriter, r *http.Request, v visitor) {
	if !a.visitForm(w, r, v, "password") {
		return
	}
	password := r.PostForm.Get("password")
	if password != r.PostForm.Get("again") {
		a.renderPassword(w, r, v, http.StatusUnprocessableEntity, "The two are not the same. Type the new password again, twice.")
		return
	}
	u, err := a.cfg.Directory.VerifyPassword(r.Context(), v.user.Name, r.PostForm.Get("current"), source(r))
	if err == nil && u.Id == v.user.Id {
		u, _, err = a.cfg.Directory.SetPassword(r.Context(), u.Id, password)
	}
	e, waiting := errors.AsType[*backoff.Error](err)
	invalid, bad := errors.AsType[*directory.InvalidError](err)
	switch {
	case waiting:
		a.renderPassword(w, r, v, http.StatusTooManyRequests, "Too many attempts. Wait "+retryAfter(w, e)+" seconds, then try again.")
		return
	case errors.Is(err, directory.ErrWrongPassword):
		if err := a.record(r, "login.password", "user "+v.user.Name, v.user, err); err != nil {
			a.failure(w, r, err)
			return
		}
		a.renderPassword(w, r, v, http.StatusForbidden, "That is not your password now.")
		return
	case bad:
		a.renderPassword(w, r, v, http.StatusUnprocessableEntity, "This password is "+invalid.Reason+". Choose another one.")
		return
	case err == nil:
		err = a.record(r, "login.password", "user "+u.Name, u, nil)
	}
	if err != nil {
		a.failure(w, r, err)
		return
	}
	http.SetCookie(w, cookie(visitCookie, "", -1))
	a.pages.render(w, http.StatusOK, "done", "Your password is changed", doneView{Text: "All of your sessions were ended. On each of your devices, log in again:", Command: "sallyport login " + a.cfg.Link})
}
