package directory

import (
	"context"
	"fmt"
	"strings"

	"github.com/sallyport-mesh/sallyport/coordinator/internal/store"
	apiv1 "github.com/sallyport-mesh/sallyport/pkg/api/sallyport/v1"
)

const passwordPrefix = "password/" // + user id → PHC string

// SetPassword sets a user's password. One that replaces another ends every
// session that there was.
func (d *Directory) SetPassword(ctx context.Context, user, password string) (*apiv1.User, uint64, error) {
	u, err := d.Snapshot().User(user)
	if err != nil {
		return nil, 0, err
	}
	hash, err := d.hash(ctx, u.Name, password)
	if err != nil {
		return nil, 0, err
	}
	return change(ctx, d, func(tx store.Txn) (*apiv1.User, error) {
		return d.putPassword(tx, u.Id, hash)
	})
}

func (d *Directory) putPassword(tx store.Txn, userID, hash string) (*apiv1.User, error) {
	u, err := users.get(tx, userID)
	if err != nil {
		return nil, err
	}
	tx.Put(passwordPrefix+u.Id, []byte(hash))
	if err := deleteWelcomes(tx, u.Id); err != nil {
		return nil, err
	}
	if u.HasPassword {
		return u, d.endAccess(tx, u)
	}
	u.HasPassword = true
	return u, users.put(tx, u.Id, u)
}

// VerifyPassword answers with the user whose name and password these are.
// ErrWrongPassword does not tell a wrong password from an unknown name, in words
// or in time; ErrSuspended is only said to the right password. From names where
// the attempt comes from (an address): a source that guesses waits longer and
// longer, while the person himself, elsewhere, waits seconds at most.
func (d *Directory) VerifyPassword(ctx context.Context, name, password, from string) (*apiv1.User, error) {
	if err := d.guard.attempts.Admit(buckets(name, from)...); err != nil {
		return nil, err
	}
	u, _ := d.Snapshot().User(strings.TrimSpace(name))
	hash := ""
	if u != nil {
		err := d.store.View(ctx, func(r store.Reader) error {
			it, err := r.Get(passwordPrefix + u.Id)
			if it != nil {
				hash = string(it.Value)
			}
			return err
		})
		if err != nil {
			return nil, fmt.Errorf("reading password: %w", err)
		}
	}
	ok, err := d.guard.compare(ctx, password, hash)
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, ErrWrongPassword
	}
	d.guard.attempts.Succeeded(buckets(name, from)...)
	// The newest word counts: while we hashed he may have been suspended, or the
	// password changed, which ends what the old one was good for.
	now, err := d.Snapshot().User(u.Id)
	switch {
	case err != nil:
		return nil, ErrWrongPassword
	case now.Suspended:
		return nil, ErrSuspended
	case now.AuthGeneration != u.AuthGeneration:
		return nil, ErrWrongPassword
	}
	return now, nil
}

// hash checks that a password can be one and hashes it.
func (d *Directory) hash(ctx context.Context, name, password string) (string, error) {
	if err := checkPassword(name, password); err != nil {
		return "", err
	}
	return d.guard.hash(ctx, password)
}

// Length is what makes a password hard to guess (NIST SP 800-63B); the upper
// bound only keeps a request small.
const minPassword, maxPassword = 8, 256

func checkPassword(name, password string) error {
	switch n := len([]rune(password)); {
	case n < minPassword:
		return &InvalidError{"password", fmt.Sprintf("shorter than %d characters", minPassword), "a few words are easy to keep in mind and hard to guess"}
	case len(password) > maxPassword:
		return &InvalidError{Field: "password", Reason: fmt.Sprintf("longer than %d bytes", maxPassword)}
	case strings.Contains(strings.ToLower(password), strings.ToLower(name)) && n < len([]rune(name))+minPassword:
		return &InvalidError{Field: "password", Reason: "is hardly more than the user's name"}
	}
	return nil
}
