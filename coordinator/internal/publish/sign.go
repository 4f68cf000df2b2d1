package publish

import (
	"context"
	"crypto/sha256"
	"fmt"
	"maps"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/sallyport-mesh/sallyport/coordinator/internal/directory"
	"github.com/sallyport-mesh/sallyport/coordinator/internal/store"
	apiv1 "github.com/sallyport-mesh/sallyport/pkg/api/sallyport/v1"
	"github.com/sallyport-mesh/sallyport/pkg/policy"
)

// resign computes every bundle, and signs and notes those that changed. Only
// Run calls it.
func (h *Hub) resign(ctx context.Context, s *directory.Snapshot, at time.Time) ([]*cluster, error) {
	v := newView(s)
	if h.view != nil && v.sameBundles(h.view) {
		h.view = v
		return nil, nil
	}
	changed, newest, err := h.compute(v)
	if err != nil {
		return nil, err
	}
	if len(changed) == 0 {
		h.view = v
		return nil, nil
	}
	// The content can change without the directory, by a new authority or a new
	// version of this code. The revision then comes from a commit of its own.
	revision := s.Revision
	if newest >= revision {
		if revision, err = h.cfg.Store.Update(ctx, func(tx store.Txn) error {
			tx.Put(notePrefix, []byte(at.UTC().Format(time.RFC3339Nano)))
			return nil
		}); err != nil {
			return nil, fmt.Errorf("taking a revision: %w", err)
		}
	}
	for _, c := range changed {
		if c.signed == nil {
			if err := h.sign(c, revision, at); err != nil {
				return nil, err
			}
		}
	}
	if err := h.noteBundles(ctx, changed); err != nil {
		return nil, fmt.Errorf("noting bundles: %w", err)
	}
	h.view = v
	return changed, nil
}

// compute returns the bundles whose content is not that of the ones held, and
// the revision that new ones among them must exceed.
func (h *Hub) compute(v *view) (changed []*cluster, newest uint64, err error) {
	h.mu.Lock()
	held := maps.Clone(h.clusters)
	h.mu.Unlock()
	ids := map[string]bool{}
	for id := range v.Clusters {
		ids[id] = true
	}
	for id := range held {
		ids[id] = true // those that are gone get a bundle that lists nobody
	}
	for _, id := range slices.Sorted(maps.Keys(ids)) {
		b := v.bundle(id, h.cfg.Issuer)
		sum, err := digest(b)
		if err != nil {
			return nil, 0, fmt.Errorf("encoding bundle of %s: %w", id, err)
		}
		old := held[id]
		if old != nil && old.signed != nil && old.digest == sum {
			continue
		}
		c := &cluster{id: id, bundle: b, digest: sum}
		changed = append(changed, c)
		if old == nil {
			continue
		}
		if old.signed == nil && old.digest == sum && h.restore(c, old) {
			continue
		}
		newest = max(newest, old.revision)
		c.remember(old)
	}
	return changed, newest, nil
}

func (h *Hub) sign(c *cluster, revision uint64, at time.Time) error {
	c.bundle.Revision, c.bundle.IssuedAt = revision, timestamppb.New(at)
	payload, err := encode(c.bundle)
	if err != nil {
		return fmt.Errorf("encoding bundle of %s: %w", c.id, err)
	}
	if len(payload) > policy.MaxBundle {
		return fmt.Errorf("bundle of %s has %d bytes, more than agents take", c.id, len(payload))
	}
	c.publish(h.cfg.Signer.Sign(policy.BundleContext, payload))
	return nil
}

func (c *cluster) publish(signed *apiv1.Signed) {
	c.signed, c.sum = signed, sha256.Sum256(signed.GetPayload())
	c.revision, c.users = c.bundle.GetRevision(), usersOf(c.bundle)
}

// restore puts together again what was signed before a restart. It fails if
// this version encodes differently, and then a new revision is due.
func (h *Hub) restore(c, old *cluster) bool {
	c.bundle.Revision, c.bundle.IssuedAt = old.revision, old.bundle.GetIssuedAt()
	payload, err := encode(c.bundle)
	if err != nil {
		return false
	}
	signed := proto.CloneOf(old.signedAs)
	signed.Payload = payload
	v, err := policy.NewVerifier(h.cfg.Signer.Public())
	if err != nil || v.Verify(policy.BundleContext, signed) != nil {
		c.bundle.Revision, c.bundle.IssuedAt = 0, nil
		return false
	}
	c.publish(signed)
	return true
}

// beatLocked signs heartbeats. Their time never goes back.
func (h *Hub) beatLocked(at time.Time, clusters []*cluster) {
	if at.Before(h.beat) {
		at = h.beat
	}
	h.beat = at
	for _, c := range clusters {
		if c.signed == nil || c.gone() {
			continue
		}
		payload, err := encode(&apiv1.Heartbeat{
			ClusterId: c.id, Revision: c.revision, BundleSha256: c.sum[:], Time: timestamppb.New(at),
		})
		if err != nil {
			h.cfg.Log.Error("heartbeat not encoded", "cluster", c.id, "err", err)
			continue
		}
		c.beat, c.beatAt = h.cfg.Signer.Sign(policy.HeartbeatContext, payload), at
	}
}
