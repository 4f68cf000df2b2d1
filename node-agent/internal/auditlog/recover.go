package auditlog

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/dgraph-io/badger/v4"

	"github.com/sallyport-mesh/sallyport/pkg/audit"
	"github.com/sallyport-mesh/sallyport/pkg/pki"
)

// recover reads the state and proves that it is what was written: every record
// from the last acknowledged size on is hashed again, the tree must come out as
// it is stored, pass through the checkpoint kept outside Badger, and nothing may
// lie beyond it. Records before that are the coordinator's to give back.
func (l *Log) recover(ctx context.Context) error {
	if err := l.claim(); err != nil {
		return err
	}
	if err := l.loadTrees(); err != nil {
		return err
	}
	cp, err := l.readCheckpoint()
	if err != nil {
		return err
	}
	if cp.Size > l.head.Size() {
		return fmt.Errorf("%w: %d records on disk, %d signed (%s)", ErrRollback, l.head.Size(), cp.Size, l.cfg.Origin)
	}

	tree, passed := l.acked.tree.Clone(), cp.Size < l.acked.tree.Size()
	if passed {
		l.cfg.Logger.Warn("audit checkpoint on disk is older than the last acknowledgement",
			"origin", l.cfg.Origin, "checkpoint", cp.Size, "acknowledged", tree.Size())
	}
	check := func() error {
		if tree.Size() == cp.Size && !passed {
			if passed = true; tree.Root() != cp.Root {
				return fmt.Errorf("%w: the first %d records do not hash to the signed root (%s)", ErrCorrupt, cp.Size, l.cfg.Origin)
			}
		}
		return nil
	}
	if err := check(); err != nil {
		return err
	}
	err = l.each(ctx, tree.Size(), func(_ uint64, rec []byte) error {
		tree.Append(audit.LeafHash(rec))
		return check()
	})
	if err != nil {
		return err
	}
	if tree.Size() != l.head.Size() || tree.Root() != l.head.Root() {
		return fmt.Errorf("%w: %d records hash to %s, the stored tree is %d and %s (%s)",
			ErrCorrupt, tree.Size(), tree.Root(), l.head.Size(), l.head.Root(), l.cfg.Origin)
	}
	l.persisted = cp.Size
	return nil
}

// claim binds the directory to the origin on first use.
func (l *Log) claim() error {
	return l.db.Update(func(txn *badger.Txn) error {
		item, err := txn.Get(originKey)
		if errors.Is(err, badger.ErrKeyNotFound) {
			return txn.Set(originKey, []byte(l.cfg.Origin))
		}
		if err != nil {
			return fmt.Errorf("reading the origin: %w", err)
		}
		have, err := item.ValueCopy(nil)
		if err == nil && string(have) != l.cfg.Origin {
			err = fmt.Errorf("%s holds the log of %s, not of %s", l.cfg.Dir, have, l.cfg.Origin)
		}
		return err
	})
}

func (l *Log) loadTrees() error {
	return l.db.View(func(txn *badger.Txn) (err error) {
		if l.head, err = readTree(txn, headKey); err != nil {
			return err
		}
		if l.trimmed, err = readTree(txn, trimmedKey); err != nil {
			return err
		}
		if l.acked, err = l.readAcked(txn); err != nil {
			return err
		}
		if t, a, h := l.trimmed.Size(), l.acked.tree.Size(), l.head.Size(); t > a || a > h {
			return fmt.Errorf("%w: trimmed to %d, acknowledged to %d, size %d (%s)", ErrCorrupt, t, a, h, l.cfg.Origin)
		}
		l.shipped = l.acked.tree.Clone()
		return nil
	})
}

func readTree(txn *badger.Txn, key []byte) (audit.Tree, error) {
	item, err := txn.Get(key)
	if errors.Is(err, badger.ErrKeyNotFound) {
		return audit.Tree{}, nil
	}
	var tree audit.Tree
	if err == nil {
		err = item.Value(func(v []byte) (err error) {
			tree, err = audit.UnmarshalTree(v)
			return err
		})
	}
	if err != nil {
		return audit.Tree{}, fmt.Errorf("%w: reading %s: %w", ErrCorrupt, key, err)
	}
	return tree, nil
}

// readAcked reads the acknowledgement and checks it by our own signature in it.
// The coordinator's was checked when it came; its key may have changed since.
func (l *Log) readAcked(txn *badger.Txn) (a acked, err error) {
	item, err := txn.Get(ackedKey)
	if errors.Is(err, badger.ErrKeyNotFound) {
		return acked{}, nil
	}
	var v []byte
	if err == nil {
		v, err = item.ValueCopy(nil)
	}
	if err == nil && len(v) < 4 {
		err = errors.New("too short")
	}
	if err == nil {
		n := uint64(binary.BigEndian.Uint32(v))
		if v = v[4:]; n > uint64(len(v)) {
			err = errors.New("too short")
		} else if a.tree, err = audit.UnmarshalTree(v[:n]); err == nil {
			a.signed = v[n:]
			var cp audit.Checkpoint
			if cp, err = l.verifier.Open(a.signed); err == nil && (cp.Size != a.tree.Size() || cp.Root != a.tree.Root()) {
				err = errors.New("it is of another tree")
			}
		}
	}
	if err != nil {
		return acked{}, fmt.Errorf("%w: reading the acknowledgement of %s: %w", ErrCorrupt, l.cfg.Origin, err)
	}
	return a, nil
}

func (l *Log) checkpointPath() string { return filepath.Join(l.cfg.Dir, "checkpoint") }

// readCheckpoint reads the checkpoint kept outside Badger, and signs that of the
// empty log before the first record. Nothing is ever recorded without one.
func (l *Log) readCheckpoint() (audit.Checkpoint, error) {
	b, err := os.ReadFile(l.checkpointPath())
	if errors.Is(err, fs.ErrNotExist) && l.head.Size() == 0 {
		var signed []byte
		if signed, err = l.signer.Sign(&l.head); err == nil {
			err = pki.WriteFile(l.checkpointPath(), signed)
		}
		if err != nil {
			return audit.Checkpoint{}, fmt.Errorf("storing the first checkpoint: %w", err)
		}
		b = signed
	}
	if errors.Is(err, fs.ErrNotExist) {
		return audit.Checkpoint{}, fmt.Errorf("%w: %d records but no checkpoint file %s", ErrCorrupt, l.head.Size(), l.checkpointPath())
	}
	if err != nil {
		return audit.Checkpoint{}, fmt.Errorf("reading the checkpoint: %w", err)
	}
	cp, err := l.verifier.Open(b)
	if err != nil {
		return audit.Checkpoint{}, fmt.Errorf("%w: %s: %w", ErrCorrupt, l.checkpointPath(), err)
	}
	return cp, nil
}
