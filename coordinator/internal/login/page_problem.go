package login

import (
	"context"
	"errors"
	"net/http"
)

// problem is a page that says what went wrong and what to do.
type problem struct {
	Title, Text string
	Again       bool   // a new login is the way out
	Command     string // of the new login
}

func (a *App) problem(w http.ResponseWriter, _ *http.Request, code int, p problem) {
	if p.Again {
		p.Command = "sallyport login"
	}
	a.pages.render(w, code, "problem", p.Title, p)
}

// failure is for errors that are not the person's. What happened goes into the
// log; the page says what to do.
func (a *App) failure(w http.ResponseWriter, r *http.Request, err error) {
	if r.Context().Err() != nil || errors.Is(err, context.Canceled) {
		return // nobody is there to read
	}
	switch {
	case errors.Is(err, errHydraGone):
		a.cfg.Log.Info("login refused by hydra", "error", err)
		a.problem(w, r, http.StatusGone, problem{Title: "This login has run out", Text: "It was not finished in time, or was finished already.", Again: true})
	case errors.Is(err, errHydraAway):
		a.cfg.Log.Warn("login failed: hydra does not answer", "error", err)
		a.problem(w, r, http.StatusBadGateway, problem{Title: "The login service does not answer", Text: "This is not your fault. Wait a moment.", Again: true})
	default:
		a.cfg.Log.Error("login failed", "error", err)
		a.problem(w, r, http.StatusServiceUnavailable, problem{Title: "The login could not be finished", Text: "This is not your fault. Wait a moment; if it happens again, tell an administrator.", Again: true})
	}
}

func (a *App) spent(w http.ResponseWriter, r *http.Request) {
	a.problem(w, r, http.StatusGone, problem{Title: "This login was finished already", Text: "Go back to the terminal. If it is still waiting there:", Again: true})
}

func (a *App) stale(w http.ResponseWriter, r *http.Request) {
	a.problem(w, r, http.StatusForbidden, problem{Title: "This form is not from this login", Text: "Nothing was sent on.", Again: true})
}

func (a *App) foreign(w http.ResponseWriter, r *http.Request) {
	a.problem(w, r, http.StatusForbidden, problem{Title: "This application is not known here", Text: "Only the Sallyport command line logs in on this page."})
}

// showError is where Hydra sends a browser that it cannot send anywhere else.
// What stands in the address is anybody's word, so none of it is shown: the
// codes of RFC 6749 have sentences of ours.
func (a *App) showError(w http.ResponseWriter, r *http.Request) {
	text := "The login service could not go on with this login."
	switch r.URL.Query().Get("error") {
	case "invalid_request", "invalid_state", "unsupported_response_type", "invalid_scope":
		text = "The program that opened this page asked for something that cannot be. It may be too old for this coordinator."
	case "invalid_client", "unauthorized_client":
		text = "The program that opened this page is not known to this coordinator."
	case "request_forbidden", "access_denied", "login_required", "interaction_required":
		text = "This login was begun in another browser, or its cookies are gone."
	case "server_error", "temporarily_unavailable":
		text = "The login service has a problem of its own. Wait a moment."
	}
	a.problem(w, r, http.StatusBadRequest, problem{Title: "The login did not work", Text: text, Again: true})
}
