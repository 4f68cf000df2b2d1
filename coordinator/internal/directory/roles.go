package directory

import (
	"context"

	"google.golang.org/protobuf/proto"

	"github.com/sallyport-mesh/sallyport/coordinator/internal/store"
	apiv1 "github.com/sallyport-mesh/sallyport/pkg/api/sallyport/v1"
)

// seed writes the built-in roles as this version has them. A start that changes
// nothing writes nothing.
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
			}
			if err := roles.put(tx, want.GetName(), want); err != nil {
				return err
			}
		}
		return nil
	})
	return err
}
