package directory

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/sallyport-mesh/sallyport/coordinator/internal/store"
	apiv1 "github.com/sallyport-mesh/sallyport/pkg/api/sallyport/v1"
	"github.com/sallyport-mesh/sallyport/pkg/identity"
)

type timestamp = timestamppb.Timestamp

func at(t time.Time) *timestamp { return timestamppb.New(t) }

// Admin roles: what an AdminBinding may name.
const (
	Administrator   = "administrator"    // everything, everywhere
	Auditor         = "auditor"          // reads everything, changes nothing
	ProjectManager  = "project-manager"  // ends grants and suspends access in one project
	ClusterOperator = "cluster-operator" // adds and removes clusters and agents
)

// RevokePrefix is the outbox to Hydra: revoke/<user id> appears in the very
// transaction that ends what the user was issued, and goes once Hydra has
// confirmed that the user's tokens and login sessions are gone. A second change
// in between writes it anew, so it is removed only at the revision that was read.
const RevokePrefix = "revoke/"

// UserSpec describes a new user.
type UserSpec struct {
	Name        string
	DisplayName string
	// Password may be empty: the user then cannot log in until CreateWelcome's
	// link was used or SetPassword called.
	Password string
}

// CreateUser adds a user.
func (d *Directory) CreateUser(ctx context.Context, spec UserSpec) (*apiv1.User, uint64, error) {
	// The cheap checks come before the expensive hash; the transaction repeats
	// what could have changed in between.
	if err := identity.CheckName(spec.Name); err != nil {
		return nil, 0, &InvalidError{Field: "name", Reason: err.Error()}
	}
	if _, err := d.Snapshot().User(spec.Name); err == nil {
		return nil, 0, &ExistsError{"user", spec.Name}
	}
	display, err := cleanText("display name", spec.DisplayName, 128)
	if err != nil {
		return nil, 0, err
	}
	var hash string
	if spec.Password != "" {
		if hash, err = d.hash(ctx, spec.Name, spec.Password); err != nil {
			return nil, 0, err
		}
	}
	return change(ctx, d, func(tx store.Txn) (*apiv1.User, error) {
		u := &apiv1.User{
			Id: identity.NewID(identity.User), Name: spec.Name, DisplayName: display,
			CreatedAt: at(d.now()), AuthGeneration: 1, HasPassword: hash != "",
		}
		if err := users.claim(tx, u.Name, u.Id); err != nil {
			return nil, err
		}
		if hash != "" {
			tx.Put(passwordPrefix+u.Id, []byte(hash))
		}
		return u, users.put(tx, u.Id, u)
	})
}

// DeleteUser removes a user and everything that was his: grants, memberships,
// devices, sessions, password, welcome links.
func (d *Directory) DeleteUser(ctx context.Context, user string) (*apiv1.User, uint64, error) {
	return change(ctx, d, func(tx store.Txn) (*apiv1.User, error) {
		u, err := users.find(tx, user)
		if err != nil {
			return nil, err
		}
		d.revokeAtHydra(tx, u.Id)
		users.delete(tx, u.Id)
		users.release(tx, u.Name)
		tx.Delete(passwordPrefix + u.Id)
		tx.Delete(secondFactorPrefix + u.Id)
		deleteIdentities(tx, u)
		if err := deletePasskeys(tx, u.Id); err != nil {
			return nil, err
		}
		if err := deleteWelcomes(tx, u.Id); err != nil {
			return nil, err
		}
		if err := deleteGrants(tx, func(g *apiv1.Grant) bool { return g.UserId == u.Id }); err != nil {
			return nil, err
		}
		err = groups.all(tx, func(g *apiv1.Group) error {
			if i := slices.Index(g.MemberIds, u.Id); i >= 0 {
				g.MemberIds = slices.Delete(g.MemberIds, i, i+1)
				return groups.put(tx, g.Id, g)
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
		err = projects.all(tx, func(p *apiv1.Project) error {
			if i := slices.Index(p.SuspendedUserIds, u.Id); i >= 0 {
				p.SuspendedUserIds = slices.Delete(p.SuspendedUserIds, i, i+1)
				return projects.put(tx, p.Id, p)
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
		err = devices.all(tx, func(dev *apiv1.Device) error {
			if dev.UserId == u.Id {
				devices.delete(tx, dev.Id)
				tx.Delete(deviceKeyPrefix + fmt.Sprintf("%x", dev.KeySha256))
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
		return u, sessions.all(tx, func(s *apiv1.Session) error {
			if s.UserId == u.Id {
				sessions.delete(tx, s.Id)
			}
			return nil
		})
	})
}

// SuspendUser suspends a user everywhere, or, with a project, his access to the
// project's clusters. Everywhere means in one transaction: the mark, the next
// auth generation, every session revoked, and the word to Hydra queued.
func (d *Directory) SuspendUser(ctx context.Context, user, project string) (*apiv1.User, uint64, error) {
	return change(ctx, d, func(tx store.Txn) (*apiv1.User, error) {
		u, err := users.find(tx, user)
		if err != nil {
			return nil, err
		}
		if project != "" {
			return u, suspendIn(tx, project, u.Id, true)
		}
		u.Suspended = true
		return u, d.endAccess(tx, u)
	})
}

// ResumeUser undoes SuspendUser. What was ended stays ended: a user suspended
// everywhere logs in again.
func (d *Directory) ResumeUser(ctx context.Context, user, project string) (*apiv1.User, uint64, error) {
	return change(ctx, d, func(tx store.Txn) (*apiv1.User, error) {
		u, err := users.find(tx, user)
		if err != nil {
			return nil, err
		}
		if project != "" {
			return u, suspendIn(tx, project, u.Id, false)
		}
		u.Suspended = false
		return u, users.put(tx, u.Id, u)
	})
}

// EndSessions ends every session of a user without suspending him.
func (d *Directory) EndSessions(ctx context.Context, user string) (*apiv1.User, uint64, error) {
	return change(ctx, d, func(tx store.Txn) (*apiv1.User, error) {
		u, err := users.find(tx, user)
		if err != nil {
			return nil, err
		}
		return u, d.endAccess(tx, u)
	})
}

// endAccess ends all that u was issued so far, and stores u.
func (d *Directory) endAccess(tx store.Txn, u *apiv1.User) error {
	u.AuthGeneration++
	d.revokeAtHydra(tx, u.Id)
	if err := users.put(tx, u.Id, u); err != nil {
		return err
	}
	return revokeSessions(tx, func(s *apiv1.Session) bool { return s.UserId == u.Id })
}

func (d *Directory) revokeAtHydra(tx store.Txn, userID string) {
	tx.Put(RevokePrefix+userID, []byte(d.now().UTC().Format(time.RFC3339Nano)))
}

func suspendIn(tx store.Txn, project, userID string, suspended bool) error {
	p, err := projects.find(tx, project)
	if err != nil {
		return err
	}
	i, found := slices.BinarySearch(p.SuspendedUserIds, userID)
	switch {
	case suspended && !found:
		p.SuspendedUserIds = slices.Insert(p.SuspendedUserIds, i, userID)
	case !suspended && found:
		p.SuspendedUserIds = slices.Delete(p.SuspendedUserIds, i, i+1)
	default:
		return nil
	}
	return projects.put(tx, p.Id, p)
}

// BindAdmin lets a user administer: with ProjectManager one project, with the
// others everywhere.
func (d *Directory) BindAdmin(ctx context.Context, user, role, project string) (*apiv1.User, uint64, error) {
	return d.adminBinding(ctx, user, role, project, func(u *apiv1.User, b *apiv1.AdminBinding) error {
		if indexBinding(u, b) < 0 {
			u.Admin = append(u.Admin, b)
		}
		return nil
	})
}

// UnbindAdmin undoes BindAdmin.
func (d *Directory) UnbindAdmin(ctx context.Context, user, role, project string) (*apiv1.User, uint64, error) {
	return d.adminBinding(ctx, user, role, project, func(u *apiv1.User, b *apiv1.AdminBinding) error {
		i := indexBinding(u, b)
		if i < 0 {
			return &NotFoundError{"admin binding", role}
		}
		u.Admin = slices.Delete(u.Admin, i, i+1)
		return nil
	})
}

func (d *Directory) adminBinding(ctx context.Context, user, role, project string, f func(*apiv1.User, *apiv1.AdminBinding) error) (*apiv1.User, uint64, error) {
	if err := checkBinding(role, project); err != nil {
		return nil, 0, err
	}
	b := &apiv1.AdminBinding{Role: role}
	return change(ctx, d, func(tx store.Txn) (*apiv1.User, error) {
		u, err := users.find(tx, user)
		if err != nil {
			return nil, err
		}
		if project != "" {
			p, err := projects.find(tx, project)
			if err != nil {
				return nil, err
			}
			b.ProjectId = p.Id
		}
		if err := f(u, b); err != nil {
			return nil, err
		}
		return u, users.put(tx, u.Id, u)
	})
}

// checkBinding says whether an admin role holds in a project, or everywhere.
func checkBinding(role, project string) *InvalidError {
	switch role {
	case ProjectManager:
		if project == "" {
			return &InvalidError{"project", "a project-manager manages one project", "name it with --project"}
		}
	case Administrator, Auditor, ClusterOperator:
		if project != "" {
			return &InvalidError{"project", role + " holds everywhere and takes no project", "use project-manager for one project"}
		}
	default:
		return &InvalidError{"role", fmt.Sprintf("no admin role %q", role), "one of administrator, auditor, project-manager, cluster-operator"}
	}
	return nil
}

func indexBinding(u *apiv1.User, b *apiv1.AdminBinding) int {
	return slices.IndexFunc(u.Admin, func(x *apiv1.AdminBinding) bool { return proto.Equal(x, b) })
}

// cleanText takes a line that people see: printable, bounded, trimmed.
func cleanText(field, s string, limit int) (string, error) {
	s = strings.TrimSpace(s)
	if len(s) > limit {
		return "", &InvalidError{Field: field, Reason: fmt.Sprintf("longer than %d bytes", limit)}
	}
	if !printable(s) {
		return "", &InvalidError{Field: field, Reason: "holds characters that cannot be printed"}
	}
	return s, nil
}
