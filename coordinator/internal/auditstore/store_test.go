package auditstore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"connectrpc.com/connect"
	"github.com/dgraph-io/badger/v4"

	apiv1 "github.com/sallyport-mesh/sallyport/pkg/api/sallyport/v1"
	"github.com/sallyport-mesh/sallyport/pkg/audit"
	"github.com/sallyport-mesh/sallyport/pkg/badgerdir"
)

const domain = "mesh.example"

// place is a coordinator's keys and directory.
type place struct {
	Config
	cosigner *audit.CosignerVerifier
}

func newPlace(t testing.TB) *place {
	t.Helper()
	cskey, cvkey, err := audit.NewKey(domain + "/coordinator")
	if err != nil {
		t.Fatal(err)
	}
	okey, _, err := audit.NewKey("own")
	if err != nil {
		t.Fatal(err)
	}
	cv, err := audit.NewCosignerVerifier(cvkey)
	if err != nil {
		t.Fatal(err)
	}
	return &place{Config{Dir: t.TempDir(), Domain: domain, CosignerKey: cskey, OwnKey: okey}, cv}
}

func (p *place) open(t testing.TB) *Store {
	t.Helper()
	s, err := Open(t.Context(), p.Config)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func closeStore(t testing.TB, s *Store) {
	t.Helper()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

// agent is an honest agent's log in memory, with a hand for tampering.
type agent struct {
	src      Source
	skey     string
	origin   string
	signer   *audit.Signer
	verifier *audit.Verifier
	records  [][]byte
}

func newAgent(t testing.TB, id, cluster string) *agent {
	t.Helper()
	skey, vkey, err := audit.NewKey("sallyport-agent")
	if err != nil {
		t.Fatal(err)
	}
	a := &agent{
		src:    Source{AgentID: id, VKey: vkey, Cluster: Named{"cls-" + cluster, cluster}, Project: Named{"prj-aws", "aws"}},
		skey:   skey,
		origin: audit.Origin{Domain: domain, Agent: id}.String(),
	}
	if a.signer, err = audit.NewSigner(skey, a.origin); err != nil {
		t.Fatal(err)
	}
	if a.verifier, err = audit.NewVerifier(vkey, a.origin); err != nil {
		t.Fatal(err)
	}
	return a
}

func (a *agent) add(events ...*audit.Event) *agent {
	for _, e := range events {
		a.records = append(a.records, audit.Encode(e))
	}
	return a
}

func (a *agent) fill(n int) *agent {
	for range n {
		a.add(event(fmt.Sprint(a.src.AgentID, "-", len(a.records)), audit.StageReceived))
	}
	return a
}

func (a *agent) sign(t testing.TB, size int) []byte {
	t.Helper()
	var tree audit.Tree
	for _, r := range a.records[:size] {
		tree.Append(audit.LeafHash(r))
	}
	b, err := a.signer.Sign(&tree)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// request is an honest append of records first to end.
func (a *agent) request(t testing.TB, first, end int) *apiv1.AppendRequest {
	t.Helper()
	return &apiv1.AppendRequest{Log: a.origin, FirstSeq: uint64(first), Records: a.records[first:end], Checkpoint: a.sign(t, end)}
}

func (a *agent) mustAppend(t testing.TB, s *Store, p *place, first, end int) {
	t.Helper()
	res, err := s.Append(t.Context(), a.src, a.request(t, first, end))
	if err != nil {
		t.Fatal(err)
	}
	cp, _, err := p.cosigner.Open(a.verifier, res.GetCountersigned())
	if err != nil || cp.Size != uint64(end) {
		t.Fatalf("acknowledged %+v, %v", cp, err)
	}
}

func event(id string, stage audit.Stage) *audit.Event {
	return &audit.Event{
		AuditID: id, Stage: stage, Verb: "get", RequestURI: "/api/v1/namespaces/default/pods/web-0",
		User:      audit.User{Username: "shivam", UID: "usr-shivam"},
		ObjectRef: &audit.ObjectRef{Resource: "pods", Namespace: "default", Name: "web-0", APIVersion: "v1"},
		Ext:       audit.Ext{Kind: audit.KindRequest, Device: "dev-shivam", Decision: audit.Allow},
	}
}

// stored are the bytes of a log as they are in Badger.
func stored(t testing.TB, s *Store, origin string) [][]byte {
	t.Helper()
	st := s.logs[origin]
	if st == nil {
		return nil
	}
	var out [][]byte
	err := s.db.View(func(txn *badger.Txn) error {
		it := txn.NewIterator(badger.IteratorOptions{Prefix: logKey(recordKeys, st.info().Number), PrefetchValues: true, PrefetchSize: 100})
		defer it.Close()
		for it.Rewind(); it.Valid(); it.Next() {
			v, err := it.Item().ValueCopy(nil)
			if err != nil {
				return err
			}
			out = append(out, v)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func same(t testing.TB, got, want [][]byte) {
	t.Helper()
	if !bytes.Equal(bytes.Join(got, []byte("\n")), bytes.Join(want, []byte("\n"))) {
		t.Fatalf("%d records stored, want %d, or other ones", len(got), len(want))
	}
}

func TestRepeatedAndOverlappingAppendsStoreEachRecordOnce(t *testing.T) {
	p := newPlace(t)
	s := p.open(t)
	a := newAgent(t, "agt-a", "edge-1").fill(40)
	for _, r := range [][2]int{{0, 0}, {0, 10}, {0, 10}, {5, 12}, {12, 12}, {10, 20}, {3, 12}, {0, 25}, {25, 40}, {25, 40}, {40, 40}} {
		a.mustAppend(t, s, p, r[0], r[1])
	}
	same(t, stored(t, s, a.origin), a.records)
	if s.Size("agt-a") != 40 || s.Size("agt-b") != 0 {
		t.Errorf("size %d", s.Size("agt-a"))
	}
	closeStore(t, s)
	s = p.open(t)
	defer closeStore(t, s)
	a.fill(5)
	a.mustAppend(t, s, p, 38, 45)
	same(t, stored(t, s, a.origin), a.records)
}

// TestEveryKindOfTamperingIsRefusedAndNamed sends what a bad host could send.
func TestEveryKindOfTamperingIsRefusedAndNamed(t *testing.T) {
	other := func(t *testing.T, a *agent) *agent { // same key, another history
		b := *a
		b.records = append([][]byte{audit.Encode(event("another", audit.StageReceived))}, a.records[1:]...)
		return &b
	}
	for name, c := range map[string]struct {
		make   func(t *testing.T, a *agent) *apiv1.AppendRequest // a has 20 records, 10 of them stored
		want   error
		reason Reason
		keeps  bool // evidence
	}{
		"a gap": {func(t *testing.T, a *agent) *apiv1.AppendRequest { return a.request(t, 11, 20) }, nil, Behind, false},
		"a record changed on its way": {func(t *testing.T, a *agent) *apiv1.AppendRequest {
			r := a.request(t, 10, 20)
			r.Records = append([][]byte{}, r.Records...)
			r.Records[3] = bytes.Replace(r.Records[3], []byte("shivam"), []byte("virat "), 1)
			return r
		}, nil, Altered, true},
		"a record dropped": {func(t *testing.T, a *agent) *apiv1.AppendRequest {
			r := a.request(t, 10, 20)
			r.Records = append(append([][]byte{}, r.Records[:4]...), r.Records[5:]...)
			return r
		}, ErrInvalid, "", false},
		"a record dropped and the place filled": {func(t *testing.T, a *agent) *apiv1.AppendRequest {
			r := a.request(t, 10, 20)
			r.Records = append(append(append([][]byte{}, r.Records[:4]...), r.Records[5:]...), r.Records[4])
			return r
		}, nil, Altered, true},
		"two records swapped": {func(t *testing.T, a *agent) *apiv1.AppendRequest {
			r := a.request(t, 10, 20)
			r.Records = append([][]byte{}, r.Records...)
			r.Records[0], r.Records[1] = r.Records[1], r.Records[0]
			return r
		}, nil, Altered, true},
		"a record twice": {func(t *testing.T, a *agent) *apiv1.AppendRequest {
			r := a.request(t, 10, 20)
			r.Records = append(append([][]byte{}, r.Records...), r.Records[9])
			return r
		}, ErrInvalid, "", false},
		"a torn last record": {func(t *testing.T, a *agent) *apiv1.AppendRequest {
			r := a.request(t, 10, 20)
			r.Records = append([][]byte{}, r.Records...)
			r.Records[9] = r.Records[9][:30]
			return r
		}, nil, Altered, true},
		"an earlier record rewritten": {func(t *testing.T, a *agent) *apiv1.AppendRequest {
			return other(t, a).request(t, 0, 20)
		}, nil, Forked, true},
		"an earlier record rewritten and not shown": {func(t *testing.T, a *agent) *apiv1.AppendRequest {
			return other(t, a).request(t, 10, 20)
		}, nil, Altered, true},
		"another root for what is stored": {func(t *testing.T, a *agent) *apiv1.AppendRequest {
			return other(t, a).request(t, 10, 10)
		}, nil, Forked, true},
		"another root for an earlier size": {func(t *testing.T, a *agent) *apiv1.AppendRequest {
			return other(t, a).request(t, 4, 4)
		}, nil, Forked, true},
		"a log rolled back":                     {func(t *testing.T, a *agent) *apiv1.AppendRequest { return a.request(t, 7, 7) }, nil, Ahead, false},
		"a rolled back log that knows its size": {func(t *testing.T, a *agent) *apiv1.AppendRequest { return a.request(t, 4, 4) }, nil, Ahead, false},
		"another agent's log": {func(t *testing.T, a *agent) *apiv1.AppendRequest {
			return newAgent(t, "agt-b", "edge-2").fill(3).request(t, 0, 3)
		}, ErrNotYourLog, "", false},
		"the next epoch": {func(t *testing.T, a *agent) *apiv1.AppendRequest {
			r := a.request(t, 10, 20)
			r.Log = strings.TrimSuffix(a.origin, "0") + "1"
			next := *a
			next.signer, _ = audit.NewSigner(a.skey, r.Log)
			r.Checkpoint = next.sign(t, 20)
			return r
		}, ErrNotYourLog, "", false},
		"another domain": {func(t *testing.T, a *agent) *apiv1.AppendRequest {
			r := a.request(t, 10, 20)
			r.Log = "evil.example/agents/agt-a/0"
			return r
		}, ErrNotYourLog, "", false},
		"the coordinator's own log": {func(t *testing.T, a *agent) *apiv1.AppendRequest {
			r := a.request(t, 10, 20)
			r.Log = domain + "/coordinator/0"
			return r
		}, ErrNotYourLog, "", false},
		"no checkpoint": {func(t *testing.T, a *agent) *apiv1.AppendRequest {
			r := a.request(t, 10, 20)
			r.Checkpoint = nil
			return r
		}, ErrInvalid, "", false},
		"a checkpoint by another key": {func(t *testing.T, a *agent) *apiv1.AppendRequest {
			thief := newAgent(t, "agt-a", "edge-1")
			thief.records = a.records
			return thief.request(t, 10, 20)
		}, ErrInvalid, "", false},
		"a checkpoint of another size": {func(t *testing.T, a *agent) *apiv1.AppendRequest {
			r := a.request(t, 10, 20)
			r.Checkpoint = a.sign(t, 19)
			return r
		}, ErrInvalid, "", false},
		"a position that overflows": {func(t *testing.T, a *agent) *apiv1.AppendRequest {
			r := a.request(t, 10, 20)
			r.FirstSeq = ^uint64(0) - 3
			return r
		}, ErrInvalid, "", false},
		"an empty record": {func(t *testing.T, a *agent) *apiv1.AppendRequest {
			a.records[15] = nil
			return a.request(t, 10, 20)
		}, ErrInvalid, "", false},
		"a record too long": {func(t *testing.T, a *agent) *apiv1.AppendRequest {
			a.records[15] = make([]byte, audit.MaxRecord+1)
			return a.request(t, 10, 20)
		}, ErrInvalid, "", false},
		"too many bytes": {func(t *testing.T, a *agent) *apiv1.AppendRequest {
			for range 65 {
				a.records = append(a.records, make([]byte, audit.MaxRecord))
			}
			return a.request(t, 10, len(a.records))
		}, ErrInvalid, "", false},
		"too many records": {func(t *testing.T, a *agent) *apiv1.AppendRequest {
			for range audit.MaxAppendRecords {
				a.records = append(a.records, []byte("x"))
			}
			return a.request(t, 10, len(a.records))
		}, ErrInvalid, "", false},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPlace(t)
			s := p.open(t)
			defer closeStore(t, s)
			a := newAgent(t, "agt-a", "edge-1").fill(20)
			honest := append([][]byte{}, a.records...)
			a.mustAppend(t, s, p, 0, 4)
			a.mustAppend(t, s, p, 4, 10)
			res, err := s.Append(t.Context(), a.src, c.make(t, a))
			var conflict *ConflictError
			switch {
			case res != nil || err == nil:
				t.Fatalf("taken: %v", err)
			case c.want != nil && !errors.Is(err, c.want):
				t.Errorf("got %v, want %v", err, c.want)
			case c.reason != "" && (!errors.As(err, &conflict) || conflict.Reason != c.reason || conflict.Size != 10):
				t.Errorf("got %v, want %s at 10", err, c.reason)
			}
			same(t, stored(t, s, a.origin), honest[:10])
			evidence, err := s.Evidence(a.origin)
			if err != nil || (len(evidence) == 1) != c.keeps {
				t.Errorf("evidence %+v, %v", evidence, err)
			}
			if c.keeps {
				if _, err := a.verifier.Open([]byte(evidence[0].Checkpoint)); err != nil || evidence[0].Reason != c.reason {
					t.Errorf("the evidence is not signed by the agent: %v", err)
				}
			}
			a.records = honest
			a.mustAppend(t, s, p, 10, 20) // and the honest one goes on
		})
	}
}

func TestLogStaysBoundToItsKey(t *testing.T) {
	p := newPlace(t)
	s := p.open(t)
	defer closeStore(t, s)
	a := newAgent(t, "agt-a", "edge-1").fill(10)
	a.mustAppend(t, s, p, 0, 5)
	thief := newAgent(t, "agt-a", "edge-1") // enrolled anew under the same id
	thief.records = a.records
	if _, err := s.Append(t.Context(), thief.src, thief.request(t, 5, 10)); !errors.Is(err, ErrNotYourLog) {
		t.Error(err)
	}
	b := newAgent(t, "agt-b", "edge-1") // another agent with its own key, about a's log
	b.records, b.origin = a.records, a.origin
	if _, err := s.Append(t.Context(), b.src, a.request(t, 5, 10)); !errors.Is(err, ErrNotYourLog) {
		t.Error(err)
	}
}

func TestFirstAppendThatIsRefusedLeavesNothing(t *testing.T) {
	p := newPlace(t)
	s := p.open(t)
	a := newAgent(t, "agt-a", "edge-1").fill(10)
	bad := a.request(t, 0, 10)
	bad.Records = append([][]byte{[]byte("{}")}, bad.Records[1:]...)
	if _, err := s.Append(t.Context(), a.src, bad); err == nil {
		t.Fatal("taken")
	}
	closeStore(t, s)
	s = p.open(t)
	defer closeStore(t, s)
	if s.Size("agt-a") != 0 {
		t.Error("something is left")
	}
	a.mustAppend(t, s, p, 0, 10)
}

func TestConcurrentAgentsShareSyncs(t *testing.T) {
	p := newPlace(t)
	var commits atomic.Int64
	p.commit = func(txn *badger.Txn) error { commits.Add(1); return txn.Commit() }
	s := p.open(t)
	defer closeStore(t, s)
	var wg sync.WaitGroup
	const agents, batches = 24, 10
	for n := range agents {
		a := newAgent(t, fmt.Sprint("agt-", n), "edge-1").fill(batches * 3)
		wg.Go(func() {
			for i := range batches {
				if _, err := s.Append(t.Context(), a.src, a.request(t, i*3, i*3+3)); err != nil {
					t.Error(err)
				}
			}
			same(t, stored(t, s, a.origin), a.records)
		})
	}
	wg.Wait()
	if n := commits.Load(); n >= agents*batches {
		t.Errorf("%d commits for %d appends", n, agents*batches)
	}
}

func TestBusyStoreSaysTryAgain(t *testing.T) {
	p := newPlace(t)
	hold, reached := make(chan struct{}), make(chan struct{}, 1)
	p.commit = func(txn *badger.Txn) error {
		select {
		case reached <- struct{}{}:
		default:
		}
		<-hold
		return txn.Commit()
	}
	s := p.open(t)
	defer closeStore(t, s)
	var wg sync.WaitGroup
	var busy atomic.Int64
	for n := range maxInFlight + 8 {
		a := newAgent(t, fmt.Sprint("agt-", n), "edge-1").fill(1)
		req := a.request(t, 0, 1)
		wg.Go(func() {
			if _, err := s.Append(t.Context(), a.src, req); errors.Is(err, ErrBusy) {
				if busy.Add(1) == 8 {
					close(hold)
				}
			} else if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	<-reached
	if busy.Load() != 8 {
		t.Errorf("%d were told to wait", busy.Load())
	}
}

func TestFullDiskTakesNothingIn(t *testing.T) {
	p := newPlace(t)
	var free atomic.Uint64
	free.Store(1 << 40)
	p.free = func(string) (uint64, error) { return free.Load(), nil }
	s := p.open(t)
	defer closeStore(t, s)
	a := newAgent(t, "agt-a", "edge-1").fill(10)
	a.mustAppend(t, s, p, 0, 5)
	free.Store(1 << 20)
	if _, err := s.Append(t.Context(), a.src, a.request(t, 5, 10)); !errors.Is(err, ErrDiskFull) {
		t.Error(err)
	}
	if err := s.Own(t.Context(), event("own", audit.StageComplete)); !errors.Is(err, ErrDiskFull) {
		t.Error(err)
	}
	free.Store(1 << 40)
	a.mustAppend(t, s, p, 5, 10)
	if err := s.Own(t.Context(), event("own", audit.StageComplete)); err != nil {
		t.Error(err)
	}
	same(t, stored(t, s, a.origin), a.records)
}

func TestCommitErrorEndsTheStoreAndNothingIsCountersigned(t *testing.T) {
	for name, c := range map[string]struct {
		commit func(*badger.Txn) error
		size   uint64
	}{
		"failed":                      {func(*badger.Txn) error { return syscall.EIO }, 5},
		"failed, but it had happened": {func(txn *badger.Txn) error { return errors.Join(txn.Commit(), syscall.EIO) }, 10},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPlace(t)
			var broken atomic.Bool
			p.commit = func(txn *badger.Txn) error {
				if broken.Load() {
					return c.commit(txn)
				}
				return txn.Commit()
			}
			s := p.open(t)
			a := newAgent(t, "agt-a", "edge-1").fill(10)
			a.mustAppend(t, s, p, 0, 5)
			broken.Store(true)
			if res, err := s.Append(t.Context(), a.src, a.request(t, 5, 10)); !errors.Is(err, ErrFailed) || res != nil {
				t.Errorf("%v, %v", res, err)
			}
			<-s.Failed()
			broken.Store(false)
			if _, err := s.Append(t.Context(), a.src, a.request(t, 5, 10)); !errors.Is(err, ErrFailed) {
				t.Error(err)
			}
			if err := s.Own(t.Context(), event("own", audit.StageComplete)); !errors.Is(err, ErrFailed) {
				t.Error(err)
			}
			if err := s.Close(); !errors.Is(err, ErrFailed) {
				t.Error(err)
			}
			s = p.open(t)
			defer closeStore(t, s)
			if s.Size("agt-a") != c.size {
				t.Errorf("size %d", s.Size("agt-a"))
			}
			a.mustAppend(t, s, p, 5, 10)
			same(t, stored(t, s, a.origin), a.records)
		})
	}
}

func TestOwnActsAreALogOfTheSameKind(t *testing.T) {
	p := newPlace(t)
	s := p.open(t)
	var wg sync.WaitGroup
	for i := range 100 {
		wg.Go(func() {
			if err := s.Own(t.Context(), &audit.Event{User: audit.User{Username: "alice"}, Ext: audit.Ext{Kind: "login", Reason: fmt.Sprint(i)}}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	closeStore(t, s)
	s = p.open(t)
	defer closeStore(t, s)
	recs := stored(t, s, domain+"/coordinator/0")
	var tree audit.Tree
	for _, r := range recs {
		e, err := audit.Decode(r)
		if err != nil || e.AuditID == "" || e.StageTimestamp.IsZero() {
			t.Fatalf("%s: %v", r, err)
		}
		tree.Append(audit.LeafHash(r))
	}
	vkey, _ := audit.PublicKey(p.OwnKey)
	v, _ := audit.NewVerifier(vkey, domain+"/coordinator/0")
	cp, _, err := p.cosigner.Open(v, s.OwnCheckpoint())
	if err != nil || cp.Size != 100 || cp.Root != tree.Root() {
		t.Errorf("%+v, %v", cp, err)
	}
}

func TestOwnActWhoseCallerGivesUpDoesNotBlock(t *testing.T) {
	s := newPlace(t).open(t)
	defer closeStore(t, s)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for range 300 {
		s.Own(ctx, event("x", audit.StageComplete))
	}
}

func TestDamagedStoreIsRefused(t *testing.T) {
	p := newPlace(t)
	s := p.open(t)
	a := newAgent(t, "agt-a", "edge-1").fill(10)
	a.mustAppend(t, s, p, 0, 10)
	for i := range 5 {
		if err := s.Own(t.Context(), event(fmt.Sprint(i), audit.StageComplete)); err != nil {
			t.Fatal(err)
		}
	}
	own, agt := s.own.st.meta.Number, s.logs[a.origin].meta.Number
	closeStore(t, s)
	in := func(f func(*badger.Txn) error) func(t *testing.T, dir string) {
		return func(t *testing.T, dir string) {
			db, err := badgerdir.Open(badgerdir.Profile(filepath.Join(dir, "db")).WithMemTableSize(32<<20), nil)
			if err != nil {
				t.Fatal(err)
			}
			if err := errors.Join(db.Update(f), db.Close()); err != nil {
				t.Fatal(err)
			}
		}
	}
	for name, c := range map[string]struct {
		do   func(t *testing.T, dir string)
		want error
	}{
		"an agent's last record gone":  {in(func(txn *badger.Txn) error { return txn.Delete(seqKey(recordKeys, agt, 9)) }), ErrCorrupt},
		"a record beyond an agent's":   {in(func(txn *badger.Txn) error { return txn.Set(seqKey(recordKeys, agt, 10), []byte("x")) }), ErrCorrupt},
		"an agent's tree exchanged":    {in(func(txn *badger.Txn) error { return txn.Set(logKey(headKeys, agt), new(audit.Tree).Marshal()) }), ErrCorrupt},
		"a checkpoint gone":            {in(func(txn *badger.Txn) error { return txn.Delete(seqKey(checkpointKeys, agt, 10)) }), ErrCorrupt},
		"meta that is none":            {in(func(txn *badger.Txn) error { return txn.Set([]byte(metaKeys+a.origin), []byte("{")) }), ErrCorrupt},
		"the own log's last record":    {in(func(txn *badger.Txn) error { return txn.Delete(seqKey(recordKeys, own, 4)) }), ErrCorrupt},
		"all of Badger gone":           {func(t *testing.T, dir string) { os.RemoveAll(filepath.Join(dir, "db")) }, ErrRollback},
		"the own checkpoint file gone": {func(t *testing.T, dir string) { os.Remove(filepath.Join(dir, "own.checkpoint")) }, ErrCorrupt},
		"the own checkpoint file torn": {func(t *testing.T, dir string) { os.Truncate(filepath.Join(dir, "own.checkpoint"), 20) }, ErrCorrupt},
	} {
		t.Run(name, func(t *testing.T) {
			broken := p.Config
			broken.Dir = filepath.Join(t.TempDir(), "copy")
			if err := os.CopyFS(broken.Dir, os.DirFS(p.Dir)); err != nil {
				t.Fatal(err)
			}
			c.do(t, broken.Dir)
			s, err := Open(t.Context(), broken)
			if err == nil {
				s.Close()
			}
			if !errors.Is(err, c.want) {
				t.Errorf("got %v, want %v", err, c.want)
			}
		})
	}
	closeStore(t, p.open(t))
}

func TestSecondCoordinatorIsToldWhoHoldsTheDirectory(t *testing.T) {
	p := newPlace(t)
	s := p.open(t)
	defer closeStore(t, s)
	if _, err := Open(t.Context(), p.Config); !errors.Is(err, badgerdir.ErrLocked) || !strings.Contains(err.Error(), p.Dir) {
		t.Error(err)
	}
}

func TestClosedStoreRefuses(t *testing.T) {
	p := newPlace(t)
	s := p.open(t)
	a := newAgent(t, "agt-a", "edge-1").fill(1)
	closeStore(t, s)
	if err := s.Own(t.Context(), event("x", audit.StageComplete)); !errors.Is(err, ErrClosed) {
		t.Error(err)
	}
	w := &write{}
	w.set([]byte("x"), nil)
	if err := s.submit(w); !errors.Is(err, ErrClosed) {
		t.Error(err)
	}
	_ = a
}

func TestStatusCarriesTheConflict(t *testing.T) {
	err := Status(fmt.Errorf("x: %w", &ConflictError{"o", 7, Forked, "record 3 is another"}))
	var ce *connect.Error
	if !errors.As(err, &ce) || ce.Code() != connect.CodeFailedPrecondition || len(ce.Details()) != 1 {
		t.Fatal(err)
	}
	v, verr := ce.Details()[0].Value()
	if c, ok := v.(*apiv1.AppendConflict); verr != nil || !ok || c.Size != 7 || c.Reason != "forked: record 3 is another" {
		t.Errorf("%v, %v", v, verr)
	}
	for err, code := range map[error]connect.Code{
		ErrInvalid: connect.CodeInvalidArgument, ErrNotYourLog: connect.CodePermissionDenied, ErrBusy: connect.CodeResourceExhausted,
		ErrDiskFull: connect.CodeResourceExhausted, ErrFailed: connect.CodeUnavailable, errors.New("secret path"): connect.CodeInternal,
	} {
		if got := Status(err); connect.CodeOf(got) != code || strings.Contains(got.Error(), "secret path") {
			t.Errorf("%v: %v", err, got)
		}
	}
	if Status(nil) != nil {
		t.Error("nil is an error")
	}
}

// FuzzAppend sends arbitrary requests with an honest log behind them: whatever
// is sent, what is stored stays the honest log's beginning.
func FuzzAppend(f *testing.F) {
	p := newPlace(f)
	s := p.open(f)
	f.Cleanup(func() { closeStore(f, s) })
	a := newAgent(f, "agt-a", "edge-1").fill(20)
	a.mustAppend(f, s, p, 0, 10)
	for _, end := range []int{10, 11, 20} {
		f.Add(a.origin, uint64(10), bytes.Join(a.records[10:end], []byte{0}), a.sign(f, end))
	}
	f.Add(a.origin, uint64(0), a.records[0], a.sign(f, 1))
	f.Add(a.origin, ^uint64(0), []byte{0, 0}, []byte("x\n"))
	f.Add(domain+"/coordinator/0", uint64(0), []byte{}, []byte{})
	f.Fuzz(func(t *testing.T, log string, first uint64, records, checkpoint []byte) {
		_, err := s.Append(t.Context(), a.src, &apiv1.AppendRequest{Log: log, FirstSeq: first, Records: bytes.Split(records, []byte{0}), Checkpoint: checkpoint})
		if err != nil && Status(err) == nil {
			t.Fatal(err)
		}
		if got := stored(t, s, a.origin); len(got) > len(a.records) {
			t.Fatalf("%d records", len(got))
		} else {
			same(t, got, a.records[:len(got)])
		}
	})
}
