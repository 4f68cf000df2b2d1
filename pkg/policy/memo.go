package policy

import (
	"hash/maphash"
	"strings"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
)

// Decisions are remembered in 64 shards of 128, each with a lock of its own that
// is held for a map access: 8,192 decisions, and with keys of 512 bytes at most
// less than 8 MiB however hard a client tries.
const (
	memoShards   = 64
	memoPerShard = 128
	memoKeyBytes = 512
)

// memoKey is what a decision depends on, but for who is revoked, which is looked
// at every time.
type memoKey struct {
	user, verb, group, resource, subresource, namespace, name, path string
	isResource, mayCreate                                           bool
}

type remembered struct {
	decision Decision
	// The decision holds from its making until a grant of the subject ends.
	from, until time.Time
}

type memo struct {
	seed   maphash.Seed
	shards [memoShards]*lru.Cache[memoKey, remembered]
}

func newMemo() *memo {
	m := &memo{seed: maphash.MakeSeed()}
	for i := range m.shards {
		m.shards[i], _ = lru.New[memoKey, remembered](memoPerShard) // fails only for a size below 1
	}
	return m
}

// key leaves out the object's name where no rule of the subject looks at names.
func (s *subject) key(a *Attributes) memoKey {
	k := memoKey{
		user: a.UserID, verb: a.Verb, group: a.APIGroup, resource: a.Resource, subresource: a.Subresource,
		namespace: a.Namespace, path: a.Path, isResource: a.ResourceRequest, mayCreate: a.MayCreate,
	}
	if a.ResourceRequest {
		k.path = ""
	}
	if s.named {
		k.name = a.target()
	}
	return k
}

func (m *memo) shard(k memoKey) *lru.Cache[memoKey, remembered] {
	return m.shards[maphash.Comparable(m.seed, k)%memoShards]
}

func (m *memo) get(k memoKey, at time.Time) (Decision, bool) {
	r, ok := m.shard(k).Get(k)
	if !ok || at.Before(r.from) || (!r.until.IsZero() && !at.Before(r.until)) {
		return Decision{}, false
	}
	return r.decision, true
}

// put remembers. The strings are cloned, or a short one would keep the whole
// request alive that it was cut from.
func (m *memo) put(k memoKey, d Decision, from, until time.Time) {
	if len(k.verb)+len(k.group)+len(k.resource)+len(k.subresource)+len(k.namespace)+len(k.name)+len(k.path) > memoKeyBytes {
		return
	}
	for _, s := range []*string{&k.user, &k.verb, &k.group, &k.resource, &k.subresource, &k.namespace, &k.name, &k.path} {
		*s = strings.Clone(*s)
	}
	m.shard(k).Add(k, remembered{d, from, until})
}

// until is the first moment at which the subject's grants change by themselves.
func (s *subject) until(at time.Time) time.Time {
	var next time.Time
	for _, g := range s.grants {
		if !g.expires.IsZero() && at.Before(g.expires) && (next.IsZero() || g.expires.Before(next)) {
			next = g.expires
		}
	}
	return next
}
