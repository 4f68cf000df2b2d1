package auditstore

import (
	"bytes"
	"container/heap"
	"context"
	"fmt"

	"github.com/dgraph-io/badger/v4"

	apiv1 "github.com/sallyport-mesh/sallyport/pkg/api/sallyport/v1"
	"github.com/sallyport-mesh/sallyport/pkg/audit"
)

// Search calls send for every request that q asks for, newest first, each with
// its outcome as far as that has arrived. A record whose intent is of stage
// ResponseComplete is whole by itself: a refusal, or an act that has no intent.
// With q.Follow it goes on until ctx ends, and then returns nil.
func (s *Store) Search(ctx context.Context, q Query, send func(*apiv1.AuditRecord) error) error {
	var cursor uint64
	err := s.db.View(func(txn *badger.Txn) error {
		cursor = lastArrival(txn) // of this very view: nothing is missed or sent twice
		return s.stored(ctx, txn, &q, send)
	})
	if err != nil || !q.Follow {
		return err
	}
	return s.follow(ctx, &q, cursor, send)
}

// maxMerge is how many ranges of an index are read side by side; with more, a
// plain walk through time is cheaper.
const maxMerge = 64

func (s *Store) stored(ctx context.Context, txn *badger.Txn, q *Query, send func(*apiv1.AuditRecord) error) error {
	users, err := q.users(txn)
	if err != nil {
		return err
	}
	ranges, err := s.plan(txn, q, users)
	if err != nil || len(ranges) == 0 {
		return err
	}
	m := openMerge(txn, ranges, q)
	defer m.close()
	for found := 0; found < q.limit(); {
		pos, ok := m.next()
		if !ok || !q.Since.IsZero() && pos.at < micros(q.Since) {
			return nil
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		rec, err := s.record(txn, q, users, pos)
		if err != nil {
			return err
		}
		if rec != nil {
			if err := send(rec); err != nil {
				return err
			}
			found++
		}
	}
	return nil
}

// users are the values under which a person may be indexed: what was asked for,
// and the ids that ever came with it as a name.
func (q *Query) users(txn *badger.Txn) ([]string, error) {
	if q.User == "" {
		return nil, nil
	}
	users := []string{term(q.User)}
	prefix := []byte(nameKeys + terms(q.User))
	it := txn.NewIterator(badger.IteratorOptions{Prefix: prefix})
	defer it.Close()
	for it.Rewind(); it.Valid() && len(users) < maxMerge; it.Next() {
		users = append(users, string(it.Item().Key()[len(prefix):]))
	}
	return users, nil
}

// plan chooses the index that narrows most, as ranges of keys.
func (s *Store) plan(txn *badger.Txn, q *Query, users []string) (ranges [][]byte, err error) {
	switch {
	case q.Device != "":
		return [][]byte{[]byte(byDevice + terms(q.Device))}, nil
	case q.User != "":
		for _, u := range users {
			ranges = append(ranges, []byte(byUser+terms(u)))
		}
		return ranges, nil
	case q.Resource != "":
		if ranges = q.resources(txn); len(ranges) <= maxMerge {
			return ranges, nil
		}
	}
	ranges = nil
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, st := range s.logs {
		if m := st.info(); q.takesLog(m) {
			ranges = append(ranges, append([]byte(byLog), logKey("", m.Number)...))
		}
	}
	if len(ranges) == 0 || len(ranges) <= maxMerge && len(ranges) < len(s.logs) {
		return ranges, nil
	}
	return [][]byte{[]byte(byTime)}, nil
}

// resources are the combinations with verbs and subresources that ever came.
func (q *Query) resources(txn *badger.Txn) (ranges [][]byte) {
	prefix := []byte(resourceKeys + terms(q.Resource))
	if q.Subresource != "" {
		prefix = append(prefix, terms(q.Subresource)...)
	}
	it := txn.NewIterator(badger.IteratorOptions{Prefix: prefix})
	defer it.Close()
	for it.Rewind(); it.Valid() && len(ranges) <= maxMerge; it.Next() {
		value := it.Item().Key()[len(resourceKeys):]
		if q.Verb == "" || bytes.HasSuffix(value, []byte("\x00"+terms(q.Verb))) {
			ranges = append(ranges, append([]byte(byResource), value...))
		}
	}
	return ranges
}

// record reads a request if q takes it, and nil otherwise.
func (s *Store) record(txn *badger.Txn, q *Query, users []string, pos position) (*apiv1.AuditRecord, error) {
	s.mu.Lock()
	st := s.numbers[pos.log]
	s.mu.Unlock()
	if st == nil {
		return nil, fmt.Errorf("%w: log %d is not known", ErrCorrupt, pos.log)
	}
	m := st.info()
	if !q.takesLog(m) {
		return nil, nil
	}
	intent, err := get(txn, seqKey(recordKeys, pos.log, pos.seq))
	if err != nil {
		return nil, err
	}
	e, err := audit.Decode(intent)
	if err != nil {
		e = &audit.Event{}
	}
	if !q.takes(e, pos.at, users) {
		return nil, nil
	}
	rec := &apiv1.AuditRecord{Log: m.Origin, Seq: pos.seq, Cluster: m.Cluster.Name, Project: m.Project.Name, Intent: intent}
	seq, ok, err := number(txn, seqKey(outcomeKeys, pos.log, pos.seq))
	if ok && err == nil {
		rec.Outcome, err = get(txn, seqKey(recordKeys, pos.log, seq))
	}
	return rec, err
}

func get(txn *badger.Txn, key []byte) ([]byte, error) {
	item, err := txn.Get(key)
	var v []byte
	if err == nil {
		v, err = item.ValueCopy(nil)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: reading %x: %w", ErrCorrupt, key, err)
	}
	return v, nil
}

// merge walks several ranges of an index as one, newest first.
type merge struct {
	cursors []*cursor
	all     []*badger.Iterator
}

type cursor struct {
	it  *badger.Iterator
	end []byte // the position part of the current key
}

func openMerge(txn *badger.Txn, ranges [][]byte, q *Query) *merge {
	m := &merge{}
	for _, r := range ranges {
		it := txn.NewIterator(badger.IteratorOptions{Prefix: r})
		m.all = append(m.all, it)
		from := r
		if !q.Until.IsZero() {
			// The newest that is older than Until.
			from = position{at: micros(q.Until) - 1}.append(append([]byte(nil), r...))
			from = from[:len(r)+8]
		}
		it.Seek(from)
		if c := (&cursor{it: it}); c.load() {
			m.cursors = append(m.cursors, c)
		}
	}
	heap.Init(m)
	return m
}

// load reads the current key. Every key of a range ends in a position: values end
// in a zero byte or have a fixed length, so that none is the beginning of another.
func (c *cursor) load() bool {
	if !c.it.Valid() {
		return false
	}
	key := c.it.Item().Key()
	c.end = append(c.end[:0], key[len(key)-positionSize:]...)
	return true
}

func (m *merge) next() (position, bool) {
	if len(m.cursors) == 0 {
		return position{}, false
	}
	c := m.cursors[0]
	pos := positionOf(c.end)
	c.it.Next()
	if c.load() {
		heap.Fix(m, 0)
	} else {
		heap.Pop(m)
	}
	return pos, true
}

func (m *merge) close() {
	for _, it := range m.all {
		it.Close()
	}
}

func (m *merge) Len() int           { return len(m.cursors) }
func (m *merge) Less(i, j int) bool { return bytes.Compare(m.cursors[i].end, m.cursors[j].end) < 0 }
func (m *merge) Swap(i, j int)      { m.cursors[i], m.cursors[j] = m.cursors[j], m.cursors[i] }
func (m *merge) Push(x any)         { m.cursors = append(m.cursors, x.(*cursor)) }
func (m *merge) Pop() any {
	last := m.cursors[len(m.cursors)-1]
	m.cursors = m.cursors[:len(m.cursors)-1]
	return last
}
