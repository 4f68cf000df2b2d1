package auditlog

import (
	"sync"
	"time"

	"github.com/sallyport-mesh/sallyport/pkg/audit"
)

// refusals counts equal refusals together before they become records, and keeps
// each user to a quota, beyond which all of one user's are counted as one. So
// being refused costs the disk about a record in ten seconds and kibibyte, for
// each user, whoever asks however fast; and memory is bounded.
type refusals struct {
	window time.Duration
	now    func() time.Time
	write  func(rec []byte)

	mu      sync.Mutex
	waiting map[refusalKey]*refusal
	order   []refusalKey
	bytes   int
	quotas  map[string]*quota
	timer   *time.Timer
	closed  bool

	writing sync.Mutex // one flush at a time, so that records keep their order
}

const (
	maxWaiting     = 2 << 20 // bytes of records that wait to be counted
	maxQuotas      = 4096    // users whose quota is remembered; the rest share one
	quotaBurst     = 200     // kibibytes of refusals a user may leave at once
	quotaPerSecond = 10      // and a second
	overQuota      = "more refusals than are recorded one by one"
)

type refusalKey struct{ user, verb, group, resource, subresource, namespace, name, reason string }

type refusal struct {
	record []byte // of the first
	count  uint32
	last   audit.Time
}

type quota struct {
	left float64
	at   time.Time
}

func newRefusals(window time.Duration, now func() time.Time, write func([]byte)) *refusals {
	return &refusals{
		window: window, now: now, write: write,
		waiting: map[refusalKey]*refusal{}, quotas: map[string]*quota{},
	}
}

func (r *refusals) add(e *audit.Event, rec []byte) {
	user := e.User.UID
	if user == "" {
		user = e.User.Username
	}
	key := refusalKey{user: user, verb: e.Verb, reason: e.Ext.Reason}
	if o := e.ObjectRef; o != nil {
		key.group, key.resource, key.subresource, key.namespace, key.name = o.APIGroup, o.Resource, o.Subresource, o.Namespace, o.Name
	} else {
		key.name = e.RequestURI
	}
	for !r.count(key, e, rec) {
		r.flush() // what waits is too much: whoever is refused waits for the disk
	}
	r.mu.Lock()
	closed := r.closed
	r.mu.Unlock()
	if closed {
		r.flush()
	}
}

func (r *refusals) count(key refusalKey, e *audit.Event, rec []byte) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if w := r.waiting[key]; w != nil {
		w.count, w.last = w.count+1, e.StageTimestamp
		return true
	}
	if !r.allow(key.user, len(rec)) {
		key = refusalKey{user: key.user, reason: overQuota}
		if w := r.waiting[key]; w != nil {
			w.count, w.last = w.count+1, e.StageTimestamp
			return true
		}
		over := *e
		over.Ext.Reason = overQuota + ", for example: " + e.Ext.Reason
		rec = audit.Encode(&over)
	}
	if r.bytes+len(rec) > maxWaiting && r.bytes > 0 {
		return false
	}
	r.waiting[key] = &refusal{record: rec, count: 1, last: e.StageTimestamp}
	r.order = append(r.order, key)
	r.bytes += len(rec)
	if r.timer == nil && !r.closed {
		r.timer = time.AfterFunc(r.window, r.flush)
	}
	return true
}

// allow takes from the user's quota what a record of n bytes costs.
func (r *refusals) allow(user string, n int) bool {
	now, q := r.now(), r.quotas[user]
	if q == nil {
		if len(r.quotas) >= maxQuotas {
			for u, old := range r.quotas { // those that have filled up again remember nothing
				if now.Sub(old.at) > quotaBurst/quotaPerSecond*time.Second {
					delete(r.quotas, u)
				}
			}
		}
		if len(r.quotas) >= maxQuotas {
			user = ""
			q = r.quotas[user]
		}
		if q == nil {
			q = &quota{left: quotaBurst, at: now}
			r.quotas[user] = q
		}
	}
	q.left = min(quotaBurst, q.left+max(now.Sub(q.at).Seconds(), 0)*quotaPerSecond)
	q.at = now
	cost := float64(n)/1024 + 0.25
	if q.left < cost {
		return false
	}
	q.left -= cost
	return true
}

// flush hands on what has been counted.
func (r *refusals) flush() {
	r.writing.Lock()
	defer r.writing.Unlock()
	r.mu.Lock()
	waiting, order := r.waiting, r.order
	r.waiting, r.order, r.bytes = map[refusalKey]*refusal{}, nil, 0
	if r.timer != nil {
		r.timer.Stop()
		r.timer = nil
	}
	r.mu.Unlock()
	for _, key := range order {
		w := waiting[key]
		rec := w.record
		if w.count > 1 {
			if e, err := audit.Decode(rec); err == nil {
				e.Ext.Count, e.StageTimestamp = w.count, w.last
				rec = audit.Encode(e)
			}
		}
		r.write(rec)
	}
}

// close hands on the last ones. Later ones are handed on at once.
func (r *refusals) close() {
	r.mu.Lock()
	r.closed = true
	r.mu.Unlock()
	r.flush()
}
