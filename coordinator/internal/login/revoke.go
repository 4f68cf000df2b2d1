package login

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"time"

	"github.com/sallyport-mesh/sallyport/coordinator/internal/directory"
	"github.com/sallyport-mesh/sallyport/coordinator/internal/store"
)

// Revoke ends at Hydra what a user was issued: consent sessions, which takes
// access and refresh tokens along, and login sessions, which by themselves would
// not. A user whom Hydra never saw is fine.
func (a *App) Revoke(ctx context.Context, userID string) error {
	resp, err := a.admin.OAuth2API.RevokeOAuth2ConsentSessions(ctx).Subject(userID).All(true).Execute()
	if err := ignoreMissing("revoking consent sessions", resp, err); err != nil {
		return err
	}
	resp, err = a.admin.OAuth2API.RevokeOAuth2LoginSessions(ctx).Subject(userID).Execute()
	return ignoreMissing("revoking login sessions", resp, err)
}

func ignoreMissing(doing string, resp *http.Response, err error) error {
	if err != nil && resp != nil && resp.StatusCode == http.StatusNotFound {
		resp.Body.Close()
		return nil
	}
	return hydraError(doing, resp, err)
}

// The waits between two attempts to reach Hydra.
const firstRetry, lastRetry = 500 * time.Millisecond, 30 * time.Second

// chore is how often Run looks after what needs no hurry: the client, for a
// Hydra that lost its database, and challenges that are long over.
const chore = 10 * time.Minute

// Run registers the clients, delivers the outbox of revocations, asks upstream
// providers again and forgets old challenges, until ctx ends. Hydra may be away at any time: nothing waits for
// this but the outbox itself.
func (a *App) Run(ctx context.Context) error {
	a.retry(ctx, "registering the client at hydra failed", a.EnsureClient)
	if len(a.upstreams) > 0 {
		done := make(chan struct{})
		defer func() { <-done }()
		go func() {
			defer close(done)
			a.watchUpstreams(ctx)
		}()
	}
	tick := time.NewTicker(chore)
	defer tick.Stop()
	for ctx.Err() == nil {
		// The watch begins before the outbox is read: what comes in between is
		// seen by one of them.
		watch, stop := a.watchOutbox(ctx)
		a.retry(ctx, "telling hydra of a revocation failed", a.deliver)
		select {
		case <-watch:
		case <-tick.C:
			if err := errors.Join(a.EnsureClient(ctx), a.pruneUsed(ctx), a.pruneDevices(ctx)); err != nil && ctx.Err() == nil {
				a.cfg.Log.Warn("looking after logins failed", "error", err)
			}
		case <-ctx.Done():
		}
		stop()
	}
	return nil
}

// retry calls f until it succeeds or ctx ends.
func (a *App) retry(ctx context.Context, failed string, f func(context.Context) error) {
	for wait := firstRetry; ; wait = min(2*wait, lastRetry) {
		err := f(ctx)
		if err == nil || ctx.Err() != nil {
			return
		}
		a.cfg.Log.Warn(failed, "error", err, "retry_in", wait)
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return
		}
	}
}

// watchOutbox closes a channel when the outbox has changed, or may have.
func (a *App) watchOutbox(ctx context.Context) (<-chan struct{}, context.CancelFunc) {
	ctx, stop := context.WithCancel(ctx)
	changed := make(chan struct{})
	w := a.cfg.Store.Watch(ctx, a.cfg.Directory.Snapshot().Revision)
	go func() {
		defer close(changed)
		for commit := range w.Commits() {
			for _, c := range commit.Changes {
				if c.Value != nil && strings.HasPrefix(c.Key, directory.RevokePrefix) {
					return
				}
			}
		}
		// Compacted: look again. Closed: the process is ending, do not spin.
		if !errors.Is(w.Err(), store.ErrCompacted) {
			<-ctx.Done()
		}
	}()
	return changed, stop
}

// deliver tells Hydra of every user in the outbox. An entry goes only if it is
// the one that was read: a newer one is delivered again.
func (a *App) deliver(ctx context.Context) error {
	var pending []store.Item
	err := a.cfg.Store.View(ctx, func(r store.Reader) error {
		return r.List(directory.RevokePrefix, func(it store.Item) error {
			pending = append(pending, it)
			return nil
		})
	})
	if err != nil {
		return err
	}
	var failed error
	for _, it := range pending {
		if err := a.Revoke(ctx, strings.TrimPrefix(it.Key, directory.RevokePrefix)); err != nil {
			failed = err // the others are told meanwhile
			continue
		}
		_, err := a.cfg.Store.Update(ctx, func(tx store.Txn) error {
			now, err := tx.Get(it.Key)
			if err == nil && now != nil && now.Revision == it.Revision {
				tx.Delete(it.Key)
			}
			return err
		})
		if err != nil {
			return err
		}
	}
	return failed
}
