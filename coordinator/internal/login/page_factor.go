package login

import (
	"errors"
	"net/http"

	"github.com/sallyport-mesh/sallyport/coordinator/internal/backoff"
	"github.com/sallyport-mesh/sallyport/coordinator/internal/directory"
)

// factorView is the page on which somebody looks after his second factor.
type factorView struct {
	Token, User, Problem string
	Setup                *setupView // he has none
	Since                string     // he has one
	Left                 int        // recovery codes
	Required             bool
}

func (a *App) showFactor(w http.ResponseWriter, r *http.Request, v visitor) {
	a.renderFactor(w, r, v, http.StatusOK, "", nil)
}

// renderFactor shows what there is; s is a setup that goes on.
func (a *App) renderFactor(w http.ResponseWriter, r *http.Request, v visitor, code int, trouble string, s *setup) {
	view := factorView{Token: a.visitToken(v, "factor"), User: v.user.Name, Problem: trouble, Required: a.cfg.RequireSecondFactor}
	f, err := a.cfg.Directory.SecondFactor(r.Context(), v.user.Id)
	var set setupView
	switch {
	case err != nil:
	case f != nil:
		view.Since, view.Left = f.Since.Format("2 January 2006"), len(f.Recovery)
	case s != nil:
		set, err = a.showSetup(v.user, *s)
		view.Setup = &set
	default:
		set, err = a.newSetup(v.user)
		view.Setup = &set
	}
	if err != nil {
		a.failure(w, r, err)
		return
	}
	a.pages.render(w, code, "factor", "Second factor", view)
}

func (a *App) postFactor(w http.ResponseWriter, r *http.Request, v visitor) {
	if !a.visitForm(w, r, v, "factor") {
		return
	}
	var codes []string
	var s *setup
	var err error
	act := r.PostForm.Get("act")
	switch act {
	case "enable":
		s = new(setup)
		if a.cookies.openText("setup", r.PostForm.Get("setup"), s) != nil || v.user.SecondFactor {
			a.stale(w, r)
			return
		}
		codes, err = a.finishSetup(r.Context(), v.user, *s, r.PostForm.Get("code"), source(r))
	case "codes", "disable":
		if act == "disable" && a.cfg.RequireSecondFactor {
			a.stale(w, r)
			return
		}
		// The browser may have been left alone: the authenticator has to be there.
		if _, err = a.verifySecond(r.Context(), v.user, r.PostForm.Get("code"), source(r)); err != nil {
			break
		}
		if act == "codes" {
			var hashes []string
			codes, hashes = newRecovery()
			err = a.cfg.Directory.SetRecovery(r.Context(), v.user.Id, hashes)
			break
		}
		_, _, err = a.cfg.Directory.RemoveSecondFactor(r.Context(), v.user.Id, false)
	default:
		a.stale(w, r)
		return
	}
	e, waiting := errors.AsType[*backoff.Error](err)
	switch {
	case waiting:
		a.renderFactor(w, r, v, http.StatusTooManyRequests, "Too many attempts. Wait "+retryAfter(w, e)+" seconds, then try again.", s)
		return
	case errors.Is(err, errSeal):
		a.stale(w, r)
		return
	case errors.Is(err, directory.ErrWrongCode):
		a.renderFactor(w, r, v, http.StatusForbidden, "That code is not right, or was used already. Take the newest one.", s)
		return
	case err != nil:
		a.failure(w, r, err)
		return
	}
	if err := a.record(r, "login.second-factor", "user "+v.user.Name+" "+act, v.user, nil); err != nil {
		a.failure(w, r, err)
		return
	}
	if act == "disable" {
		a.renderFactor(w, r, v, http.StatusOK, "", nil)
		return
	}
	a.pages.render(w, http.StatusOK, "codes", "Keep your recovery codes", codesView{Codes: codes})
}
