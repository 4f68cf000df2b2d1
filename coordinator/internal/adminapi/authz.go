package adminapi

import (
	"fmt"
	"sync/atomic"

	"github.com/casbin/casbin/v2"
	"github.com/casbin/casbin/v2/model"

	"github.com/sallyport-mesh/sallyport/coordinator/internal/directory"
	apiv1 "github.com/sallyport-mesh/sallyport/pkg/api/sallyport/v1"
)

// everywhere is the domain of what belongs to no one project, and of a role
// that holds in all of them.
const everywhere = "*"

// A request is (user, project, object, action). A user has roles in a project
// or everywhere; what is asked everywhere needs a role that holds everywhere.
const authzModel = `
[request_definition]
r = sub, dom, obj, act

[policy_definition]
p = sub, obj, act

[role_definition]
g = _, _, _

[policy_effect]
e = some(where (p.eft == allow))

[matchers]
m = (g(r.sub, p.sub, r.dom) || g(r.sub, p.sub, "*")) && (p.obj == "*" || r.obj == p.obj) && (p.act == "*" || r.act == p.act)
`

// permissions of the built-in admin roles: object and action.
var permissions = map[string][][2]string{
	"administrator": {{"*", "*"}},
	"auditor":       {{"*", "read"}},
	"project-manager": {
		{"project", "read"}, {"cluster", "read"}, {"role", "read"}, {"audit", "read"},
		// Of the people who hold a grant in the project, and only of them.
		{"user", "read"}, {"group", "read"}, {"device", "read"}, {"session", "read"}, {"session", "end"},
		{"grant", "*"}, {"access", "*"},
	},
	"cluster-operator": {
		{"project", "read"}, {"cluster", "*"}, {"role", "read"}, {"ca", "read"},
	},
}

// local is the subject of the bootstrap socket: whoever may open it owns the
// coordinator's files anyway.
const local = "local socket"

// authorizer decides admin calls with Casbin, from the roles of one revision.
type authorizer struct {
	snapshot func() *directory.Snapshot
	current  atomic.Pointer[enforcer]
}

type enforcer struct {
	revision uint64
	*casbin.Enforcer
}

// allowed reports whether the user may do act to obj in the project (or
// everywhere).
func (a *authorizer) allowed(subject, project, obj, act string) (bool, error) {
	e, err := a.enforcer()
	if err != nil {
		return false, err
	}
	return e.Enforce(subject, project, obj, act)
}

// projects lists where a user may do act to obj: nil for nowhere, everywhere
// first if so.
func (a *authorizer) projects(subject, obj, act string) ([]string, error) {
	ok, err := a.allowed(subject, everywhere, obj, act)
	if err != nil {
		return nil, err
	}
	if ok {
		return []string{everywhere}, nil
	}
	var in []string
	for id := range a.snapshot().Projects {
		ok, err := a.allowed(subject, id, obj, act)
		if err != nil {
			return nil, err
		}
		if ok {
			in = append(in, id)
		}
	}
	return in, nil
}

// enforcer is for the newest revision. Two calls may build the same one; the
// last stays.
func (a *authorizer) enforcer() (*enforcer, error) {
	snap := a.snapshot()
	if e := a.current.Load(); e != nil && e.revision == snap.Revision {
		return e, nil
	}
	m, err := model.NewModelFromString(authzModel)
	if err != nil {
		return nil, fmt.Errorf("reading the admin model: %w", err)
	}
	c, err := casbin.NewEnforcer(m)
	if err != nil {
		return nil, fmt.Errorf("making the admin enforcer: %w", err)
	}
	var policies, roles [][]string
	for role, allowed := range permissions {
		for _, p := range allowed {
			policies = append(policies, []string{role, p[0], p[1]})
		}
	}
	for _, u := range snap.Users {
		for _, b := range u.Admin {
			roles = append(roles, []string{u.Id, b.Role, domain(b)})
		}
	}
	roles = append(roles, []string{local, "administrator", everywhere})
	if _, err := c.AddPolicies(policies); err != nil {
		return nil, fmt.Errorf("loading admin permissions: %w", err)
	}
	if _, err := c.AddGroupingPolicies(roles); err != nil {
		return nil, fmt.Errorf("loading admin roles: %w", err)
	}
	e := &enforcer{revision: snap.Revision, Enforcer: c}
	a.current.Store(e)
	return e, nil
}

func domain(b *apiv1.AdminBinding) string {
	if b.ProjectId == "" {
		return everywhere
	}
	return b.ProjectId
}
