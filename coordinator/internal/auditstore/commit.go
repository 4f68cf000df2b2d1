package auditstore

import (
	"encoding/binary"
	"fmt"

	"github.com/dgraph-io/badger/v4"

	"github.com/sallyport-mesh/sallyport/pkg/badgerdir"
)

// write is what one append of one log puts into the store, all or nothing.
type write struct {
	sets  []keyValue
	bytes int
	// What arrived; count 0 is nothing that a follower would want.
	log   uint32
	first uint64
	count int
	terms []string // index terms that are stored with this write
	done  chan error
}

type keyValue struct{ key, value []byte }

func (w *write) set(key, value []byte) {
	w.sets = append(w.sets, keyValue{key, value})
	w.bytes += len(key) + len(value) + 32 // Badger adds its own to each
}

// Bounds of a transaction, well under Badger's for our memtable (4.8 MiB and some
// 50,000 entries). One full Append with its indexes fits twice.
const (
	maxTxnBytes   = 4 << 20
	maxTxnEntries = 40_000
)

// submit hands a write to the committer and returns once it is on disk. It does
// not look at a context: what was handed over happens.
func (s *Store) submit(w *write) error {
	w.done = make(chan error, 1)
	select {
	case s.writes <- w:
	case <-s.stopped:
		return s.ended()
	}
	select {
	case err := <-w.done:
		return err
	case <-s.stopped:
		select {
		case err := <-w.done:
			return err
		default:
			return s.ended()
		}
	}
}

func (s *Store) ended() error {
	if err := s.Err(); err != nil {
		return err
	}
	return ErrClosed
}

// commitLoop is the one writer. It drains everyone who waits into one synced
// transaction.
func (s *Store) commitLoop() {
	defer close(s.stopped)
	var rest *write
	for {
		group := []*write{rest}
		if rest == nil {
			select {
			case group[0] = <-s.writes:
			case <-s.closing:
				// Whoever is in the channel by now was promised an answer.
				select {
				case group[0] = <-s.writes:
				default:
					return
				}
			}
		}
		group, rest = s.gather(group)
		err := s.commitGroup(group)
		for _, w := range group {
			w.done <- err
		}
		if s.Err() != nil {
			if rest != nil {
				rest.done <- s.Err()
			}
			return
		}
	}
}

// gather adds those who wait, up to the bounds. rest is one that did not fit.
func (s *Store) gather(group []*write) (fit []*write, rest *write) {
	size, entries := group[0].bytes, len(group[0].sets)
	for {
		select {
		case w := <-s.writes:
			if size, entries = size+w.bytes, entries+len(w.sets)+1; size > maxTxnBytes || entries > maxTxnEntries {
				return group, w
			}
			group = append(group, w)
		default:
			return group, nil
		}
	}
}

func (s *Store) commitGroup(group []*write) error {
	free, err := s.cfg.free(s.cfg.Dir)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrDiskFull, err)
	}
	if need := badgerdir.Room(s.opts); free < need {
		s.log.Error("audit store has no room: nothing is taken in until there is", "dir", s.cfg.Dir, "free", free, "needed", need)
		return fmt.Errorf("%w: %d MiB free in %s, %d MiB needed", ErrDiskFull, free>>20, s.cfg.Dir, need>>20)
	}
	arrival := s.arrival.Load()
	txn := s.db.NewTransaction(true)
	defer txn.Discard()
	for _, w := range group {
		for _, kv := range w.sets {
			if err := txn.Set(kv.key, kv.value); err != nil {
				err = fmt.Errorf("writing: %w", err)
				s.fail(err)
				return s.Err()
			}
		}
		if w.count == 0 {
			continue
		}
		v := binary.BigEndian.AppendUint32(nil, w.log)
		v = binary.BigEndian.AppendUint64(v, w.first)
		v = binary.BigEndian.AppendUint32(v, uint32(w.count))
		if err := txn.Set(arrivalKey(arrival), v); err != nil {
			s.fail(fmt.Errorf("writing: %w", err))
			return s.Err()
		}
		arrival++
	}
	if err := s.cfg.commit(txn); err != nil {
		s.fail(fmt.Errorf("committing: %w", err))
		return s.Err()
	}
	s.arrival.Store(arrival)
	s.news.tell()
	return nil
}

// lastArrival is the number after the last stored commit's.
func lastArrival(txn *badger.Txn) uint64 {
	it := txn.NewIterator(badger.IteratorOptions{Prefix: []byte(arrivalKeys), Reverse: true})
	defer it.Close()
	it.Seek(append([]byte(arrivalKeys), 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff))
	if !it.Valid() {
		return 0
	}
	return binary.BigEndian.Uint64(it.Item().Key()[len(arrivalKeys):]) + 1
}
