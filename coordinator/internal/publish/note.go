package publish

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/sallyport-mesh/sallyport/coordinator/internal/store"
	apiv1 "github.com/sallyport-mesh/sallyport/pkg/api/sallyport/v1"
)

// note is what the store keeps of a bundle: enough to know the signed bytes
// again when the same content is computed, however large they are.
type note struct {
	Revision  uint64    `json:"revision"`
	IssuedAt  time.Time `json:"issued_at"`
	Digest    []byte    `json:"digest"`
	Signature []byte    `json:"signature"`
	KeyID     string    `json:"key_id"`
}

const notePrefix = "bundle/"

func (h *Hub) noteBundles(ctx context.Context, changed []*cluster) error {
	_, err := h.cfg.Store.Update(ctx, func(tx store.Txn) error {
		for _, c := range changed {
			data, err := json.Marshal(note{
				c.revision, c.bundle.GetIssuedAt().AsTime(), c.digest[:], c.signed.GetSignature(), c.signed.GetKeyId(),
			})
			if err != nil {
				return err
			}
			if it, err := tx.Get(notePrefix + c.id); err != nil {
				return err
			} else if it != nil && string(it.Value) == string(data) {
				continue
			}
			tx.Put(notePrefix+c.id, data)
		}
		return nil
	})
	return err
}

// load reads what was signed and what was confirmed before this start.
func (h *Hub) load(ctx context.Context) error {
	here := h.cfg.Directory.Snapshot().Clusters
	return h.cfg.Store.View(ctx, func(r store.Reader) error {
		err := r.List(notePrefix, func(it store.Item) error {
			id := strings.TrimPrefix(it.Key, notePrefix)
			if id == "" {
				return nil
			}
			var n note
			if err := json.Unmarshal(it.Value, &n); err != nil || len(n.Digest) != sha256.Size {
				return fmt.Errorf("reading %s: damaged (%w)", it.Key, err)
			}
			if here[id] == nil {
				return nil // deleted, and its agents cannot come back
			}
			h.clusters[id] = &cluster{
				id: id, revision: n.Revision, digest: [sha256.Size]byte(n.Digest),
				bundle:   &apiv1.Bundle{ClusterId: id, Revision: n.Revision, IssuedAt: timestamppb.New(n.IssuedAt)},
				signedAs: &apiv1.Signed{Signature: n.Signature, KeyId: n.KeyID},
			}
			return nil
		})
		if err != nil {
			return err
		}
		return h.loadAcks(r)
	})
}
