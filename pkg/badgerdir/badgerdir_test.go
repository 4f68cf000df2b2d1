package badgerdir

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/dgraph-io/badger/v4"
)

func TestEmptyFilesOfACrashAreRemoved(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"00001.mem", "000001.vlog"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	keep := filepath.Join(dir, "keep")
	if err := os.WriteFile(keep, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	db, err := Open(Profile(dir), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err := os.Stat(keep); err != nil {
		t.Errorf("a file that is not Badger's went too: %v", err)
	}
}

func TestSecondHolderIsToldTheDirectory(t *testing.T) {
	dir := t.TempDir()
	db, err := Open(Profile(dir), nil)
	if err != nil {
		t.Fatal(err)
	}
	// What a live process has just made must survive a second one's attempt.
	live := filepath.Join(dir, "99999.mem")
	if err := os.WriteFile(live, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	_, err = Open(Profile(dir), nil)
	if !errors.Is(err, ErrLocked) || !strings.Contains(err.Error(), dir) {
		t.Errorf("second Open: %v", err)
	}
	if _, err := os.Stat(live); err != nil {
		t.Errorf("the second holder removed a file of the first: %v", err)
	}
	os.Remove(live)
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	db, err = Open(Profile(dir), nil)
	if err != nil {
		t.Fatalf("after the first let go: %v", err)
	}
	db.Close()
}

func TestProfileKeepsLargestValueOutOfTheValueLog(t *testing.T) {
	dir := t.TempDir()
	db, err := Open(Profile(dir), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if err := db.Update(func(txn *badger.Txn) error { return txn.Set([]byte("k"), make([]byte, MaxValue-1)) }); err != nil {
		t.Fatal(err)
	}
	if got := Profile(dir).ValueThreshold; got != MaxValue {
		t.Errorf("value threshold %d", got)
	}
	if !Profile(dir).SyncWrites {
		t.Error("writes are not synced")
	}
}
