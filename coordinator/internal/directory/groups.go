package directory

import (
	"context"
	"slices"

	"github.com/sallyport-mesh/sallyport/coordinator/internal/store"
	apiv1 "github.com/sallyport-mesh/sallyport/pkg/api/sallyport/v1"
	"github.com/sallyport-mesh/sallyport/pkg/identity"
)

// CreateGroup adds an empty group.
func (d *Directory) CreateGroup(ctx context.Context, name string) (*apiv1.Group, uint64, error) {
	return change(ctx, d, func(tx store.Txn) (*apiv1.Group, error) {
		g := &apiv1.Group{Id: identity.NewID(identity.Group), Name: name, CreatedAt: at(d.now())}
		if err := groups.claim(tx, name, g.Id); err != nil {
			return nil, err
		}
		return g, groups.put(tx, g.Id, g)
	})
}

// AddMember puts a user into a group; one who is in it already stays.
func (d *Directory) AddMember(ctx context.Context, group, user string) (*apiv1.Group, uint64, error) {
	return d.membership(ctx, group, user, func(g *apiv1.Group, i int, found bool, id string) error {
		if !found {
			g.MemberIds = slices.Insert(g.MemberIds, i, id)
		}
		return nil
	})
}

// RemoveMember takes a user out of a group.
func (d *Directory) RemoveMember(ctx context.Context, group, user string) (*apiv1.Group, uint64, error) {
	return d.membership(ctx, group, user, func(g *apiv1.Group, i int, found bool, _ string) error {
		if !found {
			return &NotFoundError{"member of group " + g.Name, user}
		}
		g.MemberIds = slices.Delete(g.MemberIds, i, i+1)
		return nil
	})
}

// membership keeps member ids sorted, so that equal groups are equal bytes.
func (d *Directory) membership(ctx context.Context, group, user string, f func(g *apiv1.Group, i int, found bool, id string) error) (*apiv1.Group, uint64, error) {
	return change(ctx, d, func(tx store.Txn) (*apiv1.Group, error) {
		g, err := groups.find(tx, group)
		if err != nil {
			return nil, err
		}
		u, err := users.find(tx, user)
		if err != nil {
			return nil, err
		}
		i, found := slices.BinarySearch(g.MemberIds, u.Id)
		if err := f(g, i, found, u.Id); err != nil {
			return nil, err
		}
		return g, groups.put(tx, g.Id, g)
	})
}

// DeleteGroup removes a group and the grants it held.
func (d *Directory) DeleteGroup(ctx context.Context, group string) (*apiv1.Group, uint64, error) {
	return change(ctx, d, func(tx store.Txn) (*apiv1.Group, error) {
		g, err := groups.find(tx, group)
		if err != nil {
			return nil, err
		}
		groups.delete(tx, g.Id)
		groups.release(tx, g.Name)
		return g, deleteGrants(tx, func(x *apiv1.Grant) bool { return x.GroupId == g.Id })
	})
}
