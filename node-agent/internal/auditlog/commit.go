package auditlog

import (
	"encoding/binary"
	"fmt"
	"time"

	"github.com/dgraph-io/badger/v4"

	"github.com/sallyport-mesh/sallyport/pkg/audit"
)

// Keys in Badger. Values are the bytes that were hashed, never re-encoded.
var (
	originKey  = []byte("m/origin")
	headKey    = []byte("m/head")    // audit.Tree of everything
	ackedKey   = []byte("m/acked")   // length of the tree (4 bytes), audit.Tree, countersigned checkpoint
	trimmedKey = []byte("m/trimmed") // audit.Tree of what is gone
	recordKeys = []byte("r/")        // and 8 bytes of position, big-endian
	markKeys   = []byte("t/")        // and 8 bytes of Unix time; see trim.go
)

func recordKey(seq uint64) []byte {
	return binary.BigEndian.AppendUint64(append(make([]byte, 0, 10), recordKeys...), seq)
}

// commitLoop is the one writer.
func (l *Log) commitLoop() {
	defer close(l.stopped)
	var held []*entry // outcomes that had no room on disk, and what did not fit a batch
	retry := time.NewTicker(checkpointTick)
	defer retry.Stop()
	for {
		var batch []*entry
		if len(held) == 0 {
			select {
			case e := <-l.queue:
				batch = append(batch, e)
			case op := <-l.ops:
				if err := op(); err != nil {
					l.fail(err)
				}
			case <-l.closing:
				l.drain(held)
				return
			case <-l.failed:
				l.refuseAll(nil)
				return
			}
		} else {
			batch, held = held, nil
		}
		if len(batch) == 0 {
			continue
		}
		batch, rest := l.collect(batch)
		noRoom := l.commit(batch)
		held = append(noRoom, rest...)
		if len(noRoom) > 0 && len(rest) == 0 {
			// Only outcomes, and no room: look again when something changes.
			select {
			case e := <-l.queue:
				held = append(held, e)
			case op := <-l.ops: // trimming makes room
				if err := op(); err != nil {
					l.fail(err)
				}
			case <-retry.C:
			case <-l.closing:
				l.drain(held)
				return
			}
		}
		if l.Err() != nil {
			l.refuseAll(held)
			return
		}
	}
}

// collect adds to batch whoever waits, up to the bounds. rest is what did not
// fit. A batch of outcomes alone waits a moment for an intent to share its sync.
func (l *Log) collect(batch []*entry) (fit, rest []*entry) {
	size, urgent := 0, false
	take := func(e *entry) bool {
		if len(fit) == maxBatchCount || len(fit) > 0 && size+len(e.record) > maxBatch {
			rest = append(rest, e)
			return false
		}
		fit, size, urgent = append(fit, e), size+len(e.record), urgent || e.done != nil
		return true
	}
	full := false
	for _, e := range batch {
		full = !take(e) || full
	}
	var wait <-chan time.Time
	for !full {
		select {
		case e := <-l.queue:
			full = !take(e)
			continue
		default:
		}
		if urgent {
			break
		}
		if wait == nil {
			timer := time.NewTimer(outcomeWait)
			defer timer.Stop()
			wait = timer.C
		}
		select {
		case e := <-l.queue:
			full = !take(e)
		case <-wait:
			urgent = true
		case <-l.closing:
			urgent = true
		}
	}
	return fit, rest
}

// commit writes a batch and tells those who wait. It returns the outcomes that
// found no room on the disk.
func (l *Log) commit(batch []*entry) (noRoom []*entry) {
	room, err := l.disk.room()
	if err != nil || room != roomForAll {
		var keep []*entry
		for _, e := range batch {
			switch {
			case e.done != nil && err != nil:
				e.done <- fmt.Errorf("%w: %w", ErrDiskFull, err)
			case e.done != nil:
				e.done <- l.disk.fullError()
			case err == nil && room == roomForOutcomes:
				keep = append(keep, e)
			default:
				noRoom = append(noRoom, e)
			}
		}
		if batch = keep; len(batch) == 0 {
			return noRoom
		}
	}

	// Only this goroutine changes head, so reading it needs no lock.
	tree := l.head.Clone()
	err = l.write(batch, &tree)
	if err != nil {
		l.fail(err)
	} else {
		l.mu.Lock()
		l.head = tree
		close(l.changed)
		l.changed = make(chan struct{})
		l.mu.Unlock()
	}
	for _, e := range batch {
		if e.done != nil {
			e.done <- l.Err()
		} else {
			l.pending.Release(int64(len(e.record)))
		}
	}
	return noRoom
}

// write is the one durable transaction: records, tree and size. A crash before
// Commit returns leaves all of it or nothing.
func (l *Log) write(batch []*entry, tree *audit.Tree) error {
	txn := l.db.NewTransaction(true)
	defer txn.Discard()
	before := tree.Size()
	for _, e := range batch {
		if err := txn.Set(recordKey(tree.Size()), e.record); err != nil {
			return fmt.Errorf("writing a record: %w", err)
		}
		tree.Append(e.leaf)
	}
	if err := txn.Set(headKey, tree.Marshal()); err != nil {
		return fmt.Errorf("writing the tree: %w", err)
	}
	if err := l.mark(txn, before); err != nil {
		return err
	}
	ack, err := l.setAcked(txn)
	if err != nil {
		return err
	}
	if err := l.cfg.commit(txn); err != nil {
		return fmt.Errorf("committing: %w", err)
	}
	l.ackStored(ack)
	return nil
}

// setAcked puts an acknowledgement that is not stored yet into txn. Losing one
// costs only sending again what the coordinator then skips.
func (l *Log) setAcked(txn *badger.Txn) (size uint64, err error) {
	l.mu.Lock()
	a := l.acked
	l.mu.Unlock()
	if !a.dirty {
		return 0, nil
	}
	tree := a.tree.Marshal()
	v := binary.BigEndian.AppendUint32(nil, uint32(len(tree)))
	v = append(append(v, tree...), a.signed...)
	if err := txn.Set(ackedKey, v); err != nil {
		return 0, fmt.Errorf("writing the acknowledgement: %w", err)
	}
	return a.tree.Size(), nil
}

func (l *Log) ackStored(size uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if size != 0 && l.acked.tree.Size() == size {
		l.acked.dirty = false
	}
}

// drain commits what is queued when the log closes.
func (l *Log) drain(held []*entry) {
	for {
		batch, rest := l.collect(held)
		if len(batch) == 0 {
			return
		}
		noRoom := l.commit(batch)
		if l.Err() != nil {
			l.refuseAll(rest)
			return
		}
		if len(noRoom) > 0 {
			l.cfg.Logger.Error("audit outcomes lost: no room on disk at the end", "origin", l.cfg.Origin, "records", len(noRoom))
		}
		held = rest
	}
}

// refuseAll answers everyone who still waits after a failure.
func (l *Log) refuseAll(held []*entry) {
	for {
		for _, e := range held {
			if e.done != nil {
				e.done <- l.failure
			} else {
				l.pending.Release(int64(len(e.record)))
			}
		}
		select {
		case e := <-l.queue:
			held = []*entry{e}
		default:
			return
		}
	}
}
