package auditstore

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/dgraph-io/badger/v4"

	"github.com/sallyport-mesh/sallyport/pkg/audit"
)

// meta is what is known of a log beside its records.
type meta struct {
	Number  uint32 `json:"number"`
	Origin  string `json:"origin"`
	Agent   string `json:"agent,omitempty"` // empty for the coordinator's own
	VKey    string `json:"vkey"`
	Cluster Named  `json:"cluster,omitzero"`
	Project Named  `json:"project,omitzero"`
}

// Named is something with an id that lasts and a name that may change.
type Named struct {
	ID   string `json:"id"`
	Name string `json:"name"`
}

// is reports whether ref means n, by id or by name.
func (n Named) is(ref string) bool { return ref != "" && (n.ID == ref || n.Name == ref) }

// state is one log. mu is held by an append from its first check until its
// records are on disk, so that each log has one writer at a time.
type state struct {
	mu     sync.Mutex
	tree   audit.Tree
	stored bool // meta is on disk

	size atomic.Uint64 // of tree, for those who only look

	metaMu sync.Mutex
	meta   meta
}

func (st *state) info() meta {
	st.metaMu.Lock()
	defer st.metaMu.Unlock()
	return st.meta
}

// load reads all logs' states.
func (s *Store) load() error {
	return s.db.View(func(txn *badger.Txn) error {
		s.arrival.Store(lastArrival(txn))
		it := txn.NewIterator(badger.IteratorOptions{Prefix: []byte(metaKeys), PrefetchValues: true, PrefetchSize: 64})
		defer it.Close()
		for it.Rewind(); it.Valid(); it.Next() {
			st := &state{stored: true}
			err := it.Item().Value(func(v []byte) error { return json.Unmarshal(v, &st.meta) })
			if err == nil {
				st.tree, err = loadTree(txn, st.meta.Number)
			}
			if err != nil {
				return fmt.Errorf("%w: log %s: %w", ErrCorrupt, it.Item().Key()[len(metaKeys):], err)
			}
			if err := s.checkEdge(txn, st); err != nil {
				return err
			}
			st.size.Store(st.tree.Size())
			s.logs[st.meta.Origin], s.numbers[st.meta.Number] = st, st
			s.next = max(s.next, st.meta.Number+1)
		}
		return nil
	})
}

// checkEdge looks at the end of a log: the last record must be there and nothing
// beyond, and the tree must be the one that was signed last.
func (s *Store) checkEdge(txn *badger.Txn, st *state) error {
	n, size := st.meta.Number, st.tree.Size()
	if size > 0 {
		if _, err := txn.Get(seqKey(recordKeys, n, size-1)); err != nil {
			return fmt.Errorf("%w: %s: record %d: %w", ErrCorrupt, st.meta.Origin, size-1, err)
		}
	}
	if _, err := txn.Get(seqKey(recordKeys, n, size)); !errors.Is(err, badger.ErrKeyNotFound) {
		return fmt.Errorf("%w: %s: a record beyond its %d", ErrCorrupt, st.meta.Origin, size)
	}
	tree, signed, err := checkpointAt(txn, n, size)
	if err != nil {
		return fmt.Errorf("%w: %s: checkpoint of %d: %w", ErrCorrupt, st.meta.Origin, size, err)
	}
	v, err := audit.NewVerifier(st.meta.VKey, st.meta.Origin)
	if err != nil {
		return fmt.Errorf("%w: %s: %w", ErrCorrupt, st.meta.Origin, err)
	}
	cp, err := v.Open(signed)
	if err != nil || cp.Size != size || cp.Root != st.tree.Root() || tree.Root() != cp.Root {
		return fmt.Errorf("%w: %s: the tree is not the one signed at %d", ErrCorrupt, st.meta.Origin, size)
	}
	return nil
}

func loadTree(txn *badger.Txn, log uint32) (tree audit.Tree, err error) {
	item, err := txn.Get(logKey(headKeys, log))
	if err != nil {
		return audit.Tree{}, err
	}
	err = item.Value(func(v []byte) (err error) {
		tree, err = audit.UnmarshalTree(v)
		return err
	})
	return tree, err
}

// checkpointAt is what was signed at a size; ErrKeyNotFound if nothing was.
func checkpointAt(txn *badger.Txn, log uint32, size uint64) (tree audit.Tree, signed []byte, err error) {
	item, err := txn.Get(seqKey(checkpointKeys, log, size))
	if err != nil {
		return audit.Tree{}, nil, err
	}
	err = item.Value(func(v []byte) (err error) {
		if len(v) < 4 || uint64(binary.BigEndian.Uint32(v)) > uint64(len(v)-4) {
			return errors.New("stored checkpoint is too short")
		}
		n := binary.BigEndian.Uint32(v)
		tree, err = audit.UnmarshalTree(v[4 : 4+n])
		signed = append([]byte(nil), v[4+n:]...)
		return err
	})
	return tree, signed, err
}

// setState adds a log's new tree and the checkpoint over it to w.
func (w *write) setState(log uint32, tree *audit.Tree, signed []byte) {
	b := tree.Marshal()
	w.set(logKey(headKeys, log), b)
	v := binary.BigEndian.AppendUint32(make([]byte, 0, 4+len(b)+len(signed)), uint32(len(b)))
	w.set(seqKey(checkpointKeys, log, tree.Size()), append(append(v, b...), signed...))
}

func (w *write) setMeta(m meta) error {
	b, err := json.Marshal(m)
	if err != nil {
		return fmt.Errorf("encoding a log's meta: %w", err)
	}
	w.set([]byte(metaKeys+m.Origin), b)
	return nil
}
