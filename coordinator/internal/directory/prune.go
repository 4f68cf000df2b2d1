package directory

import (
	"context"
	"time"

	"github.com/sallyport-mesh/sallyport/coordinator/internal/store"
	apiv1 "github.com/sallyport-mesh/sallyport/pkg/api/sallyport/v1"
)

// How long what is over stays to be seen. A used or expired token is told from
// an unknown one for as long; an expired grant is shown as such.
const (
	keepSessions = time.Hour
	keepTokens   = 7 * 24 * time.Hour
	keepGrants   = 24 * time.Hour
)

// pruneLoop prunes until ctx ends.
func (d *Directory) pruneLoop(ctx context.Context, every time.Duration) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		if _, err := d.Prune(ctx); err != nil && ctx.Err() == nil {
			d.log.Warn("pruning the directory failed", "error", err)
		}
		select {
		case <-tick.C:
		case <-d.done:
			return
		}
	}
}

// Prune removes sessions, grants and one-time tokens that have been over for a
// while. It runs by itself; where nothing is over, it writes nothing.
func (d *Directory) Prune(ctx context.Context) (uint64, error) {
	now := d.now()
	over := func(at time.Time, keep time.Duration) bool { return now.After(at.Add(keep)) }
	_, rev, err := change(ctx, d, func(tx store.Txn) (struct{}, error) {
		err := sessions.all(tx, func(s *apiv1.Session) error {
			if over(s.ExpiresAt.AsTime(), keepSessions) {
				sessions.delete(tx, s.Id)
			}
			return nil
		})
		if err != nil {
			return struct{}{}, err
		}
		err = grants.all(tx, func(g *apiv1.Grant) error {
			if g.ExpiresAt != nil && over(g.ExpiresAt.AsTime(), keepGrants) {
				grants.delete(tx, g.Id)
			}
			return nil
		})
		if err != nil {
			return struct{}{}, err
		}
		err = eachJSON(tx, joinTokenPrefix, func(key string, t joinToken) error {
			if over(t.ExpiresAt, keepTokens) {
				tx.Delete(key)
			}
			return nil
		})
		if err != nil {
			return struct{}{}, err
		}
		return struct{}{}, eachJSON(tx, welcomePrefix, func(key string, w welcome) error {
			if over(w.ExpiresAt, keepTokens) {
				tx.Delete(key)
			}
			return nil
		})
	})
	return rev, err
}
