package store

import (
	"encoding/json"
	"fmt"
)

// PutJSON writes a small record as JSON.
func PutJSON(tx Txn, key string, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encoding a record: %w", err)
	}
	tx.Put(key, b)
	return nil
}

// GetJSON reads what PutJSON wrote into v, and says whether there was anything.
func GetJSON(r Reader, key string, v any) (bool, error) {
	it, err := r.Get(key)
	if err != nil || it == nil {
		return false, err
	}
	if err := json.Unmarshal(it.Value, v); err != nil {
		return false, fmt.Errorf("decoding a record: %w", err)
	}
	return true, nil
}
