package directory

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/sallyport-mesh/sallyport/coordinator/internal/store"
	apiv1 "github.com/sallyport-mesh/sallyport/pkg/api/sallyport/v1"
	"github.com/sallyport-mesh/sallyport/pkg/identity"
)

const identityPrefix = "identity/" // + hash of issuer and subject → user id

// identityKey is by issuer and subject, never by an address or a name: those are
// given to somebody else one day.
func identityKey(issuer, subject string) string {
	sum := sha256.Sum256([]byte(issuer + "\x00" + subject))
	return identityPrefix + hex.EncodeToString(sum[:])
}

// UserByIdentity finds the user who is linked to a subject of an issuer; a
// NotFoundError if nobody is.
func (d *Directory) UserByIdentity(ctx context.Context, issuer, subject string) (*apiv1.User, error) {
	var u *apiv1.User
	err := d.store.View(ctx, func(r store.Reader) error {
		it, err := r.Get(identityKey(issuer, subject))
		if err != nil {
			return err
		}
		if it == nil {
			return &NotFoundError{"linked identity", subject}
		}
		u, err = users.get(r, string(it.Value))
		return err
	})
	return u, err
}

// LinkIdentity lets a user log in as a subject of a provider. One subject is one
// user, and a user has one subject with each provider.
func (d *Directory) LinkIdentity(ctx context.Context, user string, id *apiv1.Identity) (*apiv1.User, uint64, error) {
	return change(ctx, d, func(tx store.Txn) (*apiv1.User, error) {
		u, err := users.find(tx, user)
		if err != nil {
			return nil, err
		}
		return u, d.link(tx, u, id)
	})
}

func (d *Directory) link(tx store.Txn, u *apiv1.User, id *apiv1.Identity) error {
	if id.Issuer == "" || id.Subject == "" || len(id.Subject) > 255 {
		return &InvalidError{Field: "subject", Reason: "must have 1 to 255 bytes"}
	}
	key := identityKey(id.Issuer, id.Subject)
	it, err := tx.Get(key)
	switch {
	case err != nil:
		return err
	case it != nil && string(it.Value) == u.Id:
		return nil
	case it != nil:
		return &RefusedError{Reason: "this identity belongs to another user already", Hint: "sallyportctl user unlink takes it from them"}
	}
	if slices.ContainsFunc(u.Identities, func(x *apiv1.Identity) bool { return x.Issuer == id.Issuer }) {
		return &RefusedError{Reason: "user " + u.Name + " is linked to another identity of this provider already", Hint: "sallyportctl user unlink " + u.Name + " --provider " + id.Provider}
	}
	tx.Put(key, []byte(u.Id))
	u.Identities = append(u.Identities, &apiv1.Identity{Provider: id.Provider, Issuer: id.Issuer, Subject: id.Subject, LinkedAt: at(d.now())})
	return users.put(tx, u.Id, u)
}

// UnlinkIdentity undoes LinkIdentity and ends what was logged in.
func (d *Directory) UnlinkIdentity(ctx context.Context, user, provider string) (*apiv1.User, uint64, error) {
	return change(ctx, d, func(tx store.Txn) (*apiv1.User, error) {
		u, err := users.find(tx, user)
		if err != nil {
			return nil, err
		}
		i := slices.IndexFunc(u.Identities, func(x *apiv1.Identity) bool { return x.Provider == provider })
		if i < 0 {
			return nil, &NotFoundError{"identity of " + u.Name + " with provider", provider}
		}
		tx.Delete(identityKey(u.Identities[i].Issuer, u.Identities[i].Subject))
		u.Identities = slices.Delete(u.Identities, i, i+1)
		return u, d.endAccess(tx, u)
	})
}

func deleteIdentities(tx store.Txn, u *apiv1.User) {
	for _, id := range u.Identities {
		tx.Delete(identityKey(id.Issuer, id.Subject))
	}
}

// ProvisionUser makes a user for an identity that nobody has yet. The name that
// is wished for may be taken, also by somebody with a password: it is never
// handed over, the new user gets another one.
func (d *Directory) ProvisionUser(ctx context.Context, wish, display string, id *apiv1.Identity) (*apiv1.User, uint64, error) {
	if len([]rune(display)) > 128 || !printable(display) {
		display = ""
	}
	base := NameFrom(wish)
	return change(ctx, d, func(tx store.Txn) (*apiv1.User, error) {
		u := &apiv1.User{Id: identity.NewID(identity.User), DisplayName: strings.TrimSpace(display), CreatedAt: at(d.now()), AuthGeneration: 1}
		for n := 1; ; n++ {
			name := base
			if n > 1 {
				name = fmt.Sprintf("%s-%d", base, n)
			}
			it, err := tx.Get(users.nameKey(name))
			if err != nil {
				return nil, err
			}
			if it == nil {
				u.Name = name
				break
			}
		}
		if err := users.claim(tx, u.Name, u.Id); err != nil {
			return nil, err
		}
		return u, d.link(tx, u, id)
	})
}

// NameFrom makes a user's name out of what a provider calls somebody: of an
// address, the part before the @.
func NameFrom(wish string) string {
	local, _, _ := strings.Cut(strings.ToLower(wish), "@")
	var b strings.Builder
	for _, r := range local {
		switch {
		case r >= 'a' && r <= 'z' || r >= '0' && r <= '9':
			b.WriteRune(r)
		case b.Len() > 0 && !strings.HasSuffix(b.String(), "-"):
			b.WriteByte('-')
		}
	}
	name := b.String()
	if len(name) > 48 {
		name = name[:48] // room for a number behind it
	}
	if name = strings.Trim(name, "-"); identity.CheckName(name) != nil {
		return "user"
	}
	return name
}

// SyncGroups puts a user into groups (true) and takes him out of others (false),
// in one revision. Groups that do not exist are answered in missing.
func (d *Directory) SyncGroups(ctx context.Context, userID string, member map[string]bool) (changed, missing []string, err error) {
	_, _, err = change(ctx, d, func(tx store.Txn) (struct{}, error) {
		changed, missing = nil, nil
		if _, err := users.get(tx, userID); err != nil {
			return struct{}{}, err
		}
		for _, name := range slices.Sorted(maps.Keys(member)) {
			g, err := groups.find(tx, name)
			if _, gone := errors.AsType[*NotFoundError](err); gone {
				missing = append(missing, name)
				continue
			}
			if err != nil {
				return struct{}{}, err
			}
			i, found := slices.BinarySearch(g.MemberIds, userID)
			switch in := member[name]; {
			case in && !found:
				g.MemberIds = slices.Insert(g.MemberIds, i, userID)
			case !in && found:
				g.MemberIds = slices.Delete(g.MemberIds, i, i+1)
			default:
				continue
			}
			changed = append(changed, g.Name)
			if err := groups.put(tx, g.Id, g); err != nil {
				return struct{}{}, err
			}
		}
		return struct{}{}, nil
	})
	return changed, missing, err
}
