package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

func openTest(t *testing.T, cfg Config) *Badger {
	t.Helper()
	if cfg.Dir == "" {
		cfg.Dir = t.TempDir()
	}
	s, err := NewBadger(t.Context(), cfg)
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

func put(t *testing.T, s Store, key, value string) uint64 {
	t.Helper()
	rev, err := s.Update(t.Context(), func(tx Txn) error { tx.Put(key, []byte(value)); return nil })
	if err != nil {
		t.Fatal(err)
	}
	return rev
}

// dump reads everything: key → value@revision.
func dump(t *testing.T, s Store) (uint64, map[string]string) {
	t.Helper()
	var rev uint64
	got := make(map[string]string)
	err := s.View(t.Context(), func(r Reader) error {
		rev = r.Revision()
		last := ""
		return r.List("", func(it Item) error {
			if it.Key <= last {
				return fmt.Errorf("%q after %q", it.Key, last)
			}
			last = it.Key
			got[it.Key] = fmt.Sprintf("%s@%d", it.Value, it.Revision)
			return nil
		})
	})
	if err != nil {
		t.Fatal(err)
	}
	return rev, got
}

// TestBehavesLikeAMap runs random transactions, some of which fail, against the
// store and a map, with reopenings in between.
func TestBehavesLikeAMap(t *testing.T) {
	for seed := range uint64(4) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		dir := t.TempDir()
		s, err := NewBadger(t.Context(), Config{Dir: dir})
		if err != nil {
			t.Fatal(err)
		}
		model := make(map[string]string) // key → value@revision
		var revision uint64
		fail := errors.New("on purpose")
		for step := range 120 {
			next := make(map[string]string)
			for k, v := range model {
				next[k] = v
			}
			wrote, failing := false, rnd.IntN(5) == 0
			rev, err := s.Update(t.Context(), func(tx Txn) error {
				if tx.Revision() != revision {
					t.Errorf("seed %d step %d: transaction at revision %d, want %d", seed, step, tx.Revision(), revision)
				}
				for range rnd.IntN(6) {
					key := fmt.Sprintf("k/%d", rnd.IntN(12))
					it, err := tx.Get(key)
					if err != nil {
						return err
					}
					if _, there := next[key]; there != (it != nil) {
						t.Errorf("seed %d step %d: %s there: %v, want %v", seed, step, key, it != nil, there)
					}
					switch rnd.IntN(3) {
					case 0:
						if it != nil {
							wrote = true
						}
						tx.Delete(key)
						delete(next, key)
					default:
						v := fmt.Sprint(rnd.IntN(1000))
						tx.Put(key, []byte(v))
						next[key] = fmt.Sprintf("%s@%d", v, revision+1)
						wrote = true
					}
					seen := 0
					if err := tx.List("k/", func(Item) error { seen++; return nil }); err != nil {
						return err
					}
					if seen != len(next) {
						t.Errorf("seed %d step %d: transaction lists %d keys, want %d", seed, step, seen, len(next))
					}
				}
				if failing {
					return fail
				}
				return nil
			})
			switch {
			case failing:
				if err != fail {
					t.Fatalf("error %v, want the function's own", err)
				}
			case err != nil:
				t.Fatal(err)
			default:
				// Writing and deleting one key in one transaction may leave
				// nothing to commit; the store decides, the model follows.
				if rev == revision+1 && wrote {
					revision++
					model = next
				} else if rev != revision || !equal(model, next) {
					t.Fatalf("seed %d step %d: revision %d after %d, wrote %v", seed, step, rev, revision, wrote)
				}
			}
			if step%40 == 39 {
				if err := s.Close(); err != nil {
					t.Fatal(err)
				}
				if s, err = NewBadger(t.Context(), Config{Dir: dir}); err != nil {
					t.Fatal(err)
				}
			}
			if rev, got := dump(t, s); rev != revision || !equal(got, model) {
				t.Fatalf("seed %d step %d: store is at %d with %v, want %d with %v", seed, step, rev, got, revision, model)
			}
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func equal(a, b map[string]string) bool {
	if len(a) != len(b) {
		return false
	}
	for k, v := range a {
		if b[k] != v {
			return false
		}
	}
	return true
}

// TestWatchDeliversEveryCommitOnceInOrder has writers race on one counter while
// watchers, one of them slow, follow from different revisions.
func TestWatchDeliversEveryCommitOnceInOrder(t *testing.T) {
	s := openTest(t, Config{})
	const writers, each = 8, 50
	start := put(t, s, "counter", "\x00")
	var group sync.WaitGroup
	for range writers {
		group.Go(func() {
			for range each {
				_, err := s.Update(t.Context(), func(tx Txn) error {
					it, err := tx.Get("counter")
					if err != nil {
						return err
					}
					n := int(it.Value[0])
					if len(it.Value) > 1 {
						n += int(it.Value[1]) << 8
					}
					n++
					tx.Put("counter", []byte{byte(n), byte(n >> 8)})
					return nil
				})
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	for w := range 3 {
		group.Go(func() {
			ctx, stop := context.WithTimeout(t.Context(), time.Minute)
			defer stop()
			watch := s.Watch(ctx, start)
			for want := start + 1; want <= start+writers*each; want++ {
				c, ok := <-watch.Commits()
				if !ok {
					t.Errorf("watch %d ended before revision %d: %v", w, want, watch.Err())
					return
				}
				n := want - start
				if c.Revision != want || len(c.Changes) != 1 || !bytes.Equal(c.Changes[0].Value, []byte{byte(n), byte(n >> 8)}) {
					t.Errorf("watch %d got %v, want revision %d with count %d", w, c, want, n)
					return
				}
			}
			stop()
			if c, ok := <-watch.Commits(); ok {
				t.Errorf("watch %d got %v after the last commit", w, c)
			}
		})
	}
	group.Wait()
}

func TestWatchShowsDeletionsExactly(t *testing.T) {
	s := openTest(t, Config{})
	put(t, s, "a", "1")
	put(t, s, "b", "")
	from, _ := dump(t, s)
	watch := s.Watch(t.Context(), from)
	if _, err := s.Update(t.Context(), func(tx Txn) error {
		tx.Delete("a")
		tx.Delete("never-there")
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	c := <-watch.Commits()
	if len(c.Changes) != 1 || c.Changes[0].Key != "a" || c.Changes[0].Value != nil {
		t.Errorf("got %v, want the deletion of a alone", c)
	}
	if _, got := dump(t, s); len(got) != 1 || got["b"] != "@2" {
		t.Errorf("left: %v, want the empty value of b", got)
	}
}

func TestCompactedWatchSaysSo(t *testing.T) {
	dir := t.TempDir()
	s, err := NewBadger(t.Context(), Config{Dir: dir, KeepCommits: 3})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 5 {
		put(t, s, "k", fmt.Sprint(i))
	}
	kept := s.Watch(t.Context(), 2)
	for want := uint64(3); want <= 5; want++ {
		if c := <-kept.Commits(); c.Revision != want {
			t.Errorf("got revision %d, want %d", c.Revision, want)
		}
	}
	for _, from := range []uint64{0, 1, 6} { // 6 never was: the data went back
		w := s.Watch(t.Context(), from)
		if c, ok := <-w.Commits(); ok || !errors.Is(w.Err(), ErrCompacted) {
			t.Errorf("watch from %d: got %v and %v, want ErrCompacted", from, c, w.Err())
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if _, ok := <-kept.Commits(); ok || !errors.Is(kept.Err(), ErrClosed) {
		t.Errorf("after Close a watch says %v, want ErrClosed", kept.Err())
	}
	if _, err := s.Update(t.Context(), func(Txn) error { return nil }); !errors.Is(err, ErrClosed) {
		t.Errorf("Update after Close: %v, want ErrClosed", err)
	}
}

func TestLockedDirectoryIsNamed(t *testing.T) {
	dir := t.TempDir()
	openTest(t, Config{Dir: dir})
	_, err := NewBadger(t.Context(), Config{Dir: dir})
	if !errors.Is(err, ErrLocked) || !strings.Contains(err.Error(), dir) {
		t.Errorf("opening a held directory: %v, want ErrLocked and %s", err, dir)
	}
}

func TestPanicInUpdateIsTheCallersAndWritesNothing(t *testing.T) {
	s := openTest(t, Config{})
	func() {
		defer func() {
			if recover() != "boom" {
				t.Error("the panic did not reach the caller")
			}
		}()
		s.Update(t.Context(), func(tx Txn) error { tx.Put("k", nil); panic("boom") })
	}()
	put(t, s, "after", "1")
	if _, got := dump(t, s); len(got) != 1 {
		t.Errorf("the store holds %v", got)
	}
}

func TestTooBigUpdateIsRefusedWhole(t *testing.T) {
	s := openTest(t, Config{})
	for name, f := range map[string]func(Txn){
		"value": func(tx Txn) { tx.Put("small", nil); tx.Put("k", make([]byte, maxValue+1)) },
		"sum": func(tx Txn) {
			for i := range 4 {
				tx.Put(fmt.Sprint(i), make([]byte, maxValue))
			}
		},
		"keys": func(tx Txn) {
			for i := range maxEntries + 1 {
				tx.Put(fmt.Sprint(i), nil)
			}
		},
		"key": func(tx Txn) { tx.Put(strings.Repeat("k", maxKey+1), nil) },
	} {
		if _, err := s.Update(t.Context(), func(tx Txn) error { f(tx); return nil }); !errors.Is(err, ErrTooBig) {
			t.Errorf("%s: %v, want ErrTooBig", name, err)
		}
	}
	// The largest that is taken, from several writers at once.
	var group sync.WaitGroup
	for i := range 6 {
		group.Go(func() {
			_, err := s.Update(t.Context(), func(tx Txn) error {
				tx.Put(fmt.Sprint("big", i), bytes.Repeat([]byte{byte(i)}, maxValue))
				return nil
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	if rev, got := dump(t, s); rev != 6 || len(got) != 6 {
		t.Errorf("revision %d with %d keys, want 6 and 6", rev, len(got))
	}
}

func TestFullDiskIsRefusedBeforeItHurts(t *testing.T) {
	s := openTest(t, Config{MinFree: 1 << 62})
	if _, err := s.Update(t.Context(), func(tx Txn) error { tx.Put("k", nil); return nil }); !errors.Is(err, ErrNoRoom) {
		t.Errorf("got %v, want ErrNoRoom", err)
	}
	select {
	case <-s.Failed():
		t.Error("a full disk broke the store for good")
	default:
	}
}

// TestFailedCommitBreaksTheStore makes a commit fail at its last step: nothing
// is acknowledged or tried again, and everyone who waits for the store learns of
// it.
func TestFailedCommitBreaksTheStore(t *testing.T) {
	s, err := NewBadger(t.Context(), Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	put(t, s, "k", "1")
	s.mark.f.Close() // the last step of a commit fails
	watch := s.Watch(t.Context(), 1)
	write := func(tx Txn) error { tx.Put("k", []byte("2")); return nil }
	if _, err := s.Update(t.Context(), write); err == nil {
		t.Fatal("an update was acknowledged though its commit failed")
	}
	select {
	case <-s.Failed():
	default:
		t.Error("Failed was not closed")
	}
	if c, ok := <-watch.Commits(); ok || watch.Err() == nil {
		t.Errorf("a watch of the failed store got %v and %v", c, watch.Err())
	}
	called := false
	if _, err := s.Update(t.Context(), func(Txn) error { called = true; return nil }); err == nil || called {
		t.Errorf("an update after the failure: %v, called %v", err, called)
	}
	s.Close() //nolint:errcheck // the watermark is closed already
}

func TestEmptyLogFilesOfAKillAreRemoved(t *testing.T) {
	dir := t.TempDir()
	s, err := NewBadger(t.Context(), Config{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	put(t, s, "k", "1")
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"00099.mem", "000099.vlog"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if _, got := dump(t, openTest(t, Config{Dir: dir})); got["k"] != "1@1" {
		t.Errorf("the store holds %v", got)
	}
}

func TestDirectoryIsTheOwnersAlone(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	openTest(t, Config{Dir: dir})
	info, err := os.Stat(dir)
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode().Perm() != 0o700 {
		t.Errorf("mode %v, want 0700", info.Mode().Perm())
	}
}

// TestDamagedDataIsNotOpened flips one bit in the write-ahead log, at places
// all over it: either the damage is harmless (everything is still there) or the
// store refuses to open; it never opens with less.
func TestDamagedDataIsNotOpened(t *testing.T) {
	dir := t.TempDir()
	s, err := NewBadger(t.Context(), Config{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 40 {
		put(t, s, fmt.Sprintf("user/%02d", i), strings.Repeat("x", 50))
	}
	_, want := dump(t, s)
	// What a kill leaves: the directory as it is while the store runs.
	image := make(map[string][]byte)
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var wal string
	for _, e := range entries {
		b, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasSuffix(e.Name(), ".mem") {
			wal = e.Name()
			b = bytes.TrimRight(b, "\x00")
			b = append(b, make([]byte, 4096)...)
		}
		if strings.HasSuffix(e.Name(), ".vlog") {
			b = b[:min(len(b), 4096)]
		}
		image[e.Name()] = b
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	used := len(bytes.TrimRight(image[wal], "\x00"))
	refused := 0
	for at := 25; at < used; at += used / 23 {
		hurt := t.TempDir()
		for name, b := range image {
			if name == wal {
				b = slices.Clone(b)
				b[at] ^= 0x10
			}
			if err := os.WriteFile(filepath.Join(hurt, name), b, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		s, err := NewBadger(t.Context(), Config{Dir: hurt})
		if err != nil {
			refused++
			continue
		}
		if _, got := dump(t, s); !equal(got, want) {
			t.Errorf("bit at %d flipped: opened with %d of %d keys", at, len(got), len(want))
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
	if refused == 0 {
		t.Error("no flipped bit was noticed: the test damages nothing")
	}
}
