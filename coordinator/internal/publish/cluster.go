package publish

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/sallyport-mesh/sallyport/coordinator/internal/directory"
	"github.com/sallyport-mesh/sallyport/coordinator/internal/store"
	apiv1 "github.com/sallyport-mesh/sallyport/pkg/api/sallyport/v1"
	"github.com/sallyport-mesh/sallyport/pkg/policy"
)

// cluster is a cluster's newest bundle. It is replaced when the bundle changes;
// only beat moves, under the hub's lock.
type cluster struct {
	id       string
	revision uint64
	bundle   *apiv1.Bundle // as signed
	digest   [sha256.Size]byte
	signed   *apiv1.Signed // nil until computed after a start
	// signedAs is, until then, the signature that is noted, without the payload.
	signedAs *apiv1.Signed
	sum      [sha256.Size]byte
	// users are the subjects with the moment at which their last grant here ends,
	// zero for never.
	users map[string]time.Time
	// past holds the users of earlier bundles, for agents that are behind.
	past map[uint64]map[string]time.Time
	// beat is the last heartbeat.
	beat   *apiv1.Signed
	beatAt time.Time
}

// keptPast is how many earlier bundles an agent's confirmation is understood for.
const keptPast = 16

func (c *cluster) label(old *cluster) string {
	if name := c.bundle.GetClusterName(); name != "" {
		return name
	}
	if name := old.bundle.GetClusterName(); name != "" {
		return name
	}
	return c.id
}

// gone reports whether the cluster was deleted: its bundle lists nobody, and
// there are no heartbeats for it.
func (c *cluster) gone() bool { return c.bundle.GetClusterName() == "" }

// allows reports whether the bundle lets the user do anything at a moment.
func (c *cluster) allows(userID string, at time.Time) bool {
	until, ok := c.users[userID]
	return ok && (until.IsZero() || at.Before(until))
}

// usersOf lists the subjects of a bundle who hold a grant, and until when.
func usersOf(b *apiv1.Bundle) map[string]time.Time {
	out := make(map[string]time.Time, len(b.GetSubjects()))
	last := func(id string, g *apiv1.BundleGrant) {
		until, ok := out[id]
		switch end := g.GetExpiresAt(); {
		case end == nil:
			out[id] = time.Time{}
		case !ok || (!until.IsZero() && end.AsTime().After(until)):
			out[id] = end.AsTime()
		}
	}
	members := map[string][]string{}
	for _, s := range b.GetSubjects() {
		for _, g := range s.GetGroupIds() {
			members[g] = append(members[g], s.GetUserId())
		}
	}
	for _, g := range b.GetGrants() {
		if g.GetUserId() != "" {
			last(g.GetUserId(), g)
		}
		for _, id := range members[g.GetGroupId()] {
			last(id, g)
		}
	}
	return out
}

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

// remember takes over the users of the bundles before, but for the oldest.
func (c *cluster) remember(old *cluster) {
	c.past = maps.Clone(old.past)
	if c.past == nil {
		c.past = map[uint64]map[string]time.Time{}
	}
	if old.users != nil {
		c.past[old.revision] = old.users
	}
	for len(c.past) > keptPast {
		delete(c.past, slices.Min(slices.Collect(maps.Keys(c.past))))
	}
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
