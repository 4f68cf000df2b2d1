package login

import (
	"errors"
	"net/http"

	"github.com/sallyport-mesh/sallyport/coordinator/internal/directory"
)

// welcomeView is what the page with which a password is chosen shows.
type welcomeView struct {
	Token, User string
	Problem     string
}

// doneView is a page with nothing left to do on it.
type doneView struct {
	Text, Command string
}

func (a *App) showWelcome(w http.ResponseWriter, r *http.Request) {
	token := r.PathValue("token")
	u, err := a.cfg.Directory.CheckWelcome(r.Context(), token)
	if err != nil {
		a.refusedWelcome(w, r, err)
		return
	}
	a.pages.render(w, http.StatusOK, "welcome", "Choose a password", welcomeView{Token: token, User: u.Name})
}

func (a *App) postWelcome(w http.ResponseWriter, r *http.Request) {
	if !a.form(w, r) {
		return
	}
	token := r.PathValue("token")
	u, err := a.cfg.Directory.CheckWelcome(r.Context(), token)
	if err != nil {
		a.refusedWelcome(w, r, err)
		return
	}
	view := welcomeView{Token: token, User: u.Name}
	password := r.PostForm.Get("password")
	if password != r.PostForm.Get("again") {
		view.Problem = "The two are not the same. Type the password again, twice."
		a.pages.render(w, http.StatusUnprocessableEntity, "welcome", "Choose a password", view)
		return
	}
	u, _, err = a.cfg.Directory.RedeemWelcome(r.Context(), token, password)
	if e, ok := errors.AsType[*directory.InvalidError](err); ok {
		view.Problem = "This password is " + e.Reason + ". Choose another one."
		a.pages.render(w, http.StatusUnprocessableEntity, "welcome", "Choose a password", view)
		return
	}
	if err != nil {
		a.refusedWelcome(w, r, err)
		return
	}
	if err := a.record(r, "login.password", "user "+u.Name, u, nil); err != nil {
		a.failure(w, r, err)
		return
	}
	a.pages.render(w, http.StatusOK, "done", "Your password is set", doneView{Text: "To log in on a device, run there:", Command: "sallyport login " + a.cfg.Link})
}

func (a *App) refusedWelcome(w http.ResponseWriter, r *http.Request, err error) {
	if e, ok := errors.AsType[*directory.TokenError](err); ok {
		text := "It is not complete, or was never made here."
		switch e.Problem {
		case directory.TokenUsed:
			text = "It was used already: it works once. If it was not you who used it, tell an administrator now."
		case directory.TokenExpired:
			text = "It has run out."
		}
		a.problem(w, r, http.StatusForbidden, problem{Title: "This link does not work", Text: text + " An administrator can send you a new one."})
		return
	}
	a.failure(w, r, err)
}
