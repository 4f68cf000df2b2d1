package directory

import (
	"context"
	"fmt"
	"strings"

	"google.golang.org/protobuf/proto"

	"github.com/sallyport-mesh/sallyport/coordinator/internal/store"
	apiv1 "github.com/sallyport-mesh/sallyport/pkg/api/sallyport/v1"
	"github.com/sallyport-mesh/sallyport/pkg/identity"
	"github.com/sallyport-mesh/sallyport/pkg/policy"
)

// seed writes the built-in roles as this version has them. A start that changes
// nothing writes nothing. A role of one's own that has the name of one which is
// new stays: its grants must not come to mean something else.
func (d *Directory) seed(ctx context.Context, builtin []*apiv1.Role) error {
	_, err := d.store.Update(ctx, func(tx store.Txn) error {
		for _, want := range builtin {
			it, err := tx.Get(roles.prefix + want.GetName())
			if err != nil {
				return err
			}
			if it != nil {
				have, err := roles.decode(want.GetName(), it.Value)
				if err != nil {
					return err
				}
				if proto.Equal(have, want) {
					continue
				}
				if !have.GetBuiltin() {
					d.log.Warn("a built-in role is left out, since there is one of your own by its name", "role", want.GetName())
					continue
				}
			}
			if err := roles.put(tx, want.GetName(), want); err != nil {
				return err
			}
		}
		return nil
	})
	return err
}

// CreateRole adds a role of one's own.
func (d *Directory) CreateRole(ctx context.Context, role *apiv1.Role) (*apiv1.Role, uint64, error) {
	r, err := cleanRole(role)
	if err != nil {
		return nil, 0, err
	}
	return change(ctx, d, func(tx store.Txn) (*apiv1.Role, error) {
		it, err := tx.Get(roles.prefix + r.Name)
		if err != nil {
			return nil, err
		}
		if it != nil {
			return nil, &ExistsError{"role", r.Name}
		}
		return r, roles.put(tx, r.Name, r)
	})
}

// ChangeRole puts another description and other rules in place of a role's.
func (d *Directory) ChangeRole(ctx context.Context, role *apiv1.Role) (*apiv1.Role, uint64, error) {
	r, err := cleanRole(role)
	if err != nil {
		return nil, 0, err
	}
	return change(ctx, d, func(tx store.Txn) (*apiv1.Role, error) {
		have, err := ownRole(tx, r.Name)
		if err != nil || proto.Equal(have, r) {
			return have, err
		}
		return r, roles.put(tx, r.Name, r)
	})
}

// DeleteRole removes a role. Grants that give it still end with it, or keep it
// from being removed.
func (d *Directory) DeleteRole(ctx context.Context, name string, withGrants bool) (*apiv1.Role, uint64, error) {
	return change(ctx, d, func(tx store.Txn) (*apiv1.Role, error) {
		r, err := ownRole(tx, name)
		if err != nil {
			return nil, err
		}
		var given []string
		err = grants.all(tx, func(g *apiv1.Grant) error {
			if g.Role == name && (g.ExpiresAt == nil || d.now().Before(g.ExpiresAt.AsTime())) {
				given = append(given, g.Id)
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
		if len(given) > 0 && !withGrants {
			return nil, &RefusedError{
				fmt.Sprintf("role %q is given by %s", name, someOf(given)),
				"end the grants with it: sallyportctl role remove " + name + " --with-grants",
			}
		}
		roles.delete(tx, name)
		// Expired ones too: none must come back to life with a role of that name.
		return r, deleteGrants(tx, func(g *apiv1.Grant) bool { return g.Role == name })
	})
}

// ownRole reads a role that is not built in.
func ownRole(r store.Reader, name string) (*apiv1.Role, error) {
	role, err := roles.get(r, name)
	if err != nil {
		return nil, err
	}
	if role.Builtin {
		return nil, &RefusedError{fmt.Sprintf("role %q is built in and stays as it is", name), "make one of your own: sallyportctl role add NAME -f FILE"}
	}
	return role, nil
}

// cleanRole checks a role, and leaves out what is not the caller's to say.
func cleanRole(role *apiv1.Role) (*apiv1.Role, error) {
	if err := identity.CheckName(role.GetName()); err != nil {
		return nil, &InvalidError{Field: "name", Reason: err.Error()}
	}
	description, err := cleanText("description", role.GetDescription(), 512)
	if err != nil {
		return nil, err
	}
	if problems := policy.CheckRules(role.GetRules()); len(problems) > 0 {
		e := &InvalidError{Field: problems[0].Field, Reason: problems[0].Reason, Hint: "rules are counted from 0, and written as in a Kubernetes ClusterRole; deny: true makes one forbid"}
		for i, p := range problems[1:] {
			if i == 10 {
				e.Reason += fmt.Sprintf("; and %d more", len(problems)-11)
				break
			}
			e.Reason += "; " + p.String()
		}
		return nil, e
	}
	r := &apiv1.Role{Name: role.Name, Description: description}
	for _, x := range role.GetRules() {
		r.Rules = append(r.Rules, proto.CloneOf(x))
	}
	return r, nil
}

// someOf counts and names grants, the first ten of them.
func someOf(ids []string) string {
	what := "1 grant"
	if len(ids) != 1 {
		what = fmt.Sprintf("%d grants", len(ids))
	}
	if len(ids) > 10 {
		return what + ": " + strings.Join(ids[:10], ", ") + ", …"
	}
	return what + ": " + strings.Join(ids, ", ")
}
