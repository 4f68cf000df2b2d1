package directory

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/sallyport-mesh/sallyport/coordinator/internal/store"
	apiv1 "github.com/sallyport-mesh/sallyport/pkg/api/sallyport/v1"
	"github.com/sallyport-mesh/sallyport/pkg/identity"
	"github.com/sallyport-mesh/sallyport/pkg/policy"
)

func (a *applier) project(name string) error {
	have, err := existing(a, projects, name)
	if err != nil {
		return err
	}
	p := have
	if p == nil {
		p = &apiv1.Project{Id: identity.NewID(identity.Project), Name: name, CreatedAt: at(a.d.now())}
		if err := projects.claim(a.tx, name, p.Id); err != nil {
			return a.wrong("", err)
		}
	}
	return put(a, projects, p.Id, have, p)
}

func (a *applier) user(name string, spec *apiv1.UserSpec) error {
	have, err := existing(a, users, name)
	if err != nil {
		return err
	}
	if have != nil && a.opts.Import {
		return a.wrong("", &ExistsError{"user", name})
	}
	u := proto.CloneOf(have)
	if have == nil {
		u = &apiv1.User{Id: identity.NewID(identity.User), Name: name, CreatedAt: at(a.d.now()), AuthGeneration: 1}
		if err := users.claim(a.tx, name, u.Id); err != nil {
			return a.wrong("", err)
		}
	}
	if u.DisplayName, err = cleanText("display name", spec.GetDisplayName(), 128); err != nil {
		return a.wrong("", err)
	}
	u.Admin = nil
	for i, want := range spec.GetAdmin() {
		b, err := a.binding(fmt.Sprintf("spec.admin[%d]", i), want)
		if err != nil {
			return err
		}
		if b != nil && indexBinding(u, b) < 0 {
			u.Admin = append(u.Admin, b)
		}
	}
	if have != nil && sameBindings(have.Admin, u.Admin) {
		u.Admin = have.Admin // their order says nothing
	}
	// A file resumes nobody: who was suspended in a hurry stays so.
	if spec.GetSuspended() && !u.Suspended {
		u.Suspended = true
		if err := a.d.endAccess(a.tx, u); err != nil {
			return err
		}
	}
	if err := put(a, users, u.Id, have, u); err != nil || have != nil || !a.opts.Welcome {
		return err
	}
	w := Welcome{Secret: newSecret("wlc"), ExpiresAt: a.d.now().Add(defaultWelcomeTTL)}
	a.out[len(a.out)-1].Welcome = w
	return store.PutJSON(a.tx, welcomePrefix+tokenHash(w.Secret), welcome{UserID: u.Id, ExpiresAt: w.ExpiresAt})
}

func (a *applier) binding(field string, want *apiv1.AdminSpec) (*apiv1.AdminBinding, error) {
	if err := checkBinding(want.GetRole(), want.GetProject()); err != nil {
		return nil, a.wrong(field+"."+err.Field, err)
	}
	b := &apiv1.AdminBinding{Role: want.Role}
	if want.Project != "" {
		p, err := projects.find(a.tx, want.Project)
		if err != nil {
			return nil, a.wrong(field+".project", err)
		}
		b.ProjectId = p.Id
	}
	return b, nil
}

func sameBindings(x, y []*apiv1.AdminBinding) bool {
	if len(x) != len(y) {
		return false
	}
	return !slices.ContainsFunc(x, func(b *apiv1.AdminBinding) bool {
		return !slices.ContainsFunc(y, func(c *apiv1.AdminBinding) bool { return proto.Equal(b, c) })
	})
}

func (a *applier) group(name string, spec *apiv1.GroupSpec) error {
	have, err := existing(a, groups, name)
	if err != nil {
		return err
	}
	g := proto.CloneOf(have)
	if have == nil {
		g = &apiv1.Group{Id: identity.NewID(identity.Group), Name: name, CreatedAt: at(a.d.now())}
		if err := groups.claim(a.tx, name, g.Id); err != nil {
			return a.wrong("", err)
		}
	}
	if !a.opts.Import {
		g.MemberIds = nil
	}
	for i, m := range spec.GetMembers() {
		u, err := users.find(a.tx, m)
		if err != nil {
			if err := a.wrong(fmt.Sprintf("spec.members[%d]", i), err); err != nil {
				return err
			}
			continue
		}
		g.MemberIds = append(g.MemberIds, u.Id)
	}
	slices.Sort(g.MemberIds)
	g.MemberIds = slices.Compact(g.MemberIds)
	return put(a, groups, g.Id, have, g)
}

func (a *applier) role(name string, spec *apiv1.RoleSpec) error {
	have, err := existing(a, roles, name)
	if err != nil {
		return err
	}
	if have != nil && have.Builtin {
		_, err := ownRole(a.tx, name)
		return a.wrong("", err)
	}
	if problems := policy.CheckRules(spec.GetRules()); len(problems) > 0 {
		for _, p := range problems {
			a.problem("spec."+p.Field, p.Reason, "")
		}
		return nil
	}
	r, err := cleanRole(&apiv1.Role{Name: name, Description: spec.GetDescription(), Rules: spec.GetRules()})
	if err != nil {
		return a.wrong("", err)
	}
	return put(a, roles, name, have, r)
}

func (a *applier) cluster(name string, spec *apiv1.ClusterSpec) error {
	have, err := existing(a, clusters, name)
	if err != nil {
		return err
	}
	p, err := projects.find(a.tx, spec.GetProject())
	if err != nil {
		return a.wrong("spec.project", err)
	}
	c := proto.CloneOf(have)
	if have == nil {
		if !slices.Contains(Ceilings, spec.GetCeiling()) {
			return a.wrong("", &InvalidError{"ceiling", fmt.Sprintf("no ceiling %q", spec.GetCeiling()), "one of view, edit, admin"})
		}
		c = &apiv1.Cluster{Id: identity.NewID(identity.Cluster), Name: name, ProjectId: p.Id, CreatedAt: at(a.d.now()), Ceiling: spec.GetCeiling()}
		if err := clusters.claim(a.tx, name, c.Id); err != nil {
			return a.wrong("", err)
		}
	}
	switch {
	case c.Retired:
		a.problem("metadata.name", fmt.Sprintf("cluster %q is being removed", name), "")
		return nil
	case c.ProjectId != p.Id:
		a.problem("spec.project", "a cluster stays in its project", "remove it and add it again: sallyportctl cluster remove "+name)
		return nil
	case c.Ceiling != spec.GetCeiling():
		a.problem("spec.ceiling", fmt.Sprintf("is %s in the manifest that was installed, and cannot change from here", c.Ceiling), "remove the cluster and add it again")
		return nil
	}
	b := &apiv1.StalenessBudgets{}
	for _, x := range []struct {
		field string
		want  *durationpb.Duration
		into  *uint32
	}{
		{"read", spec.GetBudgets().GetRead(), &b.ReadSeconds},
		{"write", spec.GetBudgets().GetWrite(), &b.WriteSeconds},
		{"exec", spec.GetBudgets().GetExec(), &b.ExecSeconds},
	} {
		if t := x.want.AsDuration(); x.want != nil && (t < minBudget || t > maxBudget) {
			a.problem("spec.budgets."+x.field, fmt.Sprintf("%s is not between a minute and a week", t), "")
			return nil
		} else if x.want != nil {
			*x.into = uint32(t / time.Second)
		}
	}
	if b, err = mergeBudgets(nil, b); err != nil {
		return a.wrong("", err)
	}
	if old, err := mergeBudgets(c.Budgets, nil); err != nil || !proto.Equal(old, b) || c.Budgets == nil {
		c.Budgets = b
	}
	return put(a, clusters, c.Id, have, c)
}

// grant finds the grant that gives the same thing, whatever its end and reason,
// and makes those as they are declared. Where several give the same, each object
// of the set takes one: the one with the same end first.
func (a *applier) grant(spec *apiv1.CreateGrantRequest) error {
	want := GrantSpec{
		Role: spec.GetRole(), User: spec.GetUser(), Group: spec.GetGroup(), Project: spec.GetProject(), Cluster: spec.GetCluster(),
		Namespaces: spec.GetNamespaces(), NamespaceSelector: spec.GetNamespaceSelector(), Reason: spec.GetReason(),
	}
	if spec.GetExpiresAt() != nil {
		want.ExpiresAt = spec.ExpiresAt.AsTime()
	}
	g, err := a.d.grantOf(want)
	if err != nil {
		return a.wrong("", err)
	}
	if err := resolveGrant(a.tx, want, g); err != nil {
		return a.wrong("", err)
	}
	if err := a.indexGrants(); err != nil {
		return err
	}
	var have *apiv1.Grant
	twice := false
	for _, x := range a.grants[grantKey(g)] {
		switch {
		case a.matched[x.Id]:
			twice = twice || sameGrant(g, x)
		case have == nil, sameGrant(g, x):
			have = x
		}
	}
	if twice && (have == nil || !sameGrant(g, have)) {
		a.problem("spec", "this grant stands twice in what is applied", "")
		return nil
	}
	if have == nil {
		g.Id, g.CreatedAt = identity.NewID(identity.Grant), at(a.d.now())
	} else {
		g.Id, g.CreatedAt = have.Id, have.CreatedAt
	}
	a.matched[g.Id] = true
	key := grantKey(g)
	a.grants[key] = append(slices.DeleteFunc(a.grants[key], func(x *apiv1.Grant) bool { return x.Id == g.Id }), g)
	return put(a, grants, g.Id, have, g)
}

// indexGrants reads the grants once: the store has one writer, which a set of
// thousands would otherwise hold for minutes.
func (a *applier) indexGrants() error {
	if a.grants != nil {
		return nil
	}
	a.grants = map[string][]*apiv1.Grant{}
	return grants.all(a.tx, func(x *apiv1.Grant) error {
		a.grants[grantKey(x)] = append(a.grants[grantKey(x)], x)
		return nil
	})
}

// grantKey is everything by which sameGrant tells grants apart but their end.
func grantKey(g *apiv1.Grant) string {
	return strings.Join(append([]string{g.Role, g.UserId, g.GroupId, g.ProjectId, g.ClusterId, g.NamespaceSelector}, g.Namespaces...), "\x00")
}
