//go:build !linux

package store

import "math"

// networkFileSystem cannot tell here.
func networkFileSystem(string) (string, error) { return "", nil }

// freeSpace cannot tell here.
func freeSpace(string) (uint64, error) { return math.MaxUint64, nil }
