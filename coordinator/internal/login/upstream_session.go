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

	"golang.org/x/oauth2"

	"github.com/sallyport-mesh/sallyport/coordinator/internal/caller"
	"github.com/sallyport-mesh/sallyport/coordinator/internal/store"
	apiv1 "github.com/sallyport-mesh/sallyport/pkg/api/sallyport/v1"
	"github.com/sallyport-mesh/sallyport/pkg/audit"
)

// Who came through a provider stays as long as the provider says so. Its refresh
// token is kept here, sealed, and used every few minutes: groups follow what it
// says then, and a refusal ends the sessions. A provider that does not answer
// ends nothing: sessions end by themselves, and nobody else can be asked.

const (
	upstreamPrefix = "upstream/" // + user id / provider → upstreamSession
	logoutPrefix   = "logouttoken/"
	keptSIDs       = 32
	// enrolWithin is how long after a login its session may begin.
	enrolWithin = time.Hour
)

// upstreamSession is what is known of somebody at one provider.
type upstreamSession struct {
	Subject string `json:"subject"`
	// Sealed is the newest refresh token; empty where the provider gives none.
	Sealed []byte `json:"sealed,omitempty"`
	// SIDs are the provider's sessions, newest last: a logout there names one.
	SIDs    []string  `json:"sids,omitempty"`
	LoginAt time.Time `json:"login_at"`
	Next    time.Time `json:"next"`
}

func upstreamKey(userID, provider string) string { return upstreamPrefix + userID + "/" + provider }

func sealRefresh(key string) string { return "refresh " + key }

// settle puts into effect what a provider said: groups first, so that nobody
// works a moment longer with what was taken, then what the next refresh needs.
func (a *App) settle(ctx context.Context, up *upstreamProvider, u *apiv1.User, who stranger) error {
	if err := a.syncGroups(ctx, up, u, who); err != nil {
		return err
	}
	key := upstreamKey(u.Id, up.Name)
	now := a.cfg.Now().UTC()
	_, err := a.cfg.Store.Update(ctx, func(tx store.Txn) error {
		var s upstreamSession
		if _, err := store.GetJSON(tx, key, &s); err != nil {
			return err
		}
		if s.Subject != who.Subject {
			s = upstreamSession{Subject: who.Subject}
		}
		if who.SID != "" && !slices.Contains(s.SIDs, who.SID) {
			s.SIDs = append(s.SIDs, who.SID)
			s.SIDs = s.SIDs[max(0, len(s.SIDs)-keptSIDs):]
		}
		s.LoginAt, s.Next = now, now.Add(up.Refresh)
		if who.Refresh != "" {
			s.Sealed = a.vault.seal(sealRefresh(key), []byte(who.Refresh))
		}
		return store.PutJSON(tx, key, s)
	})
	if err != nil {
		return fmt.Errorf("keeping what provider %s said: %w", up.Name, err)
	}
	if who.Refresh == "" {
		a.cfg.Log.Warn("a provider gave no refresh token: groups are read at logins only", "provider", up.Name)
	}
	return nil
}

func (a *App) syncGroups(ctx context.Context, up *upstreamProvider, u *apiv1.User, who stranger) error {
	changed, missing, err := a.cfg.Directory.SyncGroups(ctx, u.Id, up.membership(who))
	if err != nil {
		return fmt.Errorf("following the groups of provider %s: %w", up.Name, err)
	}
	if len(missing) > 0 {
		a.cfg.Log.Warn("a provider's groups are mapped to groups that do not exist", "provider", up.Name, "groups", missing)
	}
	if len(changed) == 0 {
		return nil
	}
	return a.recordUpstream(ctx, "login.groups", u, "user "+u.Name+" by "+up.Name+": "+strings.Join(changed, ", "), nil)
}

func (a *App) recordUpstream(ctx context.Context, kind string, u *apiv1.User, target string, refused error) error {
	c := caller.Caller{User: u}
	e := c.Event(kind, target, a.cfg.Now())
	if refused != nil {
		e.Ext.Decision, e.Ext.Reason = audit.Deny, refused.Error()
	}
	if err := a.cfg.Record(ctx, e); err != nil {
		return fmt.Errorf("putting it on record: %w", err)
	}
	return nil
}

// watchUpstreams refreshes what is due, until ctx ends.
func (a *App) watchUpstreams(ctx context.Context) {
	every := 30 * time.Second
	for _, up := range a.upstreams {
		every = min(every, max(up.Refresh/4, 250*time.Millisecond))
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		if err := a.refreshUpstreams(ctx); err != nil && ctx.Err() == nil {
			a.cfg.Log.Warn("asking upstream providers failed", "error", err)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// refreshUpstreams asks about everyone who is due.
func (a *App) refreshUpstreams(ctx context.Context) error {
	due := map[string]upstreamSession{}
	err := a.cfg.Store.View(ctx, func(r store.Reader) error {
		return r.List(upstreamPrefix, func(it store.Item) error {
			var s upstreamSession
			if err := json.Unmarshal(it.Value, &s); err != nil {
				return fmt.Errorf("decoding %s: %w", it.Key, err)
			}
			if !a.cfg.Now().Before(s.Next) {
				due[it.Key] = s
			}
			return nil
		})
	})
	var failed []error
	for key, s := range due {
		failed = append(failed, a.refreshUpstream(ctx, key, s))
	}
	return errors.Join(append(failed, err)...)
}

// refreshUpstream asks about one person.
func (a *App) refreshUpstream(ctx context.Context, key string, s upstreamSession) error {
	userID, provider, _ := strings.Cut(strings.TrimPrefix(key, upstreamPrefix), "/")
	up, u := a.upstreams[provider], a.cfg.Directory.Snapshot().Users[userID]
	if up == nil || u == nil {
		return a.forgetUpstream(ctx, key, s)
	}
	// Nobody vouches for his groups any more: he was unlinked, or is not at work.
	if u.Suspended || !linked(u, up.Issuer, s.Subject) || !a.works(u) && a.cfg.Now().After(s.LoginAt.Add(enrolWithin)) {
		return errors.Join(a.syncGroups(ctx, up, u, stranger{}), a.forgetUpstream(ctx, key, s))
	}
	if len(s.Sealed) == 0 {
		return a.keepRefresh(ctx, key, up, "", s) // there is nothing to ask with; its logouts still count
	}
	token, err := a.vault.open(sealRefresh(key), s.Sealed)
	if err != nil {
		return fmt.Errorf("opening the refresh token of %s: %w", key, err)
	}
	p, err := up.discover(ctx)
	if err != nil {
		return err
	}
	client := up.client(p)
	t, err := client.TokenSource(up.context(ctx), &oauth2.Token{RefreshToken: string(token)}).Token()
	if refusedUpstream(err) {
		return a.endUpstream(ctx, key, up, u, "provider "+up.Name+" does not know this login any more")
	}
	if err != nil {
		return upstreamError(up, "refreshing", err)
	}
	who, err := up.read(ctx, p, t, "", s.Subject)
	// The new refresh token first: the old one may be spent.
	if keepErr := a.keepRefresh(ctx, key, up, t.RefreshToken, s); keepErr != nil {
		return errors.Join(err, keepErr)
	}
	if err != nil {
		return err
	}
	return a.syncGroups(ctx, up, u, who)
}

// linked reports whether the user is who the provider calls by a subject.
func linked(u *apiv1.User, issuer, subject string) bool {
	return slices.ContainsFunc(u.Identities, func(id *apiv1.Identity) bool { return id.Issuer == issuer && id.Subject == subject })
}

// works reports whether the user has a session that is not over.
func (a *App) works(u *apiv1.User) bool {
	for _, s := range a.cfg.Directory.Snapshot().Sessions {
		if s.UserId == u.Id && !s.Revoked && a.cfg.Now().Before(s.ExpiresAt.AsTime()) {
			return true
		}
	}
	return false
}

// refusedUpstream tells a provider's no from a provider that could not answer,
// and from one that does not know us (any more), which is nobody's fault who is
// logged in.
func refusedUpstream(err error) bool {
	e, ok := errors.AsType[*oauth2.RetrieveError](err)
	if !ok || e.Response == nil || e.Response.StatusCode >= http.StatusInternalServerError || e.Response.StatusCode == http.StatusTooManyRequests {
		return false
	}
	switch e.ErrorCode {
	case "", "invalid_client", "unauthorized_client", "temporarily_unavailable", "server_error", "slow_down":
		return false
	}
	return true
}

func upstreamError(up *upstreamProvider, doing string, err error) error {
	if e, ok := errors.AsType[*oauth2.RetrieveError](err); ok && e.Response != nil {
		// Its body may hold what we sent.
		err = fmt.Errorf("status %d, %s", e.Response.StatusCode, visible(e.ErrorCode, 64))
		if e.Response.StatusCode < http.StatusInternalServerError {
			return fmt.Errorf("%s at provider %s: %w", doing, up.Name, err)
		}
	}
	return fmt.Errorf("%s at provider %s: %w: %w", doing, up.Name, errProviderAway, err)
}

// keepRefresh stores the newest refresh token, unless a login has brought another
// one meanwhile.
func (a *App) keepRefresh(ctx context.Context, key string, up *upstreamProvider, token string, before upstreamSession) error {
	_, err := a.cfg.Store.Update(ctx, func(tx store.Txn) error {
		var s upstreamSession
		found, err := store.GetJSON(tx, key, &s)
		if err != nil || !found || !s.LoginAt.Equal(before.LoginAt) {
			return err
		}
		if token != "" {
			s.Sealed = a.vault.seal(sealRefresh(key), []byte(token))
		}
		s.Next = a.cfg.Now().UTC().Add(up.Refresh)
		return store.PutJSON(tx, key, s)
	})
	return err
}

func (a *App) forgetUpstream(ctx context.Context, key string, before upstreamSession) error {
	_, err := a.cfg.Store.Update(ctx, func(tx store.Txn) error {
		var s upstreamSession
		found, err := store.GetJSON(tx, key, &s)
		if found && s.LoginAt.Equal(before.LoginAt) {
			tx.Delete(key)
		}
		return err
	})
	return err
}

// endUpstream ends everything a user was issued, at once: the next auth
// generation cuts what runs at the agents. The groups that the provider vouched
// for go too, until it vouches again at a login: with a password or a passkey he
// may come back without it.
func (a *App) endUpstream(ctx context.Context, key string, up *upstreamProvider, u *apiv1.User, why string) error {
	if _, _, err := a.cfg.Directory.EndSessions(ctx, u.Id); err != nil {
		return fmt.Errorf("ending the sessions of %s: %w", u.Name, err)
	}
	if err := a.syncGroups(ctx, up, u, stranger{}); err != nil {
		return err
	}
	_, err := a.cfg.Store.Update(ctx, func(tx store.Txn) error {
		tx.Delete(key)
		return nil
	})
	return errors.Join(err, a.recordUpstream(ctx, "login.ended", u, "user "+u.Name+": "+why, nil))
}
