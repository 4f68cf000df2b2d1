package publish

import (
	"crypto/sha256"
	"maps"
	"slices"
	"time"

	apiv1 "github.com/sallyport-mesh/sallyport/pkg/api/sallyport/v1"
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
