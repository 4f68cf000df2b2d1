package auditstore

import (
	"context"

	"github.com/dgraph-io/badger/v4"

	apiv1 "github.com/sallyport-mesh/sallyport/pkg/api/sallyport/v1"
)

// Found is a request that was looked up by its id.
type Found struct {
	Record *apiv1.AuditRecord
	// ProjectID that the record's cluster was in; empty for the coordinator's own
	// log.
	ProjectID string
}

// Find looks a request up by its audit id, in every log. It answers nil if
// nothing goes by it.
func (s *Store) Find(ctx context.Context, auditID string) (*Found, error) {
	s.mu.Lock()
	numbers := make(map[uint32]meta, len(s.numbers))
	for n, st := range s.numbers {
		numbers[n] = st.info()
	}
	s.mu.Unlock()
	var found *Found
	err := s.db.View(func(txn *badger.Txn) error {
		for n, m := range numbers {
			if err := ctx.Err(); err != nil {
				return err
			}
			seq, ok, err := firstOf(txn, n, auditID)
			if err != nil {
				return err
			}
			if !ok {
				continue
			}
			rec, err := s.record(txn, &Query{Log: "all"}, nil, position{log: n, seq: seq})
			if err != nil || rec == nil {
				return err
			}
			found = &Found{Record: rec}
			if m.Agent != "" {
				found.ProjectID = m.Project.ID
			}
			return nil
		}
		return nil
	})
	return found, err
}
