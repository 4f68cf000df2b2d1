package directory

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"slices"
	"time"

	"github.com/sallyport-mesh/sallyport/coordinator/internal/store"
)

const (
	passkeysPrefix  = "passkeys/"  // + user id → []Passkey
	passkeyIDPrefix = "passkeyid/" // + hex SHA-256 of the credential id → user id

	// maxPasskeys is how many one person may have.
	maxPasskeys = 20
)

// Passkey is a WebAuthn credential of a user. Credential is the record of the
// library that verifies it: a public key, flags and a counter, nothing that opens
// anything.
type Passkey struct {
	ID         []byte          `json:"id"`
	Name       string          `json:"name"`
	Credential json.RawMessage `json:"credential"`
	CreatedAt  time.Time       `json:"created_at"`
	UsedAt     time.Time       `json:"used_at,omitzero"`
}

// Passkeys lists a user's passkeys, oldest first.
func (d *Directory) Passkeys(ctx context.Context, userID string) ([]Passkey, error) {
	var out []Passkey
	err := d.store.View(ctx, func(r store.Reader) error {
		_, err := store.GetJSON(r, passkeysPrefix+userID, &out)
		return err
	})
	return out, err
}

// AddPasskey gives a user another one. A credential belongs to one user.
func (d *Directory) AddPasskey(ctx context.Context, userID string, p Passkey) error {
	name, err := cleanText("name", p.Name, 64)
	if err != nil {
		return err
	}
	return d.changePasskeys(ctx, userID, func(tx store.Txn, list []Passkey) ([]Passkey, error) {
		if len(list) >= maxPasskeys {
			return nil, &RefusedError{"there are too many passkeys on this account", "remove one of them first"}
		}
		if owner, err := tx.Get(passkeyID(p.ID)); err != nil || owner != nil {
			return nil, errorOr(err, &ExistsError{"passkey", name})
		}
		tx.Put(passkeyID(p.ID), []byte(userID))
		p.Name, p.CreatedAt = name, d.now().UTC()
		return append(list, p), nil
	})
}

// UsePasskey keeps what a login changed in a credential, its counter above all.
// It is refused if the passkey has gone meanwhile.
func (d *Directory) UsePasskey(ctx context.Context, userID string, id []byte, credential json.RawMessage) error {
	return d.changePasskeys(ctx, userID, func(_ store.Txn, list []Passkey) ([]Passkey, error) {
		i := slices.IndexFunc(list, func(p Passkey) bool { return bytes.Equal(p.ID, id) })
		if i < 0 {
			return nil, ErrNoPasskey
		}
		list[i].Credential, list[i].UsedAt = credential, d.now().UTC()
		return list, nil
	})
}

// RemovePasskey takes one away.
func (d *Directory) RemovePasskey(ctx context.Context, userID string, id []byte) error {
	return d.changePasskeys(ctx, userID, func(tx store.Txn, list []Passkey) ([]Passkey, error) {
		left := slices.DeleteFunc(slices.Clone(list), func(p Passkey) bool { return bytes.Equal(p.ID, id) })
		if len(left) == len(list) {
			return nil, ErrNoPasskey
		}
		tx.Delete(passkeyID(id))
		return left, nil
	})
}

// ErrNoPasskey is the one answer to a passkey that is not known, or not any more.
var ErrNoPasskey = &RefusedError{Reason: "this passkey is not known here", Hint: "log in with the password"}

func (d *Directory) changePasskeys(ctx context.Context, userID string, f func(store.Txn, []Passkey) ([]Passkey, error)) error {
	_, err := d.store.Update(ctx, func(tx store.Txn) error {
		if _, err := users.get(tx, userID); err != nil {
			return err
		}
		var list []Passkey
		if _, err := store.GetJSON(tx, passkeysPrefix+userID, &list); err != nil {
			return err
		}
		list, err := f(tx, list)
		if err != nil {
			return err
		}
		return store.PutJSON(tx, passkeysPrefix+userID, list)
	})
	return err
}

// deletePasskeys forgets all of a user's passkeys.
func deletePasskeys(tx store.Txn, userID string) error {
	var list []Passkey
	if _, err := store.GetJSON(tx, passkeysPrefix+userID, &list); err != nil {
		return err
	}
	for _, p := range list {
		tx.Delete(passkeyID(p.ID))
	}
	tx.Delete(passkeysPrefix + userID)
	return nil
}

func passkeyID(id []byte) string {
	sum := sha256.Sum256(id)
	return passkeyIDPrefix + hex.EncodeToString(sum[:])
}

func errorOr(err, otherwise error) error {
	if err != nil {
		return err
	}
	return otherwise
}
