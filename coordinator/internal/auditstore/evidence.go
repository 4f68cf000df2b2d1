package auditstore

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/dgraph-io/badger/v4"

	apiv1 "github.com/sallyport-mesh/sallyport/pkg/api/sallyport/v1"
)

// Evidence is what proves that an agent's host has shown two histories: its own
// signature over a tree that is not the one stored here.
type Evidence struct {
	At         time.Time `json:"at"`
	Origin     string    `json:"origin"`
	Reason     Reason    `json:"reason"`
	Detail     string    `json:"detail"`
	Size       uint64    `json:"size"`     // of the copy here
	FirstSeq   uint64    `json:"firstSeq"` // of what was sent
	Records    int       `json:"records"`
	Checkpoint string    `json:"checkpoint"` // the signed note that was sent
}

// maxEvidence bounds what a log can leave here: the first ones say it all.
const maxEvidence = 64

// conflict names a difference, says it aloud and keeps the proof.
func (s *Store) conflict(st *state, req *apiv1.AppendRequest, reason Reason, detail string) error {
	m, size := st.info(), st.tree.Size()
	s.log.Error("audit log of an agent differs from what it had signed before",
		"origin", m.Origin, "agent", m.Agent, "cluster", m.Cluster.Name, "reason", reason, "detail", detail, "size", size)
	ev := Evidence{time.Now().UTC(), m.Origin, reason, detail, size, req.GetFirstSeq(), len(req.GetRecords()), string(req.GetCheckpoint())}
	// A log that was refused from its first record on has no number that lasts.
	if kept, err := s.Evidence(m.Origin); st.stored && err == nil && len(kept) < maxEvidence {
		if b, err := json.Marshal(ev); err == nil {
			w := &write{}
			w.set(seqKey(evidenceKeys, m.Number, uint64(ev.At.UnixMicro())), b)
			if err := s.submit(w); err != nil {
				s.log.Error("keeping evidence failed", "origin", m.Origin, "error", err)
			}
		}
	}
	return &ConflictError{m.Origin, size, reason, detail}
}

// Evidence lists what was kept against a log, oldest first.
func (s *Store) Evidence(origin string) ([]Evidence, error) {
	s.mu.Lock()
	st := s.logs[origin]
	s.mu.Unlock()
	if st == nil {
		return nil, nil
	}
	var out []Evidence
	err := s.db.View(func(txn *badger.Txn) error {
		it := txn.NewIterator(badger.IteratorOptions{Prefix: logKey(evidenceKeys, st.info().Number), PrefetchValues: true, PrefetchSize: 16})
		defer it.Close()
		for it.Rewind(); it.Valid(); it.Next() {
			var ev Evidence
			if err := it.Item().Value(func(v []byte) error { return json.Unmarshal(v, &ev) }); err != nil {
				return fmt.Errorf("reading evidence: %w", err)
			}
			out = append(out, ev)
		}
		return nil
	})
	return out, err
}
