package auditstore

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/dgraph-io/badger/v4"

	"github.com/sallyport-mesh/sallyport/pkg/audit"
)

// index adds records to w, with what finds them again. A request is indexed once,
// by its first record; its outcome is joined to that by audit id.
func (s *Store) index(w *write, records [][]byte) error {
	now := time.Now()
	here := map[string]uint64{} // audit id → position, within this batch
	return s.db.View(func(txn *badger.Txn) error {
		for i, rec := range records {
			seq := w.first + uint64(i)
			w.set(seqKey(recordKeys, w.log, seq), rec)
			e, err := audit.Decode(rec)
			if err != nil {
				// Stored and proved like any other, found by log and time.
				s.log.Warn("audit record cannot be read", "log", w.log, "seq", seq, "error", err)
				e = &audit.Event{}
			}
			if e.Stage == audit.StageComplete {
				intent, ok := here[e.AuditID]
				if !ok {
					if intent, ok, err = firstOf(txn, w.log, e.AuditID); err != nil {
						return err
					}
				}
				if ok {
					w.set(seqKey(outcomeKeys, w.log, intent), binary.BigEndian.AppendUint64(nil, seq))
					continue
				}
			}
			if e.AuditID != "" {
				here[e.AuditID] = seq
				w.set(auditIDKey(w.log, e.AuditID), binary.BigEndian.AppendUint64(nil, seq))
			}
			if err := s.indexFirst(txn, w, e, seq, now); err != nil {
				return err
			}
		}
		return nil
	})
}

// firstOf finds the first record of a request.
func firstOf(txn *badger.Txn, log uint32, auditID string) (seq uint64, ok bool, err error) {
	return number(txn, auditIDKey(log, auditID))
}

func number(txn *badger.Txn, key []byte) (n uint64, ok bool, err error) {
	item, err := txn.Get(key)
	if errors.Is(err, badger.ErrKeyNotFound) {
		return 0, false, nil
	}
	if err == nil {
		err = item.Value(func(v []byte) error {
			if len(v) != 8 {
				return fmt.Errorf("%w: %q has %d bytes", ErrCorrupt, key, len(v))
			}
			n = binary.BigEndian.Uint64(v)
			return nil
		})
	}
	return n, err == nil, err
}

func (s *Store) indexFirst(txn *badger.Txn, w *write, e *audit.Event, seq uint64, now time.Time) error {
	pos := position{at: micros(timeOf(e, now)), log: w.log, seq: seq}
	add := func(prefix, value string) {
		w.set(pos.append(append(make([]byte, 0, len(prefix)+len(value)+positionSize), prefix+value...)), nil)
	}
	add(byTime, "")
	add(byLog, string(logKey("", w.log)))
	if u := userOf(e); u != "" {
		add(byUser, terms(u))
	}
	if e.User.UID != "" && e.User.Username != "" {
		if err := s.note(txn, w, nameKeys+terms(e.User.Username)+term(e.User.UID)); err != nil {
			return err
		}
	}
	if e.Ext.Device != "" {
		add(byDevice, terms(e.Ext.Device))
	}
	if o := e.ObjectRef; o != nil && o.Resource != "" {
		value := terms(o.Resource, o.Subresource, e.Verb)
		add(byResource, value)
		return s.note(txn, w, resourceKeys+value)
	}
	return nil
}

// userOf is what a person is indexed by: the id, and the name where there is none.
func userOf(e *audit.Event) string {
	if e.User.UID != "" {
		return e.User.UID
	}
	return e.User.Username
}

// timeOf is when a request was made, as the agent's clock had it.
func timeOf(e *audit.Event, otherwise time.Time) time.Time {
	for _, t := range []audit.Time{e.RequestReceivedTimestamp, e.StageTimestamp} {
		if !t.IsZero() {
			return t.Time
		}
	}
	return otherwise
}

// maxSeen bounds the memory for terms that are known to be stored.
const maxSeen = 20_000

// note stores a key without a value unless it is there.
func (s *Store) note(txn *badger.Txn, w *write, key string) error {
	s.seenMu.Lock()
	_, ok := s.seen[key]
	s.seenMu.Unlock()
	if ok {
		return nil
	}
	_, err := txn.Get([]byte(key))
	if errors.Is(err, badger.ErrKeyNotFound) {
		w.set([]byte(key), nil)
		err = nil
	}
	w.terms = append(w.terms, key) // only once it is on disk: see remember
	return err
}

// remember spares the next records a look-up.
func (s *Store) remember(terms []string) {
	s.seenMu.Lock()
	defer s.seenMu.Unlock()
	if len(s.seen)+len(terms) > maxSeen {
		clear(s.seen)
	}
	for _, t := range terms {
		s.seen[t] = struct{}{}
	}
}
