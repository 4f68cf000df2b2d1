package auditstore

import (
	"context"
	"encoding/binary"
	"fmt"
	"time"

	"github.com/dgraph-io/badger/v4"

	apiv1 "github.com/sallyport-mesh/sallyport/pkg/api/sallyport/v1"
	"github.com/sallyport-mesh/sallyport/pkg/audit"
)

// follow sends what arrives after cursor, in order of arrival and never by the
// time in a record, which is an agent's to choose.
func (s *Store) follow(ctx context.Context, q *Query, cursor uint64, send func(*apiv1.AuditRecord) error) error {
	for {
		news := s.news.wait()
		for cursor < s.arrival.Load() {
			recs, err := s.arrived(cursor, q)
			if err != nil {
				return err
			}
			for _, rec := range recs {
				if err := send(rec); err != nil {
					return err
				}
			}
			cursor++
			if ctx.Err() != nil {
				return nil
			}
		}
		select {
		case <-news:
			if s.Err() != nil || s.isClosed() {
				return s.ended()
			}
		case <-ctx.Done():
			return nil
		}
	}
}

func (s *Store) isClosed() bool {
	select {
	case <-s.stopped:
		return true
	default:
		return false
	}
}

// arrived reads what one append brought, as far as q takes it.
func (s *Store) arrived(n uint64, q *Query) (out []*apiv1.AuditRecord, err error) {
	err = s.db.View(func(txn *badger.Txn) error {
		v, err := get(txn, arrivalKey(n))
		if err != nil {
			return err
		}
		if len(v) != 16 {
			return fmt.Errorf("%w: arrival %d", ErrCorrupt, n)
		}
		log, first, count := binary.BigEndian.Uint32(v), binary.BigEndian.Uint64(v[4:]), binary.BigEndian.Uint32(v[12:])
		users, err := q.users(txn)
		if err != nil {
			return err
		}
		for i := range uint64(count) {
			seq := first + i
			b, err := get(txn, seqKey(recordKeys, log, seq))
			if err != nil {
				return err
			}
			e, err := audit.Decode(b)
			if err != nil {
				e = &audit.Event{}
			}
			if e.Stage == audit.StageComplete {
				// The request it ends is what q is about.
				intent, ok, err := firstOf(txn, log, e.AuditID)
				if err != nil {
					return err
				}
				if ok && intent < seq {
					seq = intent
					if b, err = get(txn, seqKey(recordKeys, log, seq)); err != nil {
						return err
					}
					if e, err = audit.Decode(b); err != nil {
						e = &audit.Event{}
					}
				}
			}
			rec, err := s.record(txn, q, users, position{micros(timeOf(e, time.Now())), log, seq})
			if err != nil {
				return err
			}
			if rec != nil {
				out = append(out, rec)
			}
		}
		return nil
	})
	return out, err
}
