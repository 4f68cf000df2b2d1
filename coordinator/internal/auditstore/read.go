package auditstore

import (
	"fmt"

	"github.com/dgraph-io/badger/v4"
)

// Records returns the stored bytes of a log from position from on, as many as fit
// maxBytes but one at least if there is one.
func (s *Store) Records(origin string, from uint64, maxBytes int) (out [][]byte, err error) {
	s.mu.Lock()
	st := s.logs[origin]
	s.mu.Unlock()
	if st == nil {
		return nil, nil
	}
	size, bytes := st.size.Load(), 0
	err = s.db.View(func(txn *badger.Txn) error {
		for seq := from; seq < size; seq++ {
			rec, err := get(txn, seqKey(recordKeys, st.info().Number, seq))
			if err != nil {
				return err
			}
			if bytes += len(rec); len(out) > 0 && bytes > maxBytes {
				return nil
			}
			out = append(out, rec)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", origin, err)
	}
	return out, nil
}
