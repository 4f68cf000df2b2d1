package auditlog

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/dgraph-io/badger/v4"

	"github.com/sallyport-mesh/sallyport/pkg/audit"
)

// Once an hour the committer leaves a mark: at this time the log was this long.
// Trimming goes by the marks and never beyond what is acknowledged, so a clock
// that jumps ahead can shorten how long acknowledged records stay, and no more.

func markKey(t time.Time) []byte {
	return binary.BigEndian.AppendUint64(append(make([]byte, 0, 10), markKeys...), uint64(max(t.Unix(), 0)))
}

func (l *Log) mark(txn *badger.Txn, size uint64) error {
	now := l.cfg.now()
	if d := now.Sub(l.lastMark); d >= 0 && d < trimTick {
		return nil
	}
	l.lastMark = now
	if err := txn.Set(markKey(now), binary.BigEndian.AppendUint64(nil, size)); err != nil {
		return fmt.Errorf("marking the hour: %w", err)
	}
	return nil
}

// keep does what is done beside committing: checkpoints every second, trimming
// every hour, acknowledgements that no batch has carried to disk.
func (l *Log) keep() {
	defer l.keeper.Done()
	second, hour := time.NewTicker(checkpointTick), time.NewTicker(trimTick)
	defer second.Stop()
	defer hour.Stop()
	l.trim()
	for {
		select {
		case <-second.C:
			if err := l.persistCheckpoint(); err != nil {
				// Requests already answered rest on commits, which are synced; but
				// a file system that cannot keep a small file is not one to go on.
				l.cfg.Logger.Error("keeping the audit checkpoint failed", "origin", l.cfg.Origin, "error", err)
				l.fail(err)
			}
			_ = l.do(l.storeAcked) // the committer has dealt with a failure
		case <-hour.C:
			l.trim()
		case <-l.closing:
			return
		case <-l.failed:
			return
		}
	}
}

// do runs op on the committer, between two batches. An error is final there.
func (l *Log) do(op func() error) (err error) {
	done := make(chan struct{})
	select {
	case l.ops <- func() error { defer close(done); err = op(); return err }:
		<-done
		return err
	case <-l.stopped:
		return ErrClosed
	}
}

func (l *Log) storeAcked() error {
	txn := l.db.NewTransaction(true)
	defer txn.Discard()
	size, err := l.setAcked(txn)
	if err != nil || size == 0 {
		return err
	}
	if r, err := l.disk.room(); err != nil || r == roomForNothing {
		return nil // it stays dirty; the coordinator knows it
	}
	if err := l.cfg.commit(txn); err != nil {
		return fmt.Errorf("storing an acknowledgement: %w", err)
	}
	l.ackStored(size)
	return nil
}

// trim deletes acknowledged records that are old enough, a bounded number at a
// time, so that requests go on meanwhile.
func (l *Log) trim() {
	for more := true; more; {
		err := l.do(func() (err error) {
			more, err = l.trimOnce()
			return err
		})
		if err != nil {
			return // closed, or failed: the committer has dealt with it
		}
	}
}

func (l *Log) trimOnce() (more bool, err error) {
	until, err := l.trimPoint()
	if err != nil || l.trimmed.Size() >= until {
		return false, err
	}
	if r, err := l.disk.room(); err != nil || r == roomForNothing {
		return false, nil // even deleting takes room
	}
	return true, l.trimSome(until)
}

// trimPoint is the size up to which records may go.
func (l *Log) trimPoint() (until uint64, err error) {
	limit := markKey(l.cfg.now().Add(-l.cfg.Keep))
	err = l.db.View(func(txn *badger.Txn) error {
		it := txn.NewIterator(badger.IteratorOptions{Prefix: markKeys, PrefetchValues: true, PrefetchSize: 16})
		defer it.Close()
		for it.Rewind(); it.Valid() && string(it.Item().Key()) <= string(limit); it.Next() {
			err := it.Item().Value(func(v []byte) error {
				if len(v) != 8 {
					return fmt.Errorf("%w: an hour's mark", ErrCorrupt)
				}
				until = binary.BigEndian.Uint64(v)
				return nil
			})
			if err != nil {
				return err
			}
		}
		return nil
	})
	// What the stored acknowledgement covers, not the one still in memory: a
	// record must not go before the proof that it may.
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.acked.dirty {
		return l.trimmed.Size(), err
	}
	return min(until, l.acked.tree.Size()), err
}

// trimSome is one transaction: the deletes and the tree of what is gone.
func (l *Log) trimSome(until uint64) error {
	tree, txn := l.trimmed.Clone(), l.db.NewTransaction(true)
	defer txn.Discard()
	for n := 0; n < trimBatch && tree.Size() < until; n++ {
		key := recordKey(tree.Size())
		item, err := txn.Get(key)
		if err == nil {
			err = item.Value(func(rec []byte) error { tree.Append(audit.LeafHash(rec)); return nil })
		}
		if errors.Is(err, badger.ErrKeyNotFound) {
			return fmt.Errorf("%w: record %d is missing", ErrCorrupt, tree.Size())
		}
		if err == nil {
			err = txn.Delete(key)
		}
		if err != nil {
			return fmt.Errorf("trimming: %w", err)
		}
	}
	if err := txn.Set(trimmedKey, tree.Marshal()); err != nil {
		return fmt.Errorf("trimming: %w", err)
	}
	if err := l.dropMarks(txn, tree.Size()); err != nil {
		return err
	}
	if err := l.cfg.commit(txn); err != nil {
		return fmt.Errorf("trimming: %w", err)
	}
	l.mu.Lock()
	l.trimmed = tree
	l.mu.Unlock()
	return nil
}

// dropMarks forgets hours that end before what is trimmed.
func (l *Log) dropMarks(txn *badger.Txn, size uint64) error {
	it := txn.NewIterator(badger.IteratorOptions{Prefix: markKeys, PrefetchValues: true, PrefetchSize: 16})
	var keys [][]byte
	for it.Rewind(); it.Valid() && len(keys) < trimBatch; it.Next() {
		v, err := it.Item().ValueCopy(nil)
		if err != nil {
			it.Close()
			return fmt.Errorf("trimming: %w", err)
		}
		if len(v) == 8 && binary.BigEndian.Uint64(v) < size {
			keys = append(keys, it.Item().KeyCopy(nil))
		}
	}
	it.Close()
	for _, k := range keys {
		if err := txn.Delete(k); err != nil {
			return fmt.Errorf("trimming: %w", err)
		}
	}
	return nil
}
