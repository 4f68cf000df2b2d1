package directory

import (
	"context"
	"fmt"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"
	"k8s.io/apimachinery/pkg/api/validate/content"

	"github.com/sallyport-mesh/sallyport/coordinator/internal/store"
	apiv1 "github.com/sallyport-mesh/sallyport/pkg/api/sallyport/v1"
	"github.com/sallyport-mesh/sallyport/pkg/identity"
	"github.com/sallyport-mesh/sallyport/pkg/policy"
)

// GrantSpec describes a new grant. Users, groups, projects and clusters are
// named by name or id.
type GrantSpec struct {
	Role string
	// Exactly one of User and Group.
	User, Group string
	// Exactly one of Project and Cluster.
	Project, Cluster string
	// Namespaces of the target; empty means all of it, cluster-scoped objects
	// too.
	Namespaces []string
	// NamespaceSelector, in place of Namespaces, is a label selector: all that
	// match it, at any time.
	NamespaceSelector string
	ExpiresAt         time.Time // zero means until it is deleted
	Reason            string
}

// CreateGrant gives a role to a user or a group on a project or a cluster.
func (d *Directory) CreateGrant(ctx context.Context, spec GrantSpec) (*apiv1.Grant, uint64, error) {
	g, err := d.grantOf(spec)
	if err != nil {
		return nil, 0, err
	}
	return change(ctx, d, func(tx store.Txn) (*apiv1.Grant, error) {
		if err := resolveGrant(tx, spec, g); err != nil {
			return nil, err
		}
		err := grants.all(tx, func(x *apiv1.Grant) error {
			if sameGrant(g, x) {
				return &ExistsError{"grant", x.Id}
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
		g.Id, g.CreatedAt = identity.NewID(identity.Grant), at(d.now())
		return g, grants.put(tx, g.Id, g)
	})
}

// grantOf checks what needs no look at the directory.
func (d *Directory) grantOf(spec GrantSpec) (*apiv1.Grant, error) {
	if (spec.User == "") == (spec.Group == "") {
		return nil, &InvalidError{"subject", "a grant is for one user or one group", "give either --user or --group"}
	}
	if (spec.Project == "") == (spec.Cluster == "") {
		return nil, &InvalidError{"target", "a grant is on one project or one cluster", "give either --project or --cluster"}
	}
	namespaces := slices.Compact(slices.Sorted(slices.Values(spec.Namespaces)))
	selector, err := cleanSelector(spec)
	if err != nil {
		return nil, err
	}
	for _, ns := range namespaces {
		if msgs := content.IsDNS1123Label(ns); len(msgs) > 0 {
			return nil, &InvalidError{"namespace", fmt.Sprintf("%q is not a namespace: %s", ns, msgs[0]), "patterns are not taken: list the namespaces, or select them by label with --namespace-selector"}
		}
		if ns == policy.SystemNamespace || ns == policy.UsersNamespace { // the proxy refuses them whatever a grant says
			return nil, &InvalidError{Field: "namespace", Reason: fmt.Sprintf("%q is Sallyport's own and open to nobody", ns)}
		}
	}
	if !spec.ExpiresAt.IsZero() && !d.now().Before(spec.ExpiresAt) {
		return nil, &InvalidError{"expiry", "is in the past", "leave it out for a grant without an end"}
	}
	reason, err := cleanText("reason", spec.Reason, 512)
	if err != nil {
		return nil, err
	}
	g := &apiv1.Grant{Role: spec.Role, Namespaces: namespaces, NamespaceSelector: selector, Reason: reason}
	if !spec.ExpiresAt.IsZero() {
		g.ExpiresAt = at(spec.ExpiresAt)
	}
	return g, nil
}

// cleanSelector puts a label selector in its one way of being written, so that
// equal ones are equal.
func cleanSelector(spec GrantSpec) (string, error) {
	if spec.NamespaceSelector == "" {
		return "", nil
	}
	if len(spec.Namespaces) > 0 {
		return "", &InvalidError{"namespace selector", "a grant is on namespaces by name or by label, not both", "add two grants"}
	}
	selector, err := policy.ParseSelector(spec.NamespaceSelector)
	if err != nil {
		return "", &InvalidError{"namespace selector", err.Error(), "write it as for kubectl -l: team=a, 'env in (dev,test)', team=a,env!=prod"}
	}
	return selector.String(), nil
}

func resolveGrant(r store.Reader, spec GrantSpec, g *apiv1.Grant) error {
	if _, err := roles.get(r, spec.Role); err != nil {
		return err
	}
	if spec.User != "" {
		u, err := users.find(r, spec.User)
		if err != nil {
			return err
		}
		g.UserId = u.Id
	} else {
		x, err := groups.find(r, spec.Group)
		if err != nil {
			return err
		}
		g.GroupId = x.Id
	}
	if spec.Project != "" {
		p, err := projects.find(r, spec.Project)
		if err != nil {
			return err
		}
		g.ProjectId = p.Id
		return nil
	}
	c, err := clusters.find(r, spec.Cluster)
	if err != nil {
		return err
	}
	g.ClusterId = c.Id
	return nil
}

// sameGrant reports whether two grants give the same thing for the same time.
func sameGrant(a, b *apiv1.Grant) bool {
	return a.Role == b.Role && a.UserId == b.UserId && a.GroupId == b.GroupId &&
		a.ProjectId == b.ProjectId && a.ClusterId == b.ClusterId &&
		slices.Equal(a.Namespaces, b.Namespaces) && a.NamespaceSelector == b.NamespaceSelector && proto.Equal(a.ExpiresAt, b.ExpiresAt)
}

// DeleteGrant ends a grant.
func (d *Directory) DeleteGrant(ctx context.Context, id string) (*apiv1.Grant, uint64, error) {
	return change(ctx, d, func(tx store.Txn) (*apiv1.Grant, error) {
		g, err := grants.get(tx, id)
		if err != nil {
			return nil, err
		}
		grants.delete(tx, g.Id)
		return g, nil
	})
}

func deleteGrants(tx store.Txn, which func(*apiv1.Grant) bool) error {
	return grants.all(tx, func(g *apiv1.Grant) error {
		if which(g) {
			grants.delete(tx, g.Id)
		}
		return nil
	})
}
