package policy

import (
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	apiv1 "github.com/sallyport-mesh/sallyport/pkg/api/sallyport/v1"
)

// bundleOf makes a bundle of grants: who may what is all that most tests say.
func bundleOf(roles []*apiv1.Role, grants ...*apiv1.BundleGrant) *apiv1.Bundle {
	b := &apiv1.Bundle{ClusterId: "cls-1", ClusterName: "edge-1", Revision: 7, Roles: roles, Grants: grants}
	seen := map[string]bool{}
	for _, g := range grants {
		if g.UserId != "" && !seen[g.UserId] {
			seen[g.UserId] = true
			b.Subjects = append(b.Subjects, &apiv1.BundleSubject{UserId: g.UserId, Name: g.UserId})
		}
	}
	b.Requires = Requires(b)
	return b
}

func compile(t testing.TB, b *apiv1.Bundle, opts ...Option) *Policy {
	t.Helper()
	p, err := Compile(b, opts...)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func grantTo(user, role string, namespaces ...string) *apiv1.BundleGrant {
	return &apiv1.BundleGrant{Id: "grt-" + user + "-" + role, UserId: user, Role: role, Namespaces: namespaces}
}

func until(g *apiv1.BundleGrant, at time.Time) *apiv1.BundleGrant {
	g.ExpiresAt = timestamppb.New(at)
	return g
}

func custom(name string, rules ...*apiv1.Rule) *apiv1.Role {
	return &apiv1.Role{Name: name, Rules: rules}
}

func deny(r *apiv1.Rule) *apiv1.Rule { r.Deny = true; return r }

func named(r *apiv1.Rule, names ...string) *apiv1.Rule { r.ResourceNames = names; return r }

// ask spells a request: ask("shivam", "get", "apps", "deployments/scale", "default", "web").
func ask(user, verb, group, resource, namespace, name string) Attributes {
	a := Attributes{UserID: user, Verb: verb, APIGroup: group, APIVersion: "v1", Namespace: namespace, Name: name, ResourceRequest: true}
	for i := range resource {
		if resource[i] == '/' {
			a.Resource, a.Subresource = resource[:i], resource[i+1:]
			return a
		}
	}
	a.Resource = resource
	return a
}

func path(user, verb, p string) Attributes { return Attributes{UserID: user, Verb: verb, Path: p} }
