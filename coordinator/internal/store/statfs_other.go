//go:build !linux

package store

import "math"

// freeSpace cannot tell here.
func freeSpace(string) (uint64, error) { return math.MaxUint64, nil }
