package store

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/dgraph-io/badger/v4"
)

// ErrTooBig says that one update writes more than a commit can hold.
var ErrTooBig = errors.New("update is too big")

// ErrNoRoom says that the disk is too full to write. Nothing was written, and
// updates work again once there is room.
var ErrNoRoom = errors.New("the disk is almost full")

// room keeps away from a full disk, on which Badger dies of SIGBUS in its
// memory-mapped files and then at every start.
func (s *Badger) room() error {
	free, err := freeSpace(s.dir)
	if err != nil {
		return fmt.Errorf("asking for free space: %w", err)
	}
	if free < s.minFree {
		return fmt.Errorf("%w: %d MiB are free in %s, %d are needed", ErrNoRoom, free>>20, s.dir, s.minFree>>20)
	}
	return nil
}

// update is one call of Update on its way through the committer.
type update struct {
	ctx      context.Context
	turn     chan *txn  // the committer lets the caller run its function
	ran      chan error // and hears how that went
	done     chan struct{}
	revision uint64 // written before done is closed
	err      error
}

func (u *update) finish(err error) {
	u.err = err
	close(u.done)
}

// Update implements Store. One f runs at a time: it must not call Update
// itself. If ctx ends before f was called, f is not called; from then on the
// outcome is waited for, so that an error means that nothing was written, but
// for the one that also closes Failed.
func (s *Badger) Update(ctx context.Context, f func(Txn) error) (uint64, error) {
	if err := s.begin(); err != nil {
		return 0, err
	}
	defer s.users.Done()
	u := &update{ctx: ctx, turn: make(chan *txn), ran: make(chan error, 1), done: make(chan struct{})}
	select {
	case s.updates <- u:
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	for {
		select {
		case t := <-u.turn:
			u.call(f, t)
		case <-u.done:
			return u.revision, u.err
		}
	}
}

// call runs f where Update was called, so that its panics are the caller's. The
// committer hears of every way in which f can end.
func (u *update) call(f func(Txn) error, t *txn) {
	err := errors.New("the update's function did not return")
	defer func() { u.ran <- err }()
	if err = f(t); err == nil {
		err = t.err
	}
}

func (s *Badger) commitLoop() {
	defer close(s.done)
	var next *update // did not fit into the last batch
	for {
		u := next
		next = nil
		if u == nil {
			select {
			case u = <-s.updates:
			case <-s.closing:
				return
			}
		}
		next = s.commitBatch(u)
	}
}

// batch is what goes into one Badger transaction.
type batch struct {
	txn     *badger.Txn
	head    head
	size    int
	entries int
	commits []Commit
	waiting []*update // succeed or fail with the batch
	err     error
}

// commitBatch runs u and whoever else waits, and commits them together. It
// returns an update that is yet to run, if one did not fit.
func (s *Badger) commitBatch(u *update) (next *update) {
	if err := s.Err(); err != nil {
		u.finish(err)
		return nil
	}
	if err := s.room(); err != nil {
		u.finish(err)
		return nil
	}
	b := &batch{txn: s.db.NewTransaction(true)}
	defer b.txn.Discard()
	var err error
	if b.head, err = readHead(b.txn); err != nil {
		u.finish(fmt.Errorf("reading store: %w", err))
		return nil
	}
	for more := true; more; {
		if !b.run(u) {
			next = u
			break
		}
		if b.err != nil {
			break
		}
		select {
		case u = <-s.updates:
		default:
			more = false
		}
	}
	if len(b.commits) > 0 {
		if err := s.write(b); err != nil {
			s.fail(err)
			for _, u := range b.waiting {
				u.finish(s.Err())
			}
			return next
		}
	}
	s.hub.add(b.commits)
	for _, u := range b.waiting {
		close(u.done)
	}
	return next
}

func (s *Badger) write(b *batch) error {
	if b.err != nil {
		return b.err
	}
	if err := b.txn.Set([]byte(headKey), b.head.bytes()); err != nil {
		return err
	}
	if err := b.txn.Commit(); err != nil {
		return err
	}
	return s.mark.set(b.head.revision)
}

// fail breaks the store for good.
func (s *Badger) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err == nil {
		s.err = fmt.Errorf("the store has failed and takes no more changes: %w", err)
		s.log.Error("a commit failed: the process must be restarted", "error", err)
		close(s.failed)
		s.hub.close(s.err) // whoever watches learns that nothing more comes
	}
}

// run calls u and puts its writes into the batch. It reports false, with
// nothing done, when the batch is too full for them.
func (b *batch) run(u *update) bool {
	if err := u.ctx.Err(); err != nil {
		u.finish(err)
		return true
	}
	t := &txn{reader: reader{b.txn, b.head.revision}, writes: make(map[string][]byte)}
	u.turn <- t
	if err := <-u.ran; err != nil {
		u.finish(err)
		return true
	}
	size, entries := t.size, len(t.writes)
	if len(b.commits) > 0 && (b.size+size > maxUpdate || b.entries+entries > maxEntries) {
		return false
	}
	if entries > maxEntries {
		u.finish(fmt.Errorf("%w: %d keys, the limit is %d", ErrTooBig, entries, maxEntries))
		return true
	}
	keys := b.head.keys
	c := Commit{Revision: b.head.revision + 1}
	for _, key := range slices.Sorted(maps.Keys(t.writes)) {
		old, err := t.reader.Get(key)
		if err != nil {
			u.finish(err)
			return true
		}
		value := t.writes[key]
		switch {
		case value == nil && old == nil:
			continue // there was nothing to delete
		case value == nil:
			keys--
		case old == nil:
			keys++
		}
		c.Changes = append(c.Changes, Change{key, value})
	}
	if len(c.Changes) == 0 {
		u.revision = b.head.revision
		b.waiting = append(b.waiting, u) // it may have read what is not yet on disk
		return true
	}
	for _, ch := range c.Changes {
		// The sizes were checked, so an error here is Badger's own. It leaves
		// the transaction half written, which must not be committed.
		if err := b.set(ch, c.Revision); err != nil {
			b.err = err
			break
		}
	}
	b.head = head{c.Revision, keys}
	b.size += size
	b.entries += entries
	b.commits = append(b.commits, c)
	u.revision = c.Revision
	b.waiting = append(b.waiting, u)
	return true
}

// maxEntries keeps a batch below Badger's own limit of entries.
const maxEntries = 15_000

func (b *batch) set(ch Change, revision uint64) error {
	key := []byte(dataPrefix + ch.Key)
	if ch.Value == nil {
		return b.txn.Delete(key)
	}
	return b.txn.Set(key, append(binary.BigEndian.AppendUint64(make([]byte, 0, 8+len(ch.Value)), revision), ch.Value...))
}
