package auditstore

import (
	"context"
	"crypto/subtle"
	"errors"
	"fmt"

	"github.com/dgraph-io/badger/v4"

	apiv1 "github.com/sallyport-mesh/sallyport/pkg/api/sallyport/v1"
	"github.com/sallyport-mesh/sallyport/pkg/audit"
)

// Source is who sends records, as the directory knows him. All of it comes from
// the caller's certificate and the directory, nothing from the request.
type Source struct {
	AgentID string
	// VKey is the agent's checkpoint_vkey.
	VKey    string
	Cluster Named
	Project Named
}

// Append takes in a batch of an agent's log and countersigns its checkpoint. It
// can be repeated: what is here already is compared and skipped. Errors are
// *ConflictError, ErrInvalid, ErrNotYourLog, ErrBusy, ErrDiskFull, ErrFailed;
// Status turns them into what the agent sees.
func (s *Store) Append(ctx context.Context, src Source, req *apiv1.AppendRequest) (*apiv1.AppendResponse, error) {
	if !s.inFlight.TryAcquire(1) {
		return nil, ErrBusy
	}
	defer s.inFlight.Release(1)

	// 1. Is it a request of this agent about its own log?
	verifier, cp, err := s.checkRequest(src, req)
	if err != nil {
		return nil, err
	}
	st, err := s.stateOf(src, req.GetLog())
	if err != nil {
		return nil, err
	}
	st.mu.Lock()
	defer st.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return nil, err
	}

	// 2. Does it continue what is here?
	fresh, err := s.overlap(st, req, cp)
	if err != nil {
		return nil, err
	}
	if cp.Size < st.tree.Size() {
		return s.again(st, verifier, req, cp)
	}
	tree := st.tree.Clone()
	for _, rec := range fresh {
		tree.Append(audit.LeafHash(rec))
	}
	if root := tree.Root(); root != cp.Root {
		reason, detail := Altered, fmt.Sprintf("with records %d to %d the root is %s, not the signed %s", st.tree.Size(), cp.Size, root, cp.Root)
		if len(fresh) == 0 {
			reason, detail = Forked, fmt.Sprintf("the root of %d records is %s, not the signed %s", cp.Size, root, cp.Root)
		}
		return nil, s.conflict(st, req, reason, detail)
	}

	// 3. On disk, then signed.
	if len(fresh) > 0 || !st.stored {
		if err := s.store(st, src, fresh, &tree, req.GetCheckpoint()); err != nil {
			return nil, err
		}
	}
	both, err := s.cosigner.Cosign(verifier, req.GetCheckpoint())
	if err != nil {
		return nil, err
	}
	return &apiv1.AppendResponse{Countersigned: both}, nil
}

// checkRequest is everything that can be said without looking at the store.
func (s *Store) checkRequest(src Source, req *apiv1.AppendRequest) (*audit.Verifier, audit.Checkpoint, error) {
	var none audit.Checkpoint
	origin, err := audit.ParseOrigin(req.GetLog())
	if err != nil {
		return nil, none, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	if origin.Domain != s.cfg.Domain || origin.Agent == "" || origin.Agent != src.AgentID {
		return nil, none, fmt.Errorf("%w: %s is not of agent %s", ErrNotYourLog, req.GetLog(), src.AgentID)
	}
	if n := len(req.GetRecords()); n > audit.MaxAppendRecords {
		return nil, none, fmt.Errorf("%w: %d records, at most %d", ErrInvalid, n, audit.MaxAppendRecords)
	}
	total := 0
	for i, rec := range req.GetRecords() {
		if len(rec) == 0 || len(rec) > audit.MaxRecord {
			return nil, none, fmt.Errorf("%w: record %d has %d bytes", ErrInvalid, i, len(rec))
		}
		total += len(rec)
	}
	if total > audit.MaxAppendBytes {
		return nil, none, fmt.Errorf("%w: %d bytes of records, at most %d", ErrInvalid, total, audit.MaxAppendBytes)
	}
	verifier, err := audit.NewVerifier(src.VKey, req.GetLog())
	if err != nil {
		return nil, none, fmt.Errorf("checkpoint key of agent %s: %w", src.AgentID, err)
	}
	cp, err := verifier.Open(req.GetCheckpoint())
	if err != nil {
		return nil, none, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	if end := req.GetFirstSeq() + uint64(len(req.GetRecords())); end < req.GetFirstSeq() || cp.Size != end {
		return nil, none, fmt.Errorf("%w: records %d and %d following, but a checkpoint of %d",
			ErrInvalid, req.GetFirstSeq(), len(req.GetRecords()), cp.Size)
	}
	return verifier, cp, nil
}

// stateOf finds the log, or begins the first one of an agent.
func (s *Store) stateOf(src Source, origin string) (*state, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if st := s.logs[origin]; st != nil {
		if m := st.info(); m.Agent != src.AgentID || subtle.ConstantTimeCompare([]byte(m.VKey), []byte(src.VKey)) != 1 {
			return nil, fmt.Errorf("%w: %s is bound to another agent or key", ErrNotYourLog, origin)
		}
		return st, nil
	}
	for _, st := range s.logs {
		if m := st.info(); m.Agent == src.AgentID {
			return nil, fmt.Errorf("%w: agent %s has the log %s, and a new epoch needs an administrator", ErrNotYourLog, src.AgentID, m.Origin)
		}
	}
	st := &state{meta: meta{Number: s.next, Origin: origin, Agent: src.AgentID, VKey: src.VKey, Cluster: src.Cluster, Project: src.Project}}
	s.next++
	// In memory before it is on disk: if the first write fails the number is not
	// used again in this process, and a restart forgets it.
	s.logs[origin], s.numbers[st.meta.Number] = st, st
	return st, nil
}

// overlap compares what is here already, leaf by leaf, and returns the rest.
func (s *Store) overlap(st *state, req *apiv1.AppendRequest, cp audit.Checkpoint) ([][]byte, error) {
	size, first := st.tree.Size(), req.GetFirstSeq()
	if first > size {
		// No evidence of anything: an agent whose answers were lost looks like this.
		return nil, &ConflictError{st.info().Origin, size, Behind, fmt.Sprintf("records from %d on would leave a gap", first)}
	}
	recs := req.GetRecords()
	known := min(size-first, uint64(len(recs)))
	err := s.db.View(func(txn *badger.Txn) error {
		for i := range known {
			item, err := txn.Get(seqKey(recordKeys, st.meta.Number, first+i))
			if err != nil {
				return fmt.Errorf("%w: %s: record %d: %w", ErrCorrupt, st.info().Origin, first+i, err)
			}
			same := false
			err = item.Value(func(v []byte) error {
				same = audit.LeafHash(v) == audit.LeafHash(recs[i])
				return nil
			})
			if err != nil {
				return fmt.Errorf("%w: %s: record %d: %w", ErrCorrupt, st.info().Origin, first+i, err)
			}
			if !same {
				return s.conflict(st, req, Forked, fmt.Sprintf("record %d is another than the one stored here", first+i))
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return recs[known:], nil
}

// again answers a repetition that was overtaken: shorter than what is here by
// now. It is countersigned if that very tree was stored; if it is not known the
// agent is told where to go on. One without records asks how far this copy is, as
// an agent does when it starts, and is always told: an agent whose disk was rolled
// back learns it that way.
func (s *Store) again(st *state, verifier *audit.Verifier, req *apiv1.AppendRequest, cp audit.Checkpoint) (*apiv1.AppendResponse, error) {
	var tree audit.Tree
	err := s.db.View(func(txn *badger.Txn) (err error) {
		tree, _, err = checkpointAt(txn, st.meta.Number, cp.Size)
		return err
	})
	switch {
	case errors.Is(err, badger.ErrKeyNotFound), err == nil && len(req.GetRecords()) == 0 && tree.Root() == cp.Root:
		return nil, &ConflictError{st.info().Origin, st.tree.Size(), Ahead, fmt.Sprintf("the request ends at %d", cp.Size)}
	case err != nil:
		return nil, fmt.Errorf("%w: %s: checkpoint of %d: %w", ErrCorrupt, st.info().Origin, cp.Size, err)
	case tree.Root() != cp.Root:
		return nil, s.conflict(st, req, Forked, fmt.Sprintf("the root of %d records is %s, not the signed %s", cp.Size, tree.Root(), cp.Root))
	}
	both, err := s.cosigner.Cosign(verifier, req.GetCheckpoint())
	if err != nil {
		return nil, err
	}
	return &apiv1.AppendResponse{Countersigned: both}, nil
}

// store makes the new records durable. st.mu is held.
func (s *Store) store(st *state, src Source, fresh [][]byte, tree *audit.Tree, signed []byte) error {
	m := st.info()
	w := &write{log: m.Number, first: st.tree.Size(), count: len(fresh)}
	if src.AgentID != "" && (m.Cluster != src.Cluster || m.Project != src.Project) || !st.stored {
		m.Cluster, m.Project = src.Cluster, src.Project
		if err := w.setMeta(m); err != nil {
			return err
		}
	}
	if err := s.index(w, fresh); err != nil {
		return err
	}
	w.setState(m.Number, tree, signed)
	if err := s.submit(w); err != nil {
		return err
	}
	s.remember(w.terms)
	st.metaMu.Lock()
	st.meta = m
	st.metaMu.Unlock()
	st.tree, st.stored = *tree, true
	st.size.Store(tree.Size())
	return nil
}
