package login

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"

	"github.com/sallyport-mesh/sallyport/coordinator/internal/backoff"
	"github.com/sallyport-mesh/sallyport/coordinator/internal/directory"
	"github.com/sallyport-mesh/sallyport/coordinator/internal/store"
)

// logoutEvent is what makes a token a logout token (OpenID Connect Back-Channel
// Logout 1.0, section 2.4).
const logoutEvent = "http://schemas.openid.net/event/backchannel-logout"

// logoutSkew is how old, or how far ahead, a logout token may be. Its id is kept
// for longer (keepUsed), so it works once.
const logoutSkew = 10 * time.Minute

type logoutToken struct {
	Subject string                     `json:"sub"`
	SID     string                     `json:"sid"`
	ID      string                     `json:"jti"`
	IssueAt float64                    `json:"iat"`
	Expiry  *float64                   `json:"exp"`
	Events  map[string]json.RawMessage `json:"events"`
	Nonce   json.RawMessage            `json:"nonce"`
}

var errLogoutToken = errors.New("this is no logout token for us")

// backChannel takes a provider's word that somebody has logged out there.
func (a *App) backChannel(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Cache-Control", "no-store")
	up := a.upstreams[r.PathValue("provider")]
	if up == nil || r.ParseForm() != nil {
		oauthError(w, http.StatusBadRequest, "invalid_request", "there is no such provider, or no form")
		return
	}
	// A token with an unknown key makes us ask the provider for its keys: a
	// stranger gets to do that a few times.
	bucket := backoff.Bucket{Key: "logout\x00" + source(r), Free: 20, Max: time.Minute}
	if e, waiting := errors.AsType[*backoff.Error](a.strangers.Admit(bucket)); waiting {
		retryAfter(w, e)
		oauthError(w, http.StatusTooManyRequests, "invalid_request", e.Error())
		return
	}
	t, err := a.readLogout(r.Context(), up, r.PostForm.Get("logout_token"))
	if errors.Is(err, errProviderAway) {
		a.cfg.Log.Warn("a logout token cannot be verified", "provider", up.Name, "error", err)
		oauthError(w, http.StatusServiceUnavailable, "temporarily_unavailable", "the provider's keys cannot be had")
		return
	}
	if err != nil {
		a.cfg.Log.Warn("a logout token was refused", "provider", up.Name, "error", err)
		oauthError(w, http.StatusBadRequest, "invalid_request", "the logout token is not accepted")
		return
	}
	a.strangers.Succeeded(bucket)
	if err := a.logOut(r.Context(), up, t); err != nil {
		a.cfg.Log.Error("a logout at a provider was not followed", "provider", up.Name, "error", err)
		oauthError(w, http.StatusServiceUnavailable, "temporarily_unavailable", "the logout could not be carried out")
		return
	}
	w.WriteHeader(http.StatusOK)
}

// readLogout verifies a logout token: signature, issuer and audience as of an id
// token, and what makes it something else. exp is checked where there is one:
// earlier drafts, and Hydra, have none, and iat bounds the token's age anyway.
func (a *App) readLogout(ctx context.Context, up *upstreamProvider, raw string) (logoutToken, error) {
	var t logoutToken
	if raw == "" || len(raw) > 8<<10 {
		return t, errLogoutToken
	}
	p, err := up.discover(ctx)
	if err != nil {
		return t, err
	}
	id, err := p.Verifier(&oidc.Config{ClientID: up.ClientID, SkipExpiryCheck: true, Now: a.cfg.Now}).Verify(up.context(ctx), raw)
	if err != nil {
		return t, fmt.Errorf("%w: %w", errLogoutToken, err)
	}
	if err := id.Claims(&t); err != nil {
		return t, fmt.Errorf("%w: %w", errLogoutToken, err)
	}
	var event map[string]any
	now := a.cfg.Now()
	age := now.Sub(time.Unix(int64(t.IssueAt), 0))
	switch {
	case json.Unmarshal(t.Events[logoutEvent], &event) != nil || event == nil:
		return t, fmt.Errorf("%w: it is not about a logout", errLogoutToken)
	case t.Nonce != nil:
		return t, fmt.Errorf("%w: it has a nonce, as an id token has", errLogoutToken)
	case t.Subject == "" && t.SID == "":
		return t, fmt.Errorf("%w: it does not say who logged out", errLogoutToken)
	case t.ID == "":
		return t, fmt.Errorf("%w: it has no id", errLogoutToken)
	case age > logoutSkew || age < -logoutSkew:
		return t, fmt.Errorf("%w: it was issued %v ago", errLogoutToken, age.Round(time.Second))
	case t.Expiry != nil && !now.Before(time.Unix(int64(*t.Expiry), 0)):
		return t, fmt.Errorf("%w: it has run out", errLogoutToken)
	}
	err = a.cfg.Store.View(ctx, func(r store.Reader) error {
		it, err := r.Get(up.logoutKey(t))
		if it != nil {
			err = fmt.Errorf("%w: it was used already", errLogoutToken)
		}
		return err
	})
	return t, err
}

func (u *upstreamProvider) logoutKey(t logoutToken) string {
	return logoutPrefix + hashed(u.Issuer+"\x00"+t.ID)
}

// logOut ends the sessions of whom the token names: by subject, or by one of the
// sessions that the provider told of at a login. Nobody known is fine. The token
// is marked as used when that is done: one that failed half-way works again, and
// of two at the same time both end what is ended already.
func (a *App) logOut(ctx context.Context, up *upstreamProvider, t logoutToken) error {
	meant := map[string]bool{}
	if t.Subject != "" {
		u, err := a.cfg.Directory.UserByIdentity(ctx, up.Issuer, t.Subject)
		if _, unknown := errors.AsType[*directory.NotFoundError](err); !unknown && err != nil {
			return err
		}
		if u != nil {
			meant[u.Id] = true
		}
	} else {
		err := a.cfg.Store.View(ctx, func(r store.Reader) error {
			return r.List(upstreamPrefix, func(it store.Item) error {
				userID, provider, _ := strings.Cut(strings.TrimPrefix(it.Key, upstreamPrefix), "/")
				var s upstreamSession
				if err := json.Unmarshal(it.Value, &s); err != nil {
					return fmt.Errorf("decoding %s: %w", it.Key, err)
				}
				if provider == up.Name && slices.Contains(s.SIDs, t.SID) {
					meant[userID] = true
				}
				return nil
			})
		})
		if err != nil {
			return err
		}
	}
	for userID := range meant {
		u := a.cfg.Directory.Snapshot().Users[userID]
		if u == nil {
			continue
		}
		if err := a.endUpstream(ctx, upstreamKey(u.Id, up.Name), up, u, "logged out at provider "+up.Name); err != nil {
			return err
		}
	}
	_, err := a.cfg.Store.Update(ctx, func(tx store.Txn) error {
		return store.PutJSON(tx, up.logoutKey(t), used{a.cfg.Now().UTC()})
	})
	return err
}
