// Package storetest opens real stores for other packages' tests.
package storetest

import (
	"testing"

	"github.com/sallyport-mesh/sallyport/coordinator/internal/store"
)

// New opens a Badger store in a directory of the test's own; it is closed when
// the test ends.
func New(t testing.TB) store.Store {
	t.Helper()
	s, err := store.NewBadger(t.Context(), store.Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}
