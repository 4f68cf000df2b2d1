package store

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"
)

// TestMain lets the test binary be the process that is killed.
func TestMain(m *testing.M) {
	if dir := os.Getenv("STORE_TEST_WRITE_UNTIL_KILLED"); dir != "" {
		writeUntilKilled(dir)
	}
	os.Exit(m.Run())
}

// writeUntilKilled prints a key when, and only when, it is acknowledged.
func writeUntilKilled(dir string) {
	ctx := context.Background()
	s, err := NewBadger(ctx, Config{Dir: dir})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	round := fmt.Sprint(time.Now().UnixNano())
	var mu sync.Mutex // keeps lines whole
	for w := range 4 {
		go func() {
			for i := 0; ; i++ {
				key := fmt.Sprintf("%s/%d/%06d", round, w, i)
				rev, err := s.Update(ctx, func(tx Txn) error {
					tx.Put(key, []byte(strings.Repeat(key, 10)))
					if i > 0 && i%3 == 0 {
						tx.Delete(fmt.Sprintf("%s/%d/%06d", round, w, i-1))
					}
					return nil
				})
				if err != nil {
					fmt.Fprintln(os.Stderr, err)
					os.Exit(1)
				}
				mu.Lock()
				fmt.Println(rev, key)
				mu.Unlock()
			}
		}()
	}
	select {}
}

// TestKillLosesNothingAcknowledged kills a writing process with SIGKILL again
// and again, and looks for every key it said was committed.
func TestKillLosesNothingAcknowledged(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	want := make(map[string]string) // key → value@revision
	var last uint64
	for round := range 6 {
		cmd := exec.Command(self)
		cmd.Env = append(os.Environ(), "STORE_TEST_WRITE_UNTIL_KILLED="+dir)
		cmd.Stderr = os.Stderr
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines, enough := bufio.NewScanner(out), 150+70*round
		for n := 0; lines.Scan(); n++ {
			if n == enough {
				if err := cmd.Process.Kill(); err != nil {
					t.Fatal(err)
				}
			}
			var rev uint64
			var key string
			if _, err := fmt.Sscan(lines.Text(), &rev, &key); err != nil {
				break // the line that the kill cut
			}
			last = max(last, rev)
			want[key] = fmt.Sprintf("%s@%d", strings.Repeat(key, 10), rev)
			var i int
			prefix := key[:strings.LastIndex(key, "/")+1]
			if _, err := fmt.Sscanf(key[len(prefix):], "%d", &i); err != nil {
				t.Fatal(err)
			}
			if i > 0 && i%3 == 0 {
				delete(want, fmt.Sprintf("%s%06d", prefix, i-1))
			}
		}
		cmd.Wait() //nolint:errcheck // it was killed

		s, err := NewBadger(t.Context(), Config{Dir: dir})
		if err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		rev, got := dump(t, s)
		if rev < last {
			t.Errorf("round %d: at revision %d, %d was acknowledged", round, rev, last)
		}
		for key, v := range want {
			// What was committed but not yet acknowledged may have deleted it.
			if got[key] != v && !deletedByNext(got, key) {
				t.Errorf("round %d: lost %s: %q, want %q", round, key, got[key], v)
			}
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		want = got // what is there now was committed
	}
}

func deletedByNext(got map[string]string, key string) bool {
	prefix := key[:strings.LastIndex(key, "/")+1]
	var i int
	fmt.Sscanf(key[len(prefix):], "%d", &i) //nolint:errcheck // checked above
	_, next := got[fmt.Sprintf("%s%06d", prefix, i+1)]
	return (i+1)%3 == 0 && next
}
