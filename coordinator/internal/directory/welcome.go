package directory

import (
	"context"
	"time"

	"github.com/sallyport-mesh/sallyport/coordinator/internal/store"
	apiv1 "github.com/sallyport-mesh/sallyport/pkg/api/sallyport/v1"
)

const (
	welcomePrefix = "welcome/" // + hex SHA-256 of the token
	welcomeKind   = "welcome link"

	defaultWelcomeTTL = 72 * time.Hour
	maxWelcomeTTL     = 30 * 24 * time.Hour
)

// Welcome is a one-time token with which a user sets his password. Only its
// hash is stored.
type Welcome struct {
	Secret    string
	ExpiresAt time.Time
}

type welcome struct {
	UserID    string    `json:"user_id"`
	ExpiresAt time.Time `json:"expires_at"`
	UsedAt    time.Time `json:"used_at,omitzero"`
}

// CreateWelcome makes a welcome token for a user, in place of one there was. A
// ttl of 0 means three days.
func (d *Directory) CreateWelcome(ctx context.Context, user string, ttl time.Duration) (Welcome, uint64, error) {
	if ttl == 0 {
		ttl = defaultWelcomeTTL
	}
	if ttl < 0 || ttl > maxWelcomeTTL {
		return Welcome{}, 0, &InvalidError{Field: "link lifetime", Reason: "must be positive and 30 days at most"}
	}
	w := Welcome{Secret: newSecret("wlc"), ExpiresAt: d.now().Add(ttl)}
	return change(ctx, d, func(tx store.Txn) (Welcome, error) {
		u, err := users.find(tx, user)
		if err != nil {
			return Welcome{}, err
		}
		if err := deleteWelcomes(tx, u.Id); err != nil {
			return Welcome{}, err
		}
		return w, store.PutJSON(tx, welcomePrefix+tokenHash(w.Secret), welcome{UserID: u.Id, ExpiresAt: w.ExpiresAt})
	})
}

// CheckWelcome answers with the user whom a token welcomes, or a TokenError.
func (d *Directory) CheckWelcome(ctx context.Context, token string) (*apiv1.User, error) {
	var u *apiv1.User
	err := d.store.View(ctx, func(r store.Reader) error {
		w, err := d.welcome(r, token)
		if err != nil {
			return err
		}
		u, err = users.get(r, w.UserID)
		return err
	})
	if err != nil {
		return nil, err
	}
	return u, nil
}

// RedeemWelcome sets the password of the user whom a token welcomes. It works
// once.
func (d *Directory) RedeemWelcome(ctx context.Context, token, password string) (*apiv1.User, uint64, error) {
	u, err := d.CheckWelcome(ctx, token)
	if err != nil {
		return nil, 0, err
	}
	hash, err := d.hash(ctx, u.Name, password)
	if err != nil {
		return nil, 0, err
	}
	return change(ctx, d, func(tx store.Txn) (*apiv1.User, error) {
		w, err := d.welcome(tx, token)
		if err != nil {
			return nil, err
		}
		u, err := d.putPassword(tx, w.UserID, hash)
		if err != nil {
			return nil, err
		}
		w.UsedAt = d.now()
		return u, store.PutJSON(tx, welcomePrefix+tokenHash(token), w)
	})
}

func (d *Directory) welcome(r store.Reader, token string) (welcome, error) {
	var w welcome
	found, err := store.GetJSON(r, welcomePrefix+tokenHash(token), &w)
	switch {
	case err != nil:
		return w, err
	case !found:
		return w, &TokenError{Kind: welcomeKind, Problem: TokenUnknown}
	case !w.UsedAt.IsZero():
		return w, &TokenError{welcomeKind, TokenUsed, w.UsedAt}
	case !d.now().Before(w.ExpiresAt):
		return w, &TokenError{welcomeKind, TokenExpired, w.ExpiresAt}
	}
	return w, nil
}

// deleteWelcomes takes back the links of a user that were not used.
func deleteWelcomes(tx store.Txn, userID string) error {
	return eachJSON(tx, welcomePrefix, func(key string, w welcome) error {
		if w.UserID == userID && w.UsedAt.IsZero() {
			tx.Delete(key)
		}
		return nil
	})
}
