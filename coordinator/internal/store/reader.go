package store

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"

	"github.com/dgraph-io/badger/v4"
)

// reader reads a Badger transaction.
type reader struct {
	txn      *badger.Txn
	revision uint64
}

func (r reader) Revision() uint64 { return r.revision }

func (r reader) Get(key string) (*Item, error) {
	b, err := r.txn.Get([]byte(dataPrefix + key))
	if errors.Is(err, badger.ErrKeyNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading store: %w", err)
	}
	it, err := decode(b)
	if err != nil {
		return nil, err
	}
	return &it, nil
}

func (r reader) List(prefix string, f func(Item) error) error {
	return iterate(r.txn, dataPrefix+prefix, f)
}

// iterate reads every item first and calls f afterwards: f may then list again,
// which Badger does not allow inside a writing transaction's iteration.
func iterate(txn *badger.Txn, prefix string, f func(Item) error) error {
	items, err := collect(txn, prefix)
	if err != nil {
		return err
	}
	for _, it := range items {
		if err := f(it); err != nil {
			return err
		}
	}
	return nil
}

func collect(txn *badger.Txn, prefix string) ([]Item, error) {
	opts := badger.DefaultIteratorOptions
	opts.Prefix = []byte(prefix)
	opts.PrefetchValues = false // the values are in the tree
	cur := txn.NewIterator(opts)
	defer cur.Close()
	var items []Item
	for cur.Rewind(); cur.Valid(); cur.Next() {
		it, err := decode(cur.Item())
		if err != nil {
			return nil, err
		}
		items = append(items, it)
	}
	return items, nil
}

func decode(b *badger.Item) (Item, error) {
	key := strings.TrimPrefix(string(b.Key()), dataPrefix)
	v, err := b.ValueCopy(nil)
	if err != nil {
		return Item{}, fmt.Errorf("reading store: %w", err)
	}
	if len(v) < 8 {
		return Item{}, fmt.Errorf("reading store: the record of key %q is damaged", key)
	}
	return Item{Key: key, Value: v[8:], Revision: binary.BigEndian.Uint64(v)}, nil
}
