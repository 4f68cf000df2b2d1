package login

import (
	"errors"
	"net/http"
	"slices"
	"time"

	hydra "github.com/ory/hydra-client-go/v2"

	"github.com/sallyport-mesh/sallyport/coordinator/internal/backoff"
	"github.com/sallyport-mesh/sallyport/coordinator/internal/directory"
	apiv1 "github.com/sallyport-mesh/sallyport/pkg/api/sallyport/v1"
)

// halfway is a login whose first factor was good. It is in the form, sealed and
// tied to the challenge, and dies with it.
type halfway struct {
	Challenge  []byte    `json:"c"`
	UserID     string    `json:"u"`
	Generation uint64    `json:"g"`
	AMR        []string  `json:"a"`
	Ends       time.Time `json:"e"`
}

// secondLife is how long somebody may look for his telephone.
const secondLife = 10 * time.Minute

// secondView is the page that asks for the second factor; with Setup, the one on
// which somebody who has none sets it up.
type secondView struct {
	Challenge, Token, Halfway string
	User, Problem             string
	Setup                     *setupView
}

// codesView is the page that shows recovery codes, this once.
type codesView struct {
	Codes []string
	// Next is a form that goes on with the login; nil where there is none.
	Next *secondView
}

// proved goes on with a login whose first factor was good: to the second factor
// where there is one, or where there has to be one, and else to Hydra.
func (a *App) proved(w http.ResponseWriter, r *http.Request, c challenge, token string, u *apiv1.User, amr ...string) {
	local := slices.Contains(amr, "pwd")
	if !u.SecondFactor && (!a.cfg.RequireSecondFactor || !local) {
		a.finishLogin(w, r, c, u, amr)
		return
	}
	sealed, err := a.cookies.sealText("halfway", halfway{c.sum[:], u.Id, u.AuthGeneration, amr, a.cfg.Now().Add(secondLife)})
	if err != nil {
		a.failure(w, r, err)
		return
	}
	view := secondView{Challenge: c.text, Token: token, Halfway: sealed, User: u.Name}
	if !u.SecondFactor {
		set, err := a.newSetup(u)
		if err != nil {
			a.failure(w, r, err)
			return
		}
		view.Setup = &set
	}
	a.showSecond(w, http.StatusOK, view)
}

func (a *App) showSecond(w http.ResponseWriter, code int, view secondView) {
	title := "Second factor"
	if view.Setup != nil {
		title = "Set up a second factor"
	}
	a.pages.render(w, code, "second", title, view)
}

// postSecond takes the second factor.
func (a *App) postSecond(w http.ResponseWriter, r *http.Request) {
	if !a.form(w, r) {
		return
	}
	// 1. Whose form is it, and whose first factor?
	c, token, ok := a.open(w, r, loginStep, r.PostForm.Get(loginStep.param()))
	if !ok {
		return
	}
	var half halfway
	if !equalToken(r.PostForm.Get("token"), token) || a.cookies.openText("halfway", r.PostForm.Get("halfway"), &half) != nil ||
		string(half.Challenge) != string(c.sum[:]) || !a.cfg.Now().Before(half.Ends) {
		a.stale(w, r)
		return
	}
	u := a.cfg.Directory.Snapshot().Users[half.UserID]
	if u == nil || u.Suspended || u.AuthGeneration != half.Generation {
		a.stale(w, r)
		return
	}
	view := secondView{Challenge: c.text, Token: token, Halfway: r.PostForm.Get("halfway"), User: u.Name}
	// 2. Is Hydra still waiting for it?
	if _, ok := a.loginView(w, r, c, token); !ok {
		return
	}
	// 3. Where there has to be a second factor and is none, one comes to be.
	if !u.SecondFactor {
		a.setUpInLogin(w, r, u, view)
		return
	}
	// 4. The code, once.
	used, err := a.verifySecond(r.Context(), u, r.PostForm.Get("code"), source(r))
	if err != nil {
		a.refusedSecond(w, r, u, view, err)
		return
	}
	if used != "otp" {
		used = "kba" // something known, written down (RFC 8176)
		if err := a.record(r, "login.recovery", "user "+u.Name, u, nil); err != nil {
			a.failure(w, r, err)
			return
		}
	}
	a.finishLogin(w, r, c, u, append(half.AMR, used, "mfa"))
}

func (a *App) refusedSecond(w http.ResponseWriter, r *http.Request, u *apiv1.User, view secondView, err error) {
	e, waiting := errors.AsType[*backoff.Error](err)
	switch {
	case waiting:
		view.Problem = "Too many attempts. Wait " + retryAfter(w, e) + " seconds, then try again."
		a.showSecond(w, http.StatusTooManyRequests, view)
	case errors.Is(err, directory.ErrWrongCode):
		if err := a.record(r, "login", "user "+u.Name, nil, err); err != nil {
			a.failure(w, r, err)
			return
		}
		view.Problem = "That code is not right, or was used already. Codes change every thirty seconds: take the newest one."
		a.showSecond(w, http.StatusForbidden, view)
	default:
		a.failure(w, r, err)
	}
}

// setUpInLogin sets up the second factor that this coordinator requires. The
// login goes on from the page with the recovery codes, with a new code.
func (a *App) setUpInLogin(w http.ResponseWriter, r *http.Request, u *apiv1.User, view secondView) {
	var s setup
	if a.cookies.openText("setup", r.PostForm.Get("setup"), &s) != nil {
		a.stale(w, r)
		return
	}
	recovery, err := a.finishSetup(r.Context(), u, s, r.PostForm.Get("code"), source(r))
	if errors.Is(err, errSeal) {
		a.stale(w, r)
		return
	}
	if err != nil {
		again, showErr := a.showSetup(u, s)
		if showErr != nil {
			a.failure(w, r, showErr)
			return
		}
		view.Setup = &again
		a.refusedSecond(w, r, u, view, err)
		return
	}
	if err := a.record(r, "login.second-factor", "user "+u.Name, u, nil); err != nil {
		a.failure(w, r, err)
		return
	}
	a.pages.render(w, http.StatusOK, "codes", "Keep your recovery codes", codesView{Codes: recovery, Next: &view})
}

// finishLogin tells Hydra who it is: once, on record, and only then.
func (a *App) finishLogin(w http.ResponseWriter, r *http.Request, c challenge, u *apiv1.User, amr []string) {
	if !a.spend(w, r, c) {
		return
	}
	if err := a.record(r, "login", "user "+u.Name, u, nil); err != nil {
		a.failure(w, r, err)
		return
	}
	to, resp, err := a.admin.OAuth2API.AcceptOAuth2LoginRequest(r.Context()).LoginChallenge(c.text).
		AcceptOAuth2LoginRequest(hydra.AcceptOAuth2LoginRequest{
			Subject:  u.Id,
			Remember: new(false), // every login asks again
			Amr:      amr,
			Context:  withGeneration(u.AuthGeneration),
		}).Execute()
	if err != nil {
		a.failure(w, r, hydraError("accepting the login", resp, err))
		return
	}
	http.SetCookie(w, c.unbind())
	a.redirect(w, r, to.GetRedirectTo())
}
