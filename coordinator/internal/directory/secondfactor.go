package directory

import (
	"context"
	"slices"
	"time"

	"github.com/sallyport-mesh/sallyport/coordinator/internal/store"
	apiv1 "github.com/sallyport-mesh/sallyport/pkg/api/sallyport/v1"
)

const secondFactorPrefix = "secondfactor/" // + user id → SecondFactor

// SecondFactor is a user's authenticator and his recovery codes. The secret
// comes here sealed, and recovery codes as hashes: what this package holds opens
// nothing.
type SecondFactor struct {
	Sealed []byte    `json:"sealed"`
	Since  time.Time `json:"since"`
	// LastStep is the time step of the last code that was taken. No code of it or
	// of an earlier one is taken again (RFC 6238, section 5.2).
	LastStep uint64 `json:"last_step"`
	// Recovery are the hashes of the recovery codes that are left.
	Recovery []string `json:"recovery"`
}

// ErrWrongCode is the one answer to a code that is wrong, and to one that was
// used already.
var ErrWrongCode = &RefusedError{Reason: "wrong second factor", Hint: ""}

// SecondFactor reads a user's second factor; nil if there is none.
func (d *Directory) SecondFactor(ctx context.Context, userID string) (*SecondFactor, error) {
	var f *SecondFactor
	err := d.store.View(ctx, func(r store.Reader) error {
		var read SecondFactor
		found, err := store.GetJSON(r, secondFactorPrefix+userID, &read)
		if found {
			f = &read
		}
		return err
	})
	return f, err
}

// SetSecondFactor gives a user a second factor, in place of one there was.
func (d *Directory) SetSecondFactor(ctx context.Context, userID string, f SecondFactor) (*apiv1.User, uint64, error) {
	return change(ctx, d, func(tx store.Txn) (*apiv1.User, error) {
		u, err := users.get(tx, userID)
		if err != nil {
			return nil, err
		}
		f.Since = d.now().UTC()
		if err := store.PutJSON(tx, secondFactorPrefix+u.Id, f); err != nil {
			return nil, err
		}
		u.SecondFactor = true
		return u, users.put(tx, u.Id, u)
	})
}

// UseStep takes the code of a time step, once: of two logins with the same code
// one goes on.
func (d *Directory) UseStep(ctx context.Context, userID string, step uint64) error {
	return d.useSecondFactor(ctx, userID, func(f *SecondFactor) bool {
		if step <= f.LastStep {
			return false
		}
		f.LastStep = step
		return true
	})
}

// UseRecovery takes a recovery code by its hash, once.
func (d *Directory) UseRecovery(ctx context.Context, userID, hash string) error {
	return d.useSecondFactor(ctx, userID, func(f *SecondFactor) bool {
		i := slices.Index(f.Recovery, hash)
		if i >= 0 {
			f.Recovery = slices.Delete(f.Recovery, i, i+1)
		}
		return i >= 0
	})
}

// SetRecovery puts new recovery codes in place of the old ones.
func (d *Directory) SetRecovery(ctx context.Context, userID string, hashes []string) error {
	return d.useSecondFactor(ctx, userID, func(f *SecondFactor) bool {
		f.Recovery = hashes
		return true
	})
}

func (d *Directory) useSecondFactor(ctx context.Context, userID string, use func(*SecondFactor) bool) error {
	_, err := d.store.Update(ctx, func(tx store.Txn) error {
		var f SecondFactor
		found, err := store.GetJSON(tx, secondFactorPrefix+userID, &f)
		if err != nil {
			return err
		}
		if !found || !use(&f) {
			return ErrWrongCode
		}
		return store.PutJSON(tx, secondFactorPrefix+userID, f)
	})
	return err
}

// RemoveSecondFactor takes it away. An administrator who does it for somebody
// else takes the passkeys too and ends what was logged in: a lost telephone may be
// in other hands.
func (d *Directory) RemoveSecondFactor(ctx context.Context, user string, end bool) (*apiv1.User, uint64, error) {
	return change(ctx, d, func(tx store.Txn) (*apiv1.User, error) {
		u, err := users.find(tx, user)
		if err != nil {
			return nil, err
		}
		tx.Delete(secondFactorPrefix + u.Id)
		u.SecondFactor = false
		if end {
			if err := deletePasskeys(tx, u.Id); err != nil {
				return nil, err
			}
			return u, d.endAccess(tx, u)
		}
		return u, users.put(tx, u.Id, u)
	})
}
