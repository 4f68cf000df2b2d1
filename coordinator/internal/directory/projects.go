package directory

import (
	"context"
	"fmt"
	"slices"

	"github.com/sallyport-mesh/sallyport/coordinator/internal/store"
	apiv1 "github.com/sallyport-mesh/sallyport/pkg/api/sallyport/v1"
	"github.com/sallyport-mesh/sallyport/pkg/identity"
)

// CreateProject adds a project.
func (d *Directory) CreateProject(ctx context.Context, name string) (*apiv1.Project, uint64, error) {
	return change(ctx, d, func(tx store.Txn) (*apiv1.Project, error) {
		p := &apiv1.Project{Id: identity.NewID(identity.Project), Name: name, CreatedAt: at(d.now())}
		if err := projects.claim(tx, name, p.Id); err != nil {
			return nil, err
		}
		return p, projects.put(tx, p.Id, p)
	})
}

// DeleteProject removes a project without clusters, the grants on it and the
// right to manage it.
func (d *Directory) DeleteProject(ctx context.Context, project string) (*apiv1.Project, uint64, error) {
	return change(ctx, d, func(tx store.Txn) (*apiv1.Project, error) {
		p, err := projects.find(tx, project)
		if err != nil {
			return nil, err
		}
		held := 0
		err = clusters.all(tx, func(c *apiv1.Cluster) error {
			if c.ProjectId == p.Id {
				held++
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
		if held > 0 {
			return nil, &RefusedError{fmt.Sprintf("project %q still has %d cluster(s)", p.Name, held), "delete them first: sallyportctl cluster remove CLUSTER"}
		}
		projects.delete(tx, p.Id)
		projects.release(tx, p.Name)
		err = users.all(tx, func(u *apiv1.User) error {
			n := len(u.Admin)
			u.Admin = slices.DeleteFunc(u.Admin, func(b *apiv1.AdminBinding) bool { return b.ProjectId == p.Id })
			if len(u.Admin) == n {
				return nil
			}
			return users.put(tx, u.Id, u)
		})
		if err != nil {
			return nil, err
		}
		return p, deleteGrants(tx, func(g *apiv1.Grant) bool { return g.ProjectId == p.Id })
	})
}
