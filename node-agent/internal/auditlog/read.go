package auditlog

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/dgraph-io/badger/v4"

	"github.com/sallyport-mesh/sallyport/pkg/audit"
	"github.com/sallyport-mesh/sallyport/pkg/pki"
)

// Origin names the log.
func (l *Log) Origin() string { return l.cfg.Origin }

// Size is the number of records on disk, and the position of the next one.
func (l *Log) Size() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.head.Size()
}

// Acked is how many records the coordinator has countersigned.
func (l *Log) Acked() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.acked.tree.Size()
}

// Changed is closed when Size grows. Take it before reading Size.
func (l *Log) Changed() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.changed
}

// errStop ends each early.
var errStop = errors.New("stop")

// each calls f for the records from position from on, in order, up to the last.
// A gap is ErrCorrupt: an iteration of Badger that ends early over a damaged
// table says nothing.
func (l *Log) each(ctx context.Context, from uint64, f func(seq uint64, rec []byte) error) error {
	return l.db.View(func(txn *badger.Txn) error {
		opts := badger.DefaultIteratorOptions
		opts.Prefix, opts.PrefetchSize = recordKeys, 64
		it := txn.NewIterator(opts)
		defer it.Close()
		next := from
		for it.Seek(recordKey(from)); it.Valid(); it.Next() {
			if err := ctx.Err(); err != nil {
				return err
			}
			key := it.Item().Key()
			if len(key) != len(recordKeys)+8 || binary.BigEndian.Uint64(key[len(recordKeys):]) != next {
				return fmt.Errorf("%w: record %d is missing (%s)", ErrCorrupt, next, l.cfg.Origin)
			}
			if err := it.Item().Value(func(rec []byte) error { return f(next, rec) }); err != nil {
				return err
			}
			next++
		}
		return nil
	})
}

// Read returns the records from position from on, as many as fit maxBytes but
// one at least if there is one. They are the stored bytes.
func (l *Log) Read(from uint64, maxBytes int) ([][]byte, error) {
	l.mu.Lock()
	trimmed, size := l.trimmed.Size(), l.head.Size()
	l.mu.Unlock()
	if from < trimmed {
		return nil, fmt.Errorf("reading record %d of %s: %w", from, l.cfg.Origin, ErrTrimmed)
	}
	var out [][]byte
	n := 0
	err := l.each(context.Background(), from, func(seq uint64, rec []byte) error {
		if n += len(rec); seq >= size || len(out) > 0 && n > maxBytes {
			return errStop
		}
		out = append(out, append([]byte(nil), rec...))
		return nil
	})
	if err != nil && !errors.Is(err, errStop) {
		return nil, fmt.Errorf("reading audit records: %w", err)
	}
	if err == nil && from+uint64(len(out)) < size {
		return nil, fmt.Errorf("reading audit records: %w: %d of %s is missing", ErrCorrupt, from+uint64(len(out)), l.cfg.Origin)
	}
	return out, nil
}

// treeAt is the tree of the first size records, recomputed from the nearest one
// that is known.
func (l *Log) treeAt(size uint64) (audit.Tree, error) {
	l.mu.Lock()
	head := l.head.Size()
	var best *audit.Tree
	for _, t := range []*audit.Tree{&l.trimmed, &l.acked.tree, &l.shipped, &l.head} {
		if t.Size() <= size && (best == nil || t.Size() >= best.Size()) {
			best = t
		}
	}
	var tree audit.Tree
	if best != nil {
		tree = best.Clone()
	}
	l.mu.Unlock()
	switch {
	case best == nil:
		return audit.Tree{}, ErrTrimmed
	case size > head:
		return audit.Tree{}, fmt.Errorf("no tree of size %d: %s has %d records", size, l.cfg.Origin, head)
	}
	if tree.Size() < size {
		err := l.each(context.Background(), tree.Size(), func(_ uint64, rec []byte) error {
			if tree.Append(audit.LeafHash(rec)); tree.Size() == size {
				return errStop
			}
			return nil
		})
		if err == nil {
			err = fmt.Errorf("%w: %d of %s is missing", ErrCorrupt, tree.Size(), l.cfg.Origin)
		}
		if !errors.Is(err, errStop) {
			return audit.Tree{}, err
		}
	}
	l.mu.Lock()
	l.shipped = tree.Clone()
	l.mu.Unlock()
	return tree, nil
}

// Checkpoint signs the tree of the first size records. It keeps that checkpoint
// on disk before giving it out: what others have seen signed, this log must
// never be shorter than.
func (l *Log) Checkpoint(size uint64) ([]byte, error) {
	tree, err := l.treeAt(size)
	if err != nil {
		return nil, fmt.Errorf("making a checkpoint: %w", err)
	}
	signed, err := l.signer.Sign(&tree)
	if err != nil {
		return nil, err
	}
	return signed, l.keepCheckpoint(size, signed)
}

func (l *Log) keepCheckpoint(size uint64, signed []byte) error {
	l.checkpointMu.Lock()
	defer l.checkpointMu.Unlock()
	if size <= l.persisted {
		return nil
	}
	if err := pki.WriteFile(l.checkpointPath(), signed); err != nil {
		return fmt.Errorf("keeping a checkpoint: %w", err)
	}
	l.persisted = size
	return nil
}

// persistCheckpoint keeps a checkpoint of everything on disk.
func (l *Log) persistCheckpoint() error {
	l.mu.Lock()
	tree := l.head.Clone()
	l.mu.Unlock()
	l.checkpointMu.Lock()
	done := tree.Size() <= l.persisted
	l.checkpointMu.Unlock()
	if done {
		return nil
	}
	signed, err := l.signer.Sign(&tree)
	if err != nil {
		return err
	}
	return l.keepCheckpoint(tree.Size(), signed)
}

// Acknowledge takes the coordinator's countersignature. It fails with
// ErrNotOurTree or audit.ErrCheckpoint, and then nothing changes. The records up
// to its size may be trimmed once they are old enough.
func (l *Log) Acknowledge(countersigned []byte) error {
	cp, _, err := l.cosigner.Open(l.verifier, countersigned)
	if err != nil {
		return fmt.Errorf("acknowledging: %w", err)
	}
	if cp.Size < l.Acked() {
		return nil // an answer that was overtaken
	}
	tree, err := l.treeAt(cp.Size)
	if err != nil {
		return fmt.Errorf("acknowledging: %w", err)
	}
	if tree.Root() != cp.Root {
		return fmt.Errorf("acknowledging %d records of %s: %w", cp.Size, l.cfg.Origin, ErrNotOurTree)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if cp.Size > l.acked.tree.Size() {
		l.acked = acked{tree, append([]byte(nil), countersigned...), true}
	}
	return nil
}
