package auditlog

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/dgraph-io/badger/v4"

	"github.com/sallyport-mesh/sallyport/pkg/audit"
	"github.com/sallyport-mesh/sallyport/pkg/badgerdir"
)

const origin = "mesh.example/agents/agt-aaaaaaaaaaaaaaaa/0"

// bench holds the keys of one agent and one coordinator.
type bench struct {
	Config
	verifier *audit.Verifier
	cosigner *audit.Cosigner
}

func newBench(t testing.TB) *bench {
	t.Helper()
	skey, vkey, err := audit.NewKey("sallyport-agent")
	if err != nil {
		t.Fatal(err)
	}
	cskey, cvkey, err := audit.NewKey("mesh.example/coordinator")
	if err != nil {
		t.Fatal(err)
	}
	v, err := audit.NewVerifier(vkey, origin)
	if err != nil {
		t.Fatal(err)
	}
	c, err := audit.NewCosigner(cskey)
	if err != nil {
		t.Fatal(err)
	}
	return &bench{
		Config{Dir: t.TempDir(), Origin: origin, Key: skey, Cosigner: cvkey, reserve: 1 << 20, refusalWindow: 20 * time.Millisecond},
		v, c,
	}
}

func (b *bench) open(t testing.TB) *Log {
	t.Helper()
	l, err := Open(t.Context(), b.Config)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func (b *bench) acknowledge(t testing.TB, l *Log, size uint64) {
	t.Helper()
	signed, err := l.Checkpoint(size)
	if err != nil {
		t.Fatal(err)
	}
	both, err := b.cosigner.Cosign(b.verifier, signed)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Acknowledge(both); err != nil {
		t.Fatal(err)
	}
}

func closeLog(t testing.TB, l *Log) {
	t.Helper()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
}

func intent(id string) *audit.Event {
	return &audit.Event{
		AuditID: id, Stage: audit.StageReceived, Verb: "get", RequestURI: "/api/v1/namespaces/default/pods/web-0",
		User:                     audit.User{Username: "shivam", UID: "usr-k3v5n2q7a4x6b2zt", Groups: []string{"aws-members"}},
		ObjectRef:                &audit.ObjectRef{Resource: "pods", Namespace: "default", Name: "web-0", APIVersion: "v1"},
		RequestReceivedTimestamp: audit.Now(), StageTimestamp: audit.Now(),
		Ext: audit.Ext{Kind: audit.KindRequest, Cluster: "edge-1", Device: "dev-k3v5n2q7a4x6b2zt", Decision: audit.Allow},
	}
}

func outcome(id string) *audit.Event {
	e := intent(id)
	e.Stage, e.ResponseStatus = audit.StageComplete, &audit.Status{Code: 200}
	return e
}

func refused(id, reason string) *audit.Event {
	e := intent(id)
	e.Stage, e.ResponseStatus = audit.StageComplete, &audit.Status{Code: 403}
	e.Ext.Decision, e.Ext.Reason = audit.Deny, reason
	return e
}

func record(t testing.TB, l *Log, id string) {
	t.Helper()
	if err := l.Intent(t.Context(), intent(id)); err != nil {
		t.Fatal(err)
	}
}

// events are all records from position from on, decoded.
func events(t testing.TB, l *Log, from uint64) []*audit.Event {
	t.Helper()
	recs, err := l.Read(from, 1<<30)
	if err != nil {
		t.Fatal(err)
	}
	out := make([]*audit.Event, len(recs))
	for i, r := range recs {
		if out[i], err = audit.Decode(r); err != nil {
			t.Fatal(err)
		}
	}
	return out
}

// eventually waits for a condition that a log's commits bring about.
func eventually(t testing.TB, l *Log, what string, ok func() bool) {
	t.Helper()
	deadline := time.NewTimer(20 * time.Second)
	defer deadline.Stop()
	for {
		changed := l.Changed()
		if ok() {
			return
		}
		select {
		case <-changed:
		case <-deadline.C:
			t.Fatalf("never happened: %s", what)
		}
	}
}

func TestIntentIsOnDiskWhenItReturns(t *testing.T) {
	b := newBench(t)
	l := b.open(t)
	var wg sync.WaitGroup
	for w := range 16 {
		wg.Go(func() {
			for i := range 25 {
				id := fmt.Sprintf("%d-%d", w, i)
				if err := l.Intent(t.Context(), intent(id)); err != nil {
					t.Error(err)
					return
				}
				recs, err := l.Read(0, 1<<30)
				if err != nil {
					t.Error(err)
				}
				if !bytes.Contains(bytes.Join(recs, nil), []byte(`"auditID":"`+id+`"`)) {
					t.Errorf("%s is not there", id)
				}
			}
		})
	}
	wg.Wait()
	if l.Size() != 400 {
		t.Errorf("size %d", l.Size())
	}
	closeLog(t, l)
	l = b.open(t)
	defer closeLog(t, l)
	if got := len(events(t, l, 0)); got != 400 || l.Size() != 400 {
		t.Errorf("%d records after a restart", got)
	}
}

func TestOutcomeIsWrittenWithoutFurtherTraffic(t *testing.T) {
	l := newBench(t).open(t)
	defer closeLog(t, l)
	record(t, l, "a")
	l.Outcome(outcome("a"))
	eventually(t, l, "the outcome", func() bool { return l.Size() == 2 })
	if e := events(t, l, 1)[0]; e.Stage != audit.StageComplete || e.AuditID != "a" {
		t.Errorf("%+v", e)
	}
}

func TestOutcomesAreWrittenByClose(t *testing.T) {
	b := newBench(t)
	l := b.open(t)
	for i := range 2000 {
		l.Outcome(outcome(fmt.Sprint(i)))
	}
	l.Outcome(refused("r", "no grant"))
	closeLog(t, l)
	l = b.open(t)
	defer closeLog(t, l)
	if l.Size() != 2001 {
		t.Errorf("size %d", l.Size())
	}
	if err := l.Intent(t.Context(), intent("x")); err != nil {
		t.Error(err)
	}
}

func TestClosedLogRefuses(t *testing.T) {
	l := newBench(t).open(t)
	closeLog(t, l)
	if err := l.Intent(t.Context(), intent("a")); !errors.Is(err, ErrClosed) {
		t.Error(err)
	}
	l.Outcome(outcome("a"))      // does not hang
	l.Outcome(refused("a", "x")) // nor this
}

// TestLargestRecordsOfManyClientsCommit lets more wait at once than any one
// transaction of Badger's would take.
func TestLargestRecordsOfManyClientsCommit(t *testing.T) {
	b := newBench(t)
	hold := make(chan struct{})
	b.commit = func(txn *badger.Txn) error { <-hold; return txn.Commit() }
	l := b.open(t)
	defer closeLog(t, l)
	largest := intent("largest")
	largest.Ext.Command = []string{strings.Repeat("a", 4000), strings.Repeat("b", 4000), strings.Repeat("c", 4000), strings.Repeat("d", 3500)}
	if n := len(audit.Encode(largest)); n < 15<<10 {
		t.Fatalf("only %d bytes", n)
	}
	var wg sync.WaitGroup
	for range 100 {
		wg.Go(func() {
			if err := l.Intent(t.Context(), largest); err != nil {
				t.Error(err)
			}
		})
	}
	for len(l.queue) < 60 { // 900 KiB, behind the one that is held
		runtime.Gosched()
	}
	close(hold)
	wg.Wait()
	if l.Size() != 100 {
		t.Errorf("size %d", l.Size())
	}
}

func TestFullDiskMeansNoAccessAndComesBack(t *testing.T) {
	b := newBench(t)
	var free atomic.Uint64
	free.Store(1 << 30)
	b.free = func(string) (uint64, error) { return free.Load(), nil }
	l := b.open(t)
	defer closeLog(t, l)
	ballast := filepath.Join(b.Dir, "ballast")
	if info, err := os.Stat(ballast); err != nil || info.Size() != 1<<20 {
		t.Fatalf("no ballast: %v", err)
	}
	record(t, l, "a")

	free.Store(60 << 20)
	if err := l.Intent(t.Context(), intent("b")); !errors.Is(err, ErrDiskFull) || !strings.Contains(err.Error(), "60 MiB free") {
		t.Errorf("with 60 MiB free: %v", err)
	}
	if _, err := os.Stat(ballast); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the ballast is still there: %v", err)
	}
	l.Outcome(outcome("a"))
	eventually(t, l, "the outcome of what ran already", func() bool { return l.Size() == 2 })

	free.Store(1 << 20)
	l.Outcome(outcome("c"))
	if err := l.Intent(t.Context(), intent("d")); !errors.Is(err, ErrDiskFull) {
		t.Errorf("with 1 MiB free: %v", err)
	}
	if l.Size() != 2 {
		t.Errorf("written with 1 MiB free")
	}

	free.Store(64<<20 + 1<<19) // above the bound, but the ballast would not fit
	if err := l.Intent(t.Context(), intent("e")); !errors.Is(err, ErrDiskFull) {
		t.Errorf("just above the bound: %v", err)
	}
	free.Store(1 << 30)
	record(t, l, "f")
	eventually(t, l, "the outcome that waited for room", func() bool { return l.Size() == 4 })
	if _, err := os.Stat(ballast); err != nil {
		t.Error("the ballast is not back")
	}
	if err := l.Err(); err != nil {
		t.Error(err)
	}
	b.free = func(string) (uint64, error) { return 0, errors.New("statfs failed") }
	l.disk.free = b.free
	if err := l.Intent(t.Context(), intent("g")); !errors.Is(err, ErrDiskFull) {
		t.Errorf("free space unknown: %v", err)
	}
	l.disk.free = func(string) (uint64, error) { return 1 << 30, nil }
}

func TestCommitErrorIsFinal(t *testing.T) {
	for name, c := range map[string]struct {
		commit func(*badger.Txn) error
		size   uint64 // what the next start finds
	}{
		"failed":                      {func(*badger.Txn) error { return syscall.EIO }, 1},
		"failed, but it had happened": {func(txn *badger.Txn) error { return errors.Join(txn.Commit(), syscall.EIO) }, 2},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			var broken atomic.Bool
			b.commit = func(txn *badger.Txn) error {
				if broken.Load() {
					return c.commit(txn)
				}
				return txn.Commit()
			}
			l := b.open(t)
			record(t, l, "a")
			broken.Store(true)
			if err := l.Intent(t.Context(), intent("b")); !errors.Is(err, ErrFailed) || !errors.Is(err, syscall.EIO) {
				t.Errorf("the one that met it: %v", err)
			}
			<-l.Failed()
			broken.Store(false) // an fsync that succeeds after one that failed means nothing
			if err := l.Intent(t.Context(), intent("c")); !errors.Is(err, ErrFailed) {
				t.Errorf("a later one: %v", err)
			}
			l.Outcome(outcome("a")) // does not hang
			if err := l.Close(); !errors.Is(err, ErrFailed) {
				t.Errorf("close: %v", err)
			}
			l = b.open(t)
			defer closeLog(t, l)
			if l.Size() != c.size {
				t.Errorf("size %d after a restart, want %d", l.Size(), c.size)
			}
		})
	}
}

func TestSecondProcessIsToldWhoHoldsTheDirectory(t *testing.T) {
	b := newBench(t)
	l := b.open(t)
	defer closeLog(t, l)
	if _, err := Open(t.Context(), b.Config); !errors.Is(err, badgerdir.ErrLocked) || !strings.Contains(err.Error(), b.Dir) {
		t.Error(err)
	}
}

func TestDirectoryBelongsToOneOrigin(t *testing.T) {
	b := newBench(t)
	closeLog(t, b.open(t))
	b.Origin = "mesh.example/agents/agt-bbbbbbbbbbbbbbbb/0"
	if _, err := Open(t.Context(), b.Config); err == nil || !strings.Contains(err.Error(), origin) {
		t.Error(err)
	}
}

// TestDamagedLogIsRefused does to a closed log what a bad disk or a bad person
// does, each time on a copy.
func TestDamagedLogIsRefused(t *testing.T) {
	b := newBench(t)
	l := b.open(t)
	for i := range 10 {
		record(t, l, fmt.Sprint(i))
	}
	b.acknowledge(t, l, 4)
	closeLog(t, l)
	in := func(dir string, f func(*badger.Txn) error) {
		db, err := badgerdir.Open(badgerdir.Profile(filepath.Join(dir, "db")), nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := db.Update(f); err != nil {
			t.Fatal(err)
		}
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
	}
	shorter := func(n uint64) *audit.Tree {
		var tree audit.Tree
		for i := range n {
			tree.Append(audit.LeafHash(audit.Encode(intent(fmt.Sprint(i)))))
		}
		return &tree
	}
	for name, c := range map[string]struct {
		do   func(dir string)
		want error
	}{
		"a record changed": {func(dir string) {
			in(dir, func(txn *badger.Txn) error { return txn.Set(recordKey(7), audit.Encode(intent("other"))) })
		}, ErrCorrupt},
		"a record gone": {func(dir string) {
			in(dir, func(txn *badger.Txn) error { return txn.Delete(recordKey(7)) })
		}, ErrCorrupt},
		"the last record gone": {func(dir string) {
			in(dir, func(txn *badger.Txn) error { return txn.Delete(recordKey(9)) })
		}, ErrCorrupt},
		"a record too many": {func(dir string) {
			in(dir, func(txn *badger.Txn) error { return txn.Set(recordKey(10), []byte("x")) })
		}, ErrCorrupt},
		"rolled back with its tree": {func(dir string) {
			in(dir, func(txn *badger.Txn) error {
				if err := txn.Delete(recordKey(9)); err != nil {
					return err
				}
				return txn.Set(headKey, shorter(9).Marshal())
			})
		}, ErrRollback},
		"all of Badger gone":  {func(dir string) { os.RemoveAll(filepath.Join(dir, "db")) }, ErrRollback},
		"the checkpoint gone": {func(dir string) { os.Remove(filepath.Join(dir, "checkpoint")) }, ErrCorrupt},
		"the checkpoint torn": {func(dir string) {
			if err := os.Truncate(filepath.Join(dir, "checkpoint"), 40); err != nil {
				t.Fatal(err)
			}
		}, ErrCorrupt},
		"the acknowledgement torn": {func(dir string) {
			in(dir, func(txn *badger.Txn) error { return txn.Set(ackedKey, []byte("xxxxxxx")) })
		}, ErrCorrupt},
		"trimmed beyond the acknowledgement": {func(dir string) {
			in(dir, func(txn *badger.Txn) error { return txn.Set(trimmedKey, shorter(6).Marshal()) })
		}, ErrCorrupt},
	} {
		t.Run(name, func(t *testing.T) {
			broken := b.Config
			broken.Dir = filepath.Join(t.TempDir(), "copy")
			if err := os.CopyFS(broken.Dir, os.DirFS(b.Dir)); err != nil {
				t.Fatal(err)
			}
			c.do(broken.Dir)
			l, err := Open(t.Context(), broken)
			if err == nil {
				l.Close()
			}
			if !errors.Is(err, c.want) || !strings.Contains(err.Error(), broken.Dir) && !strings.Contains(err.Error(), origin) {
				t.Errorf("got %v, want %v", err, c.want)
			}
		})
	}
	closeLog(t, b.open(t)) // and the original is whole
}

func TestCheckpointsOfEverySizeAgree(t *testing.T) {
	b := newBench(t)
	l := b.open(t)
	defer closeLog(t, l)
	var want audit.Tree
	roots := []audit.Hash{want.Root()}
	for i := range 40 {
		record(t, l, fmt.Sprint(i))
		recs, err := l.Read(uint64(i), 1)
		if err != nil || len(recs) != 1 {
			t.Fatal(len(recs), err)
		}
		want.Append(audit.LeafHash(recs[0]))
		roots = append(roots, want.Root())
	}
	for _, size := range []uint64{40, 3, 17, 0, 39, 40, 1} {
		signed, err := l.Checkpoint(size)
		if err != nil {
			t.Fatal(err)
		}
		if cp, err := b.verifier.Open(signed); err != nil || cp.Size != size || cp.Root != roots[size] {
			t.Errorf("size %d: %+v, %v", size, cp, err)
		}
	}
	if _, err := l.Checkpoint(41); err == nil {
		t.Error("signed more than there is")
	}
}

func TestOnlyOurTreeCountersignedIsAnAcknowledgement(t *testing.T) {
	b := newBench(t)
	l := b.open(t)
	record(t, l, "a")
	record(t, l, "b")
	one, err := l.Checkpoint(1)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Acknowledge(one); !errors.Is(err, audit.ErrCheckpoint) {
		t.Errorf("not countersigned: %v", err)
	}
	other := newBench(t)
	wrong, _ := other.cosigner.Cosign(b.verifier, one)
	if err := l.Acknowledge(wrong); !errors.Is(err, audit.ErrCheckpoint) {
		t.Errorf("countersigned by a stranger: %v", err)
	}
	var tree audit.Tree
	tree.Append(audit.LeafHash([]byte("something else")))
	forged, _ := l.signer.Sign(&tree)
	both, _ := b.cosigner.Cosign(b.verifier, forged)
	if err := l.Acknowledge(both); !errors.Is(err, ErrNotOurTree) {
		t.Errorf("of another tree: %v", err)
	}
	if l.Acked() != 0 {
		t.Fatal("acknowledged")
	}
	b.acknowledge(t, l, 2)
	b.acknowledge(t, l, 1) // an answer that was overtaken
	if l.Acked() != 2 {
		t.Errorf("acked %d", l.Acked())
	}
	closeLog(t, l)
	l = b.open(t)
	defer closeLog(t, l)
	if l.Acked() != 2 {
		t.Errorf("acked %d after a restart", l.Acked())
	}
}

func TestAcknowledgedRecordsAreTrimmedWhenOldAndNoOthers(t *testing.T) {
	b := newBench(t)
	var now atomic.Int64
	now.Store(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC).Unix())
	b.now = func() time.Time { return time.Unix(now.Load(), 0) }
	l := b.open(t)
	trim := func(want uint64) {
		t.Helper()
		if err := l.do(l.storeAcked); err != nil {
			t.Fatal(err)
		}
		l.trim()
		if l.trimmed.Size() != want {
			t.Fatalf("trimmed to %d, want %d", l.trimmed.Size(), want)
		}
	}
	var wg sync.WaitGroup
	for i := range 3 * trimBatch { // several transactions' worth
		wg.Go(func() { l.Intent(t.Context(), intent(fmt.Sprint(i))) })
	}
	wg.Wait()
	trim(0)
	now.Add(2 * 3600)
	record(t, l, "a new hour")
	now.Add(8 * 24 * 3600)
	trim(0) // old, but not acknowledged
	b.acknowledge(t, l, 10)
	trim(10)
	b.acknowledge(t, l, l.Size())
	trim(3 * trimBatch) // the new hour's record has no later mark yet
	if _, err := l.Read(3*trimBatch-1, 1); !errors.Is(err, ErrTrimmed) {
		t.Errorf("reading a trimmed record: %v", err)
	}
	if _, err := l.Checkpoint(5); !errors.Is(err, ErrTrimmed) {
		t.Errorf("tree before the trimmed: %v", err)
	}
	if got := events(t, l, 3*trimBatch); len(got) != 1 || got[0].AuditID != "a new hour" {
		t.Errorf("left: %d", len(got))
	}
	record(t, l, "on")
	closeLog(t, l)
	l = b.open(t)
	defer closeLog(t, l)
	if l.Size() != 3*trimBatch+2 || l.trimmed.Size() != 3*trimBatch {
		t.Errorf("size %d, trimmed %d", l.Size(), l.trimmed.Size())
	}
	b.acknowledge(t, l, l.Size())
}

func TestEqualRefusalsAreCountedTogether(t *testing.T) {
	b := newBench(t)
	b.refusalWindow = time.Hour // Close flushes
	l := b.open(t)
	for i := range 500 {
		l.Outcome(refused(fmt.Sprint("r", i), "no grant"))
	}
	l.Outcome(refused("other", "denied by rule"))
	closeLog(t, l)
	l = b.open(t)
	defer closeLog(t, l)
	got := events(t, l, 0)
	if len(got) != 2 || got[0].AuditID != "r0" || got[0].Ext.Count != 500 || got[1].Ext.Count != 0 || got[1].AuditID != "other" {
		t.Errorf("%d records, %+v", len(got), got)
	}
}

func TestRefusalIsOnRecordWithinItsWindow(t *testing.T) {
	l := newBench(t).open(t)
	defer closeLog(t, l)
	l.Outcome(refused("a", "no grant"))
	eventually(t, l, "the refusal", func() bool { return l.Size() == 1 })
}

func TestRefusalsCannotFillTheDisk(t *testing.T) {
	b := newBench(t)
	start := time.Now()
	b.now = func() time.Time { return start } // no quota comes back
	b.refusalWindow = time.Hour
	l := b.open(t)
	total := 5_000
	for i := range total { // each one different
		e := refused(fmt.Sprint("r", i), "no grant")
		e.ObjectRef.Name = fmt.Sprint("pod-", i)
		e.UserAgent = strings.Repeat("a", 4000)
		l.Outcome(e)
	}
	other := refused("other user", "no grant")
	other.User = audit.User{Username: "virat", UID: "usr-b"}
	l.Outcome(other)
	closeLog(t, l)
	l = b.open(t)
	defer closeLog(t, l)
	got := events(t, l, 0)
	size, counted, virat := 0, 0, 0
	for _, e := range got {
		size += len(audit.Encode(e))
		if e.User.Username == "virat" {
			virat++
			continue
		}
		counted += int(max(e.Ext.Count, 1))
	}
	if size > (quotaBurst+64)<<10 {
		t.Errorf("%d records, %d KiB", len(got), size>>10)
	}
	if counted != total {
		t.Errorf("%d refusals stand in the log, %d happened", counted, total)
	}
	if virat != 1 {
		t.Error("another user's refusal was swallowed")
	}
}

func TestRefusedLogTakesNoIntent(t *testing.T) {
	l := newBench(t).open(t)
	defer closeLog(t, l)
	why := errors.New("the coordinator holds another history")
	l.Refuse(why)
	l.Refuse(errors.New("second"))
	if err := l.Intent(t.Context(), intent("a")); !errors.Is(err, why) {
		t.Error(err)
	}
}

func TestWaiterThatGivesUpIsNotToldYes(t *testing.T) {
	l := newBench(t).open(t)
	defer closeLog(t, l)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var yes int
	for i := range 50 {
		if err := l.Intent(ctx, intent(fmt.Sprint(i))); err == nil {
			yes++
		}
	}
	// It may have been on disk before the select looked; never the other way.
	if uint64(yes) > l.Size() {
		t.Errorf("%d yeses, %d records", yes, l.Size())
	}
}
