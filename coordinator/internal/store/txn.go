package store

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// txn is one update: it reads what was committed, with its own writes on top.
type txn struct {
	reader
	writes map[string][]byte // nil is a deletion
	size   int
	err    error // the first write that cannot be
}

func (t *txn) Get(key string) (*Item, error) {
	if v, ok := t.writes[key]; ok {
		if v == nil {
			return nil, nil
		}
		return &Item{key, v, t.revision + 1}, nil
	}
	return t.reader.Get(key)
}

// List merges, as both sides are in byte order.
func (t *txn) List(prefix string, f func(Item) error) error {
	stored, err := collect(t.txn, dataPrefix+prefix)
	if err != nil {
		return err
	}
	var own []string
	for key := range maps.Keys(t.writes) {
		if strings.HasPrefix(key, prefix) {
			own = append(own, key)
		}
	}
	slices.Sort(own)
	var merged []Item
	for len(stored) > 0 || len(own) > 0 {
		if len(own) == 0 || len(stored) > 0 && stored[0].Key < own[0] {
			merged, stored = append(merged, stored[0]), stored[1:]
			continue
		}
		if len(stored) > 0 && stored[0].Key == own[0] {
			stored = stored[1:]
		}
		if v := t.writes[own[0]]; v != nil {
			merged = append(merged, Item{own[0], v, t.revision + 1})
		}
		own = own[1:]
	}
	for _, it := range merged {
		if err := f(it); err != nil {
			return err
		}
	}
	return nil
}

func (t *txn) Put(key string, value []byte) {
	if len(value) > maxValue {
		t.fail(fmt.Errorf("%w: value of key %q has %d bytes, the limit is %d", ErrTooBig, key, len(value), maxValue))
		return
	}
	// A copy, and never nil: nil means a deletion.
	t.write(key, append(make([]byte, 0, len(value)), value...))
}

func (t *txn) Delete(key string) { t.write(key, nil) }

func (t *txn) write(key string, value []byte) {
	if key == "" || len(key) > maxKey {
		t.fail(fmt.Errorf("%w: a key has %d bytes, 1 to %d are allowed", ErrTooBig, len(key), maxKey))
		return
	}
	if old, ok := t.writes[key]; ok {
		t.size -= len(key) + len(old) + entryOverhead
	}
	t.writes[key] = value
	t.size += len(key) + len(value) + entryOverhead
	if t.size > maxUpdate {
		t.fail(fmt.Errorf("%w: more than %d bytes", ErrTooBig, maxUpdate))
	}
}

func (t *txn) fail(err error) {
	if t.err == nil {
		t.err = err
	}
}
