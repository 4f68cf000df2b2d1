// Package store is the coordinator's state: a small revisioned key-value store
// with compare-and-set transactions and watches from a revision.
//
// The revision is the order of commits: each commit that writes has the next
// one, readers see exactly the commits up to a revision, and a watcher gets
// every later commit once, in order. A commit is on disk before Update returns.
// Everything above this package is typed; nothing below it is known elsewhere.
package store

import (
	"context"
	"errors"

	"github.com/sallyport-mesh/sallyport/pkg/badgerdir"
)

// Store is what the coordinator builds on. Implementations: NewBadger.
type Store interface {
	// View calls f with a consistent view of one revision.
	View(ctx context.Context, f func(Reader) error) error

	// Update calls f in a transaction and commits what it wrote, atomically and
	// durably, under the next revision, which it returns. It may call f again
	// when another commit got in between, so f must have no other effects. If f
	// fails, nothing is written and its error is returned as it is. A
	// transaction that wrote nothing returns the current revision.
	Update(ctx context.Context, f func(Txn) error) (uint64, error)

	// Watch sends every commit after revision from, in order, until ctx ends.
	// The channel is closed early with ErrCompacted as Err (see Watcher), and the
	// caller then reads everything again, or with ErrClosed.
	Watch(ctx context.Context, from uint64) Watcher

	Close() error
}

// Reader reads one revision. Values must not be modified.
type Reader interface {
	Revision() uint64
	// Get returns nil and no error when there is no such key.
	Get(key string) (*Item, error)
	// List calls f for every key with the prefix, in byte order.
	List(prefix string, f func(Item) error) error
}

// Txn reads and writes.
type Txn interface {
	Reader
	Put(key string, value []byte)
	Delete(key string)
}

// Item is a key's value and the revision that wrote it.
type Item struct {
	Key      string
	Value    []byte
	Revision uint64
}

// Commit is what one transaction changed.
type Commit struct {
	Revision uint64
	// Changed keys; a nil Value is a deletion.
	Changes []Change
}

// Change is one key of a commit.
type Change struct {
	Key   string
	Value []byte
}

// Watcher delivers commits.
type Watcher interface {
	Commits() <-chan Commit
	// Err says why Commits was closed: the context's error or ErrCompacted.
	Err() error
}

// ErrCompacted says that a watch asked for commits that are no longer kept.
var ErrCompacted = errors.New("revision is no longer kept: read everything again")

// ErrLocked says that another process holds the data directory.
var ErrLocked = badgerdir.ErrLocked
