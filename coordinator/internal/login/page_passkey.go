package login

import (
	"encoding/base64"
	"errors"
	"net/http"

	"github.com/sallyport-mesh/sallyport/coordinator/internal/backoff"
	"github.com/sallyport-mesh/sallyport/coordinator/internal/directory"
)

// passkeysView is the page on which somebody looks after his passkeys.
type passkeysView struct {
	Token, Problem string
	New            *ceremony // nil where there can be none
	Keys           []passkeyRow
}

type passkeyRow struct{ ID, Name, Since, Used string }

const passkeyScript = "assets/passkey.js"

// allowScript lets a page run our script. Passkeys need one; no other page does.
func allowScript(w http.ResponseWriter) {
	w.Header().Set("Content-Security-Policy", contentPolicy+"; script-src 'self'")
}

func (a *App) showPasskeys(w http.ResponseWriter, r *http.Request, v visitor) {
	a.renderPasskeys(w, r, v, http.StatusOK, "")
}

func (a *App) renderPasskeys(w http.ResponseWriter, r *http.Request, v visitor, code int, trouble string) {
	view := passkeysView{Token: a.visitToken(v, "passkeys"), Problem: trouble}
	if a.passkeys != nil {
		h, list, err := a.holder(r.Context(), v.user)
		if err == nil {
			view.New, err = a.newPasskey(h)
		}
		if err != nil {
			a.failure(w, r, err)
			return
		}
		const day = "2 January 2006"
		for _, p := range list {
			row := passkeyRow{ID: base64.RawURLEncoding.EncodeToString(p.ID), Name: p.Name, Since: p.CreatedAt.Format(day)}
			if !p.UsedAt.IsZero() {
				row.Used = p.UsedAt.Format(day)
			}
			view.Keys = append(view.Keys, row)
		}
		allowScript(w)
	}
	a.pages.render(w, code, "passkeys", "Passkeys", view)
}

func (a *App) postPasskeys(w http.ResponseWriter, r *http.Request, v visitor) {
	if !a.visitForm(w, r, v, "passkeys") {
		return
	}
	act := r.PostForm.Get("act")
	var err error
	switch {
	case act == "add" && a.passkeys != nil:
		if !a.mayAddWay(w, r, v) {
			return
		}
		s, ok := a.begun("passkey new", []byte(v.user.Id), r.PostForm.Get("session"))
		if !ok {
			a.stale(w, r)
			return
		}
		h, _, readErr := a.holder(r.Context(), v.user)
		if readErr != nil {
			a.failure(w, r, readErr)
			return
		}
		name := visible(r.PostForm.Get("name"), 64)
		if name == "" {
			name = "passkey"
		}
		err = a.keepPasskey(r.Context(), h, s, name, r.PostForm.Get("credential"))
	case act == "remove":
		var id []byte
		if id, err = base64.RawURLEncoding.DecodeString(r.PostForm.Get("id")); err == nil {
			err = a.cfg.Directory.RemovePasskey(r.Context(), v.user.Id, id)
		}
		if err == nil { // whoever has it may be logged in with it
			_, _, err = a.cfg.Directory.EndSessions(r.Context(), v.user.Id)
		}
	default:
		a.stale(w, r)
		return
	}
	if refused, ok := errors.AsType[*directory.RefusedError](err); ok {
		a.renderPasskeys(w, r, v, http.StatusConflict, "Nothing was changed: "+refused.Reason+".")
		return
	}
	if _, taken := errors.AsType[*directory.ExistsError](err); taken || errors.Is(err, errPasskey) {
		a.renderPasskeys(w, r, v, http.StatusForbidden, "That passkey was not taken. Try again, perhaps with another one.")
		return
	}
	if err != nil {
		a.failure(w, r, err)
		return
	}
	if err := a.record(r, "login.passkey", "user "+v.user.Name+" "+act, v.user, nil); err != nil {
		a.failure(w, r, err)
		return
	}
	if act == "remove" {
		http.SetCookie(w, cookie(visitCookie, "", -1))
		a.pages.render(w, http.StatusOK, "done", "The passkey is removed", doneView{Text: "All of your sessions were ended. On each of your devices, log in again:", Command: "sallyport login " + a.cfg.Link})
		return
	}
	a.renderPasskeys(w, r, v, http.StatusOK, "")
}

// postPasskeyLogin takes a login's answer.
func (a *App) postPasskeyLogin(w http.ResponseWriter, r *http.Request) {
	if !a.form(w, r) {
		return
	}
	// 1. Whose form is it?
	c, token, ok := a.open(w, r, loginStep, r.PostForm.Get(loginStep.param()))
	if !ok {
		return
	}
	s, ok := a.begun("passkey login", c.sum[:], r.PostForm.Get("session"))
	if !ok || a.passkeys == nil || !equalToken(r.PostForm.Get("token"), token) {
		a.stale(w, r)
		return
	}
	// 2. Is Hydra still waiting for it?
	view, ok := a.loginView(w, r, c, token)
	if !ok {
		return
	}
	// 3. Whose passkey is it? It looked at its holder, so it is both factors.
	u, err := a.verifyPasskey(r.Context(), s, r.PostForm.Get("credential"), source(r))
	if err == nil {
		a.finishLogin(w, r, c, u, []string{"pop", "user", "mfa"})
		return
	}
	e, waiting := errors.AsType[*backoff.Error](err)
	switch {
	case waiting:
		view.Problem = "Too many attempts. Wait " + retryAfter(w, e) + " seconds, then try again."
		a.showLoginForm(w, http.StatusTooManyRequests, view)
	case errors.Is(err, errPasskey):
		if err := a.record(r, "login", "a passkey", nil, err); err != nil {
			a.failure(w, r, err)
			return
		}
		view.Problem = "That passkey is not known here, or was not checked. Try again, or use your password."
		a.showLoginForm(w, http.StatusForbidden, view)
	case errors.Is(err, directory.ErrSuspended):
		if err := a.record(r, "login", "a passkey", nil, err); err != nil {
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

// showLoginForm shows the login page, with a script where passkeys can be used.
func (a *App) showLoginForm(w http.ResponseWriter, code int, view loginView) {
	if view.Passkey != nil {
		allowScript(w)
	}
	a.pages.render(w, code, "login", "Log in", view)
}
