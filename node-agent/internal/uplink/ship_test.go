package uplink

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"connectrpc.com/connect"

	"github.com/sallyport-mesh/sallyport/coordinator/coordinatortest"
	"github.com/sallyport-mesh/sallyport/node-agent/internal/auditlog"
	apiv1 "github.com/sallyport-mesh/sallyport/pkg/api/sallyport/v1"
	"github.com/sallyport-mesh/sallyport/pkg/api/sallyport/v1/apiv1connect"
	"github.com/sallyport-mesh/sallyport/pkg/audit"
)

const (
	shipDomain = "mesh.example"
	shipAgent  = "agt-aaaaaaaaaaaaaaaa"
)

// link is a real log, a real store and the wire between them, with faults.
type link struct {
	t      *testing.T
	log    auditlog.Config
	store  coordinatortest.AuditConfig
	origin string
	url    string

	handler atomic.Pointer[http.Handler]
	fault   atomic.Pointer[func(w http.ResponseWriter, r *http.Request, next http.Handler)]
	calls   atomic.Int64
}

func newLink(t *testing.T) *link {
	t.Helper()
	skey, vkey, err := audit.NewKey("sallyport-agent")
	if err != nil {
		t.Fatal(err)
	}
	l := &link{
		t: t, origin: audit.Origin{Domain: shipDomain, Agent: shipAgent}.String(),
		store: coordinatortest.AuditConfig{Dir: t.TempDir(), Domain: shipDomain, AgentID: shipAgent, VKey: vkey},
	}
	l.log = auditlog.Config{Dir: t.TempDir(), Origin: l.origin, Key: skey}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		l.calls.Add(1)
		h := l.handler.Load()
		if h == nil {
			http.Error(w, "no coordinator", http.StatusServiceUnavailable)
			return
		}
		if f := l.fault.Load(); f != nil {
			(*f)(w, r, *h)
			return
		}
		(*h).ServeHTTP(w, r)
	}))
	t.Cleanup(srv.Close)
	l.url = srv.URL
	a := l.coordinator()
	l.log.Cosigner = a.CosignerVKey()
	l.stop(a)
	return l
}

// coordinator starts the store behind the URL.
func (l *link) coordinator() *coordinatortest.Audit {
	l.t.Helper()
	a, err := coordinatortest.OpenAudit(l.t.Context(), l.store)
	if err != nil {
		l.t.Fatal(err)
	}
	h := a.Handler()
	l.handler.Store(&h)
	return a
}

func (l *link) stop(a *coordinatortest.Audit) {
	l.t.Helper()
	l.handler.Store(nil)
	if err := a.Close(); err != nil {
		l.t.Fatal(err)
	}
}

func (l *link) agent() *auditlog.Log {
	l.t.Helper()
	log, err := auditlog.Open(l.t.Context(), l.log)
	if err != nil {
		l.t.Fatal(err)
	}
	return log
}

// ship runs Ship; the function returned stops it and gives its error.
func (l *link) ship(log *auditlog.Log) (stop func() error, ended <-chan struct{}) {
	ctx, cancel := context.WithCancel(l.t.Context())
	var err error
	done := make(chan struct{})
	go func() {
		defer close(done)
		err = Ship(ctx, ShipConfig{
			Client: apiv1connect.NewAgentServiceClient(http.DefaultClient, l.url), Log: log,
			Linger: time.Millisecond, MinBackoff: 2 * time.Millisecond, MaxBackoff: 20 * time.Millisecond,
		})
	}()
	return sync.OnceValue(func() error { cancel(); <-done; return err }), done
}

func (l *link) record(log *auditlog.Log, n int) {
	l.t.Helper()
	var wg sync.WaitGroup
	from := log.Size()
	for i := range n {
		wg.Go(func() {
			e := &audit.Event{AuditID: fmt.Sprint(from, "-", i), Stage: audit.StageReceived, Verb: "get", Ext: audit.Ext{Kind: audit.KindRequest}}
			if err := log.Intent(l.t.Context(), e); err != nil {
				l.t.Error(err)
			}
		})
	}
	wg.Wait()
}

func (l *link) until(what string, ok func() bool) {
	l.t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(30 * time.Second); !ok(); <-tick.C {
		if time.Now().After(deadline) {
			l.t.Fatalf("never happened: %s", what)
		}
	}
}

func (l *link) acked(log *auditlog.Log, size uint64) {
	l.t.Helper()
	l.until(fmt.Sprint(size, " acknowledged"), func() bool { return log.Acked() == size })
}

// equal checks that the copy is the log.
func (l *link) equal(log *auditlog.Log, a *coordinatortest.Audit) {
	l.t.Helper()
	want, err := log.Read(0, 1<<40)
	if err != nil {
		l.t.Fatal(err)
	}
	got, err := a.Records(l.origin)
	if err != nil {
		l.t.Fatal(err)
	}
	if len(got) != len(want) || !bytes.Equal(bytes.Join(got, nil), bytes.Join(want, nil)) {
		l.t.Fatalf("%d records here, %d there, or other ones", len(want), len(got))
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestRecordsArriveWhileTheyAreWritten(t *testing.T) {
	l := newLink(t)
	a, log := l.coordinator(), l.agent()
	stop, _ := l.ship(log)
	for range 20 {
		l.record(log, 30)
	}
	l.acked(log, 600)
	must(t, stop())
	l.equal(log, a)
	must(t, log.Close())
	l.stop(a)
}

func TestBacklogOfADayAwayArrivesInFullBatches(t *testing.T) {
	l := newLink(t)
	log := l.agent()
	l.record(log, 5000)
	a := l.coordinator()
	stop, _ := l.ship(log)
	l.acked(log, 5000)
	must(t, stop())
	l.equal(log, a)
	if n := l.calls.Load(); n > 10 {
		t.Errorf("%d calls", n)
	}
	must(t, log.Close())
	l.stop(a)
}

// TestFaultsOfTheWireCostNothing has each call fail in one way before it works.
func TestFaultsOfTheWireCostNothing(t *testing.T) {
	for name, fault := range map[string]func(w http.ResponseWriter, r *http.Request, next http.Handler){
		"the request is lost": func(w http.ResponseWriter, r *http.Request, _ http.Handler) { panic(http.ErrAbortHandler) },
		"the answer is lost": func(w http.ResponseWriter, r *http.Request, next http.Handler) {
			next.ServeHTTP(httptest.NewRecorder(), r)
			panic(http.ErrAbortHandler)
		},
		"busy": func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
			connect.NewErrorWriter().Write(w, &http.Request{Header: http.Header{"Content-Type": {"application/proto"}}}, connect.NewError(connect.CodeResourceExhausted, errors.New("later")))
		},
		"a proxy's error page": func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
			http.Error(w, "<html>", http.StatusBadGateway)
		},
		"an answer that is none": func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
			w.Header().Set("Content-Type", "application/proto")
			w.Write([]byte{0xff, 0xff})
		},
		"an answer without a countersignature": func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
			w.Header().Set("Content-Type", "application/proto")
		},
		"delivered twice": func(w http.ResponseWriter, r *http.Request, next http.Handler) {
			body := new(bytes.Buffer)
			body.ReadFrom(r.Body)
			for _, to := range []http.ResponseWriter{httptest.NewRecorder(), w} {
				again := r.Clone(r.Context())
				again.Body = readCloser{bytes.NewReader(body.Bytes())}
				next.ServeHTTP(to, again)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLink(t)
			a, log := l.coordinator(), l.agent()
			var n atomic.Int64
			f := func(w http.ResponseWriter, r *http.Request, next http.Handler) {
				if n.Add(1)%2 == 1 {
					fault(w, r, next)
					return
				}
				next.ServeHTTP(w, r)
			}
			l.fault.Store(&f)
			stop, _ := l.ship(log)
			for range 10 {
				l.record(log, 10)
			}
			l.acked(log, 100)
			must(t, stop())
			l.equal(log, a)
			must(t, log.Close())
			l.stop(a)
		})
	}
}

type readCloser struct{ *bytes.Reader }

func (readCloser) Close() error { return nil }

func TestEitherSideMayRestart(t *testing.T) {
	l := newLink(t)
	a, log := l.coordinator(), l.agent()
	stop, _ := l.ship(log)
	for i := range 6 {
		l.record(log, 50)
		if i%2 == 0 {
			l.stop(a)
			l.record(log, 50)
			a = l.coordinator()
		} else {
			must(t, stop())
			must(t, log.Close())
			log = l.agent()
			stop, _ = l.ship(log)
		}
	}
	l.acked(log, 450)
	must(t, stop())
	l.equal(log, a)
	must(t, log.Close())
	l.stop(a)
}

func TestCoordinatorRestoredFromABackupGetsTheRestAgain(t *testing.T) {
	l := newLink(t)
	a, log := l.coordinator(), l.agent()
	stop, _ := l.ship(log)
	l.record(log, 40)
	l.acked(log, 40)
	l.stop(a)
	backup := filepath.Join(t.TempDir(), "backup")
	must(t, os.CopyFS(backup, os.DirFS(l.store.Dir)))
	a = l.coordinator()
	l.record(log, 60)
	l.acked(log, 100)
	l.stop(a)
	l.store.Dir = backup
	a = l.coordinator()
	if got, err := a.Records(l.origin); err != nil || len(got) != 40 {
		t.Fatal(len(got), err)
	}
	l.record(log, 1)
	l.acked(log, 101)
	must(t, stop())
	l.equal(log, a)
	must(t, log.Close())
	l.stop(a)
}

// TestRolledBackAgentIsFoundOutAndLetsNobodyIn restores an old copy of the
// agent's whole directory, its checkpoint file too.
func TestRolledBackAgentIsFoundOutAndLetsNobodyIn(t *testing.T) {
	for name, more := range map[string]int{"at once": 0, "after new records": 7, "after more than were lost": 90} {
		t.Run(name, func(t *testing.T) {
			l := newLink(t)
			a, log := l.coordinator(), l.agent()
			stop, _ := l.ship(log)
			l.record(log, 40)
			l.acked(log, 40)
			must(t, stop())
			must(t, log.Close())
			backup := filepath.Join(t.TempDir(), "backup")
			must(t, os.CopyFS(backup, os.DirFS(l.log.Dir)))
			log = l.agent()
			stop, _ = l.ship(log)
			l.record(log, 60)
			l.acked(log, 100)
			must(t, stop())
			must(t, log.Close())

			l.log.Dir = backup
			log = l.agent()
			l.record(log, more)
			stop, ended := l.ship(log)
			<-ended
			var diverged *DivergedError
			if err := stop(); !errors.As(err, &diverged) || diverged.Origin != l.origin || diverged.Here != uint64(40+more) || diverged.There != 100 {
				t.Fatalf("%v", err)
			}
			err := log.Intent(t.Context(), &audit.Event{AuditID: "x", Stage: audit.StageReceived})
			if !errors.As(err, &diverged) {
				t.Errorf("access after a rollback: %v", err)
			}
			if got, err := a.Records(l.origin); err != nil || len(got) != 100 {
				t.Errorf("%d records there, %v", len(got), err)
			}
			must(t, log.Close())
			l.stop(a)
		})
	}
}

func TestCoordinatorWithAnotherHistoryIsFoundOut(t *testing.T) {
	l := newLink(t)
	a, log := l.coordinator(), l.agent()
	stop, _ := l.ship(log)
	l.record(log, 10)
	l.acked(log, 10)
	must(t, stop())
	must(t, log.Close())
	l.log.Dir = t.TempDir() // the same agent, begun anew: another history under the same name
	log = l.agent()
	l.record(log, 12)
	stop, ended := l.ship(log)
	<-ended
	var diverged *DivergedError
	if err := stop(); !errors.As(err, &diverged) || !strings.Contains(diverged.Reason, "altered") && !strings.Contains(diverged.Reason, "forked") {
		t.Fatal(err)
	}
	must(t, log.Close())
	l.stop(a)
}

// TestCoordinatorThatSignsAnotherTreeIsNotBelieved has the coordinator's own key
// countersign what this log never held.
func TestCoordinatorThatSignsAnotherTreeIsNotBelieved(t *testing.T) {
	l := newLink(t)
	log := l.agent()
	cskey, _, err := audit.LoadKey(filepath.Join(l.store.Dir, "cosigner.key"), "x")
	must(t, err)
	cosigner, err := audit.NewCosigner(cskey)
	must(t, err)
	signer, err := audit.NewSigner(l.log.Key, l.origin) // and it has stolen ours
	must(t, err)
	verifier, err := audit.NewVerifier(l.store.VKey, l.origin)
	must(t, err)
	var tree audit.Tree
	tree.Append(audit.LeafHash([]byte("never recorded")))
	forged, err := signer.Sign(&tree)
	must(t, err)
	both, err := cosigner.Cosign(verifier, forged)
	must(t, err)
	mux := http.NewServeMux()
	mux.Handle(apiv1connect.NewAgentServiceHandler(liar{both: both}))
	var h http.Handler = mux
	l.handler.Store(&h)
	l.record(log, 1)
	stop, ended := l.ship(log)
	<-ended
	var diverged *DivergedError
	if err := stop(); !errors.As(err, &diverged) || log.Acked() != 0 {
		t.Errorf("%v, acknowledged %d", err, log.Acked())
	}
	must(t, log.Close())
}

type liar struct {
	apiv1connect.UnimplementedAgentServiceHandler
	both []byte
}

func (l liar) Append(context.Context, *connect.Request[apiv1.AppendRequest]) (*connect.Response[apiv1.AppendResponse], error) {
	return connect.NewResponse(&apiv1.AppendResponse{Countersigned: l.both}), nil
}

func TestBackoffIsRandomAndBounded(t *testing.T) {
	s := &shipper{ShipConfig: ShipConfig{MinBackoff: time.Second, MaxBackoff: 30 * time.Second}}
	seen := map[time.Duration]bool{}
	for s.failures = 1; s.failures < 100; s.failures++ {
		d := s.backoff()
		if d < 250*time.Millisecond || d > 30*time.Second || s.failures == 1 && d > time.Second {
			t.Errorf("after %d failures: %s", s.failures, d)
		}
		seen[d] = true
	}
	if len(seen) < 50 {
		t.Error("not random")
	}
}
