package login

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"golang.org/x/oauth2"

	"github.com/sallyport-mesh/sallyport/coordinator/internal/directory"
	apiv1 "github.com/sallyport-mesh/sallyport/pkg/api/sallyport/v1"
)

const providerPath = "/login/provider/"

// departure is what the browser keeps while somebody is at a provider: what it
// was for, and what the answer has to hold. Its cookie makes the answer this
// browser's alone.
type departure struct {
	Provider  string    `json:"p"`
	State     string    `json:"s"`
	Nonce     string    `json:"n"`
	Verifier  string    `json:"v"`
	Challenge string    `json:"c,omitempty"` // of the login that goes on
	Visit     *visit    `json:"l,omitempty"` // or of the visit that links
	Ends      time.Time `json:"e"`
}

func departureCookie(state string) string {
	return cookiePrefix + "away-" + hex.EncodeToString([]byte(state)[:6])
}

// button is a provider as the login page shows it.
type button struct{ Name, Title string }

func (a *App) buttons() []button {
	var out []button
	for _, p := range a.cfg.Providers {
		out = append(out, button{p.Name, p.Title})
	}
	return out
}

// goUpstream leaves for a provider in the midst of a login. It is a link and not
// a form: a form's answer may not lead to other sites (form-action). It changes
// nothing, and works only in the browser that holds the login's challenge.
func (a *App) goUpstream(w http.ResponseWriter, r *http.Request) {
	c, token, ok := a.open(w, r, loginStep, r.URL.Query().Get(loginStep.param()))
	if !ok {
		return
	}
	if _, ok := a.loginView(w, r, c, token); ok {
		a.depart(w, r, departure{Challenge: c.text})
	}
}

// goLink leaves for a provider to link who comes back to the visitor.
func (a *App) goLink(w http.ResponseWriter, r *http.Request, v visitor) {
	if !equalToken(r.URL.Query().Get("token"), a.visitToken(v, "link", r.PathValue("provider"))) {
		a.stale(w, r)
		return
	}
	if !a.mayAddWay(w, r, v) {
		return
	}
	a.depart(w, r, departure{Visit: &v.visit})
}

func (a *App) depart(w http.ResponseWriter, r *http.Request, d departure) {
	up := a.upstreams[r.PathValue("provider")]
	if up == nil {
		a.problem(w, r, http.StatusNotFound, problem{Title: "There is no such provider", Text: "This coordinator does not know it."})
		return
	}
	p, err := up.discover(r.Context())
	if err != nil {
		a.failedUpstream(w, r, up, err)
		return
	}
	d.Provider, d.State, d.Nonce, d.Verifier = up.Name, randomText(), randomText(), oauth2.GenerateVerifier()
	d.Ends = a.cfg.Now().Add(cookieLife)
	value, err := a.cookies.sealText("departure", d)
	if err != nil {
		a.failure(w, r, err)
		return
	}
	http.SetCookie(w, cookie(departureCookie(d.State), value, cookieLife))
	client := up.client(p)
	w.Header().Set("Cache-Control", "no-store")
	http.Redirect(w, r, client.AuthCodeURL(d.State, oidc.Nonce(d.Nonce), oauth2.S256ChallengeOption(d.Verifier)), http.StatusSeeOther)
}

// returnUpstream is where a provider sends the browser back to.
func (a *App) returnUpstream(w http.ResponseWriter, r *http.Request) {
	// 1. Did this browser leave for this provider, and for what?
	q := r.URL.Query()
	up, state := a.upstreams[r.PathValue("provider")], q.Get("state")
	if up == nil || len(state) < 16 {
		a.lost(w, r)
		return
	}
	var d departure
	c, err := r.Cookie(departureCookie(state))
	if err != nil || a.cookies.openText("departure", c.Value, &d) != nil || !equalToken(d.State, state) || d.Provider != up.Name ||
		!a.cfg.Now().Before(d.Ends) || q.Has("iss") && q.Get("iss") != up.Issuer {
		a.lost(w, r)
		return
	}
	http.SetCookie(w, cookie(c.Name, "", -1))
	if q.Get("error") != "" {
		a.problem(w, r, http.StatusForbidden, problem{Title: up.Title + " did not log you in", Text: "It was refused there, or ended before it was finished.", Again: d.Visit == nil})
		return
	}
	// 2. Who does the provider say it is?
	who, err := a.exchangeUpstream(r.Context(), up, d, q.Get("code"))
	if err != nil {
		a.failedUpstream(w, r, up, err)
		return
	}
	// 3. What was it for?
	if d.Visit != nil {
		a.linked(w, r, up, d, who)
		return
	}
	ch, token, ok := a.open(w, r, loginStep, d.Challenge)
	if !ok {
		return
	}
	u, ok := a.upstreamUser(w, r, up, ch, who)
	if !ok {
		return
	}
	if err := a.settle(r.Context(), up, u, who); err != nil {
		a.failure(w, r, err)
		return
	}
	a.proved(w, r, ch, token, u, "fed")
}

func (a *App) exchangeUpstream(ctx context.Context, up *upstreamProvider, d departure, code string) (stranger, error) {
	p, err := up.discover(ctx)
	if err != nil {
		return stranger{}, err
	}
	client := up.client(p)
	t, err := client.Exchange(up.context(ctx), code, oauth2.VerifierOption(d.Verifier))
	if err != nil {
		return stranger{}, upstreamError(up, "exchanging a code", err)
	}
	return up.read(ctx, p, t, d.Nonce, "")
}

// upstreamUser is who logs in: whom the identity is linked to, or, where the
// provider may let people in, somebody new. A user who happens to have the same
// name or address is never meant.
func (a *App) upstreamUser(w http.ResponseWriter, r *http.Request, up *upstreamProvider, c challenge, who stranger) (*apiv1.User, bool) {
	ctx := r.Context()
	target := "subject " + visible(who.Subject, 128) + " of " + up.Name
	u, err := a.cfg.Directory.UserByIdentity(ctx, up.Issuer, who.Subject)
	if _, unknown := errors.AsType[*directory.NotFoundError](err); unknown {
		if !up.admits(who) {
			if err := a.record(r, "login", target, nil, errUnknownIdentity); err != nil {
				a.failure(w, r, err)
				return nil, false
			}
			a.problem(w, r, http.StatusForbidden, problem{
				Title: "Nobody here goes by that account",
				Text:  fmt.Sprintf("%s knows you, but this coordinator does not. If you have a user here, log in with it and link the account at %s. If not, an administrator can add you; your subject at %s is %q.", up.Title, a.pagesURL("/account"), up.Title, visible(who.Subject, 128)),
			})
			return nil, false
		}
		if u, _, err = a.cfg.Directory.ProvisionUser(ctx, who.Name, who.Display, a.identity(up, who)); err == nil {
			err = a.record(r, "login.created", "user "+u.Name+" for "+target, u, nil)
		}
	}
	if err != nil {
		a.failure(w, r, err)
		return nil, false
	}
	if u.Suspended {
		if err := a.record(r, "login", "user "+u.Name, u, directory.ErrSuspended); err != nil {
			a.failure(w, r, err)
		} else if a.spend(w, r, c) {
			a.rejectLogin(w, r, c, "this account is suspended")
		}
		return nil, false
	}
	return u, true
}

var errUnknownIdentity = &directory.RefusedError{Reason: "no user is linked to this identity"}

func (a *App) identity(up *upstreamProvider, who stranger) *apiv1.Identity {
	return &apiv1.Identity{Provider: up.Name, Issuer: up.Issuer, Subject: who.Subject}
}

// linked links who came back from a provider to the visitor who left for it.
func (a *App) linked(w http.ResponseWriter, r *http.Request, up *upstreamProvider, d departure, who stranger) {
	v, ok := a.visitor(r)
	if !ok || v.UserID != d.Visit.UserID || !equalToken(v.Nonce, d.Visit.Nonce) {
		a.lost(w, r)
		return
	}
	u, _, err := a.cfg.Directory.LinkIdentity(r.Context(), v.user.Id, a.identity(up, who))
	if e, refused := errors.AsType[*directory.RefusedError](err); refused {
		a.problem(w, r, http.StatusConflict, problem{Title: "This account cannot be linked", Text: "Nothing was changed: " + e.Reason + "."})
		return
	}
	if err == nil {
		err = a.record(r, "login.link", "user "+u.Name+" to subject "+visible(who.Subject, 128)+" of "+up.Name, u, nil)
	}
	if err != nil {
		a.failure(w, r, err)
		return
	}
	w.Header().Set("Cache-Control", "no-store")
	http.Redirect(w, r, "/account", http.StatusSeeOther)
}

// failedUpstream says that a provider could not be asked, or that its answer was
// no good. What it said goes into the log.
func (a *App) failedUpstream(w http.ResponseWriter, r *http.Request, up *upstreamProvider, err error) {
	if r.Context().Err() != nil {
		return
	}
	a.cfg.Log.Warn("a login through a provider failed", "provider", up.Name, "error", err)
	text := "Its answer could not be believed. If this happens again, tell an administrator."
	if errors.Is(err, errProviderAway) {
		text = "It does not answer. Wait a moment."
	}
	a.problem(w, r, http.StatusBadGateway, problem{Title: "The login through " + up.Title + " did not work", Text: text, Again: true})
}
