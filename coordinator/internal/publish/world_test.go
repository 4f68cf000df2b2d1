package publish

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/sallyport-mesh/sallyport/coordinator/internal/directory"
	"github.com/sallyport-mesh/sallyport/coordinator/internal/store"
	"github.com/sallyport-mesh/sallyport/coordinator/internal/store/storetest"
	"github.com/sallyport-mesh/sallyport/coordinator/internal/tailnet"
	apiv1 "github.com/sallyport-mesh/sallyport/pkg/api/sallyport/v1"
	"github.com/sallyport-mesh/sallyport/pkg/policy"
)

// world is a real store and directory, and a hub on them.
type world struct {
	t         testing.TB
	store     *failing
	directory *directory.Directory
	signer    *policy.Signer
	verifier  *policy.Verifier
	cfg       Config
	hub       *Hub
	stop      func()
	topology  atomic.Pointer[tailnet.Topology]
}

// failing is a real store whose commits can be made to fail.
type failing struct {
	store.Store
	fail atomic.Bool
}

func (f *failing) Update(ctx context.Context, do func(store.Txn) error) (uint64, error) {
	if f.fail.Load() {
		return 0, errors.New("no room left")
	}
	return f.Store.Update(ctx, do)
}

func newWorld(t testing.TB, f ...func(*Config)) *world {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, store: &failing{Store: storetest.New(t)}}
	if w.signer, err = policy.NewSigner(key); err != nil {
		t.Fatal(err)
	}
	if w.verifier, err = policy.NewVerifier(w.signer.Public()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	if w.directory, err = directory.Open(ctx, directory.Config{Store: w.store.Store, Builtin: policy.Builtin()}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cancel(); <-w.directory.Done() })
	w.cfg = Config{
		Directory: w.directory, Store: w.store, Signer: w.signer, Domain: "mesh.test",
		Issuer:     Issuer{TrustDomain: "example.test", UserCAs: [][]byte{[]byte("authority")}},
		OnTopology: func(t *tailnet.Topology) { w.topology.Store(t) },
		Heartbeat:  50 * time.Millisecond,
		Patience:   time.Minute,
	}
	for _, g := range f {
		g(&w.cfg)
	}
	w.start()
	return w
}

func (w *world) start() {
	w.t.Helper()
	h, err := New(w.t.Context(), w.cfg)
	if err != nil {
		w.t.Fatal(err)
	}
	w.hub = h
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- h.Run(ctx) }()
	w.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			w.t.Errorf("hub: %v", err)
		}
	})
	w.t.Cleanup(w.stop)
	if err := h.look(ctx); err != nil {
		w.t.Fatal(err)
	}
}

// restart ends the hub and begins another on the same store.
func (w *world) restart() {
	w.t.Helper()
	w.stop()
	w.topology.Store(nil)
	w.start()
}

// settle makes the hub look at the directory as it is now.
func (w *world) settle() {
	w.t.Helper()
	if err := w.hub.look(w.t.Context()); err != nil {
		w.t.Fatal(err)
	}
}

// eventually waits for a condition, for a minute at most.
func (w *world) eventually(what string, ok func() bool) {
	w.t.Helper()
	for deadline := time.Now().Add(time.Minute); !ok(); {
		if time.Now().After(deadline) {
			w.t.Fatalf("never happened: %s", what)
		}
		time.Sleep(time.Millisecond)
	}
}

func must[T any](t testing.TB, v T, rev uint64, err error) (T, uint64) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	return v, rev
}

func (w *world) user(name string) *apiv1.User {
	u, rev, err := w.directory.CreateUser(w.t.Context(), directory.UserSpec{Name: name})
	u, _ = must(w.t, u, rev, err)
	return u
}

func (w *world) project(name string) *apiv1.Project {
	p, rev, err := w.directory.CreateProject(w.t.Context(), name)
	p, _ = must(w.t, p, rev, err)
	return p
}

func (w *world) grant(spec directory.GrantSpec) (*apiv1.Grant, uint64) {
	g, rev, err := w.directory.CreateGrant(w.t.Context(), spec)
	return must(w.t, g, rev, err)
}

var keys32 atomic.Uint64

func freshKey() [32]byte { return sha256.Sum256([]byte{byte(keys32.Add(1)), byte(keys32.Load() >> 8)}) }

// cluster adds a cluster with one agent.
func (w *world) cluster(name, project string) (*apiv1.Cluster, *apiv1.Agent) {
	w.t.Helper()
	c, token, _, err := w.directory.CreateCluster(w.t.Context(), directory.ClusterSpec{Name: name, Project: project, Ceiling: "admin"})
	if err != nil {
		w.t.Fatal(err)
	}
	a, _, err := w.directory.RedeemJoinToken(w.t.Context(), directory.Join{
		Token: token.Secret, KubeSystemUID: "uid-of-" + name, KeySHA256: freshKey(), CheckpointVKey: "vkey", Version: "test",
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return c, a
}

// login adds a device with a session.
func (w *world) login(u *apiv1.User, lifetime time.Duration) (*apiv1.Device, *apiv1.Session) {
	w.t.Helper()
	d, rev, err := w.directory.EnrollDevice(w.t.Context(), directory.DeviceSpec{UserID: u.Id, KeySHA256: freshKey(), Name: u.Name + "'s Laptop", OS: "linux"})
	d, _ = must(w.t, d, rev, err)
	s, rev, err := w.directory.CreateSession(w.t.Context(), u.Id, d.Id, lifetime)
	s, _ = must(w.t, s, rev, err)
	return d, s
}

// reaches reports whether the overlay has the edge.
func (w *world) reaches(d *apiv1.Device, a *apiv1.Agent) bool {
	t := w.topology.Load()
	return t != nil && slices.Contains(t.Reach[d.Id], a.Id)
}

// agentSim is an agent at the other end of Watch: it verifies what comes, and
// confirms as it is told to.
type agentSim struct {
	w    *world
	id   string
	stop func()

	mu     sync.Mutex
	policy *policy.Policy
	bytes  []byte
	beats  int
	last   *apiv1.Heartbeat
	got    []uint64 // revisions, as they came
	// What it confirms by itself.
	cut, clean bool
	problem    string
	// When set, every directive waits until it is closed.
	gate chan struct{}
}

// agent connects one that holds nothing.
func (w *world) agent(a *apiv1.Agent, f ...func(*agentSim)) *agentSim {
	w.t.Helper()
	s := &agentSim{w: w, id: a.Id, cut: true, clean: true}
	for _, g := range f {
		g(s)
	}
	s.connect(0)
	return s
}

func (s *agentSim) connect(held uint64) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		req := &apiv1.AgentWatchRequest{HeldRevision: held, Version: "test", Features: policy.Features}
		if err := s.w.hub.Watch(ctx, s.id, req, func(d *apiv1.AgentDirective) error { return s.receive(ctx, d) }); ctx.Err() == nil && !errors.Is(err, ErrRemoved) {
			s.w.t.Errorf("watch: %v", err)
		}
	}()
	s.stop = sync.OnceFunc(func() { cancel(); <-done })
	s.w.t.Cleanup(s.stop)
}

func (s *agentSim) receive(ctx context.Context, d *apiv1.AgentDirective) error {
	s.mu.Lock()
	gate := s.gate
	s.mu.Unlock()
	if gate != nil {
		select {
		case <-gate:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if h := d.GetHeartbeat(); h != nil {
		if err := s.w.verifier.Verify(policy.HeartbeatContext, h); err != nil {
			return err
		}
		beat, err := policy.ParseHeartbeat(h.Payload)
		if err != nil {
			return err
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.last != nil && beat.Time.AsTime().Before(s.last.Time.AsTime()) {
			s.w.t.Errorf("heartbeats went back in time")
		}
		sum := sha256.Sum256(s.bytes)
		if s.bytes != nil && (beat.Revision != s.policy.Revision() || string(beat.BundleSha256) != string(sum[:])) {
			s.w.t.Errorf("heartbeat for revision %d, bundle held %d", beat.Revision, s.policy.Revision())
		}
		s.beats, s.last = s.beats+1, beat
		return nil
	}
	if err := s.w.verifier.Verify(policy.BundleContext, d.GetBundle()); err != nil {
		return err
	}
	b, err := policy.ParseBundle(d.GetBundle().Payload)
	if err != nil {
		return err
	}
	p, err := policy.Compile(b)
	if err != nil {
		s.w.t.Errorf("bundle does not compile: %v", err)
		return err
	}
	s.mu.Lock()
	if s.policy != nil && b.Revision <= s.policy.Revision() {
		s.w.t.Errorf("revision %d came after %d", b.Revision, s.policy.Revision())
	}
	s.policy, s.bytes, s.got = p, d.GetBundle().Payload, append(s.got, b.Revision)
	cut, clean := s.cut, s.clean
	s.mu.Unlock()
	if cut {
		s.confirm(b.Revision, clean)
	}
	return nil
}

func (s *agentSim) confirm(revision uint64, clean bool) {
	req := &apiv1.ConfirmRequest{Revision: revision, CutAt: timestamppb.Now(), CutStreams: 3, Problem: s.problem}
	if clean {
		req.CleanAt = timestamppb.Now()
	}
	if err := s.w.hub.Confirm(s.id, req); err != nil {
		s.w.t.Errorf("confirm: %v", err)
	}
}

func (s *agentSim) held() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.policy == nil {
		return 0
	}
	return s.policy.Revision()
}

// allows asks the agent's policy whether a user may do anything.
func (s *agentSim) allows(u *apiv1.User) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.policy != nil && s.policy.Decide(policy.Attributes{
		UserID: u.Id, Generation: 1 << 40, ResourceRequest: true,
		Verb: "create", APIGroup: "authorization.k8s.io", Resource: "selfsubjectrulesreviews",
	}).Allowed
}

// caughtUp waits until the agent holds the newest bundle of its cluster.
func (s *agentSim) caughtUp() {
	s.w.t.Helper()
	s.w.settle()
	c := s.w.directory.Snapshot().Agents[s.id].GetClusterId()
	s.w.eventually("agent holds the newest bundle", func() bool { return s.held() == s.w.hub.BundleRevision(c) })
}

// effects collects what Effects says.
func (w *world) effects(revision uint64) (committed *apiv1.Committed, agents []*apiv1.AgentEffect) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), 2*time.Minute)
	defer cancel()
	err := w.hub.Effects(ctx, revision, func(e *apiv1.Effect) error {
		if c := e.GetCommitted(); c != nil {
			if committed != nil || len(agents) > 0 {
				w.t.Error("committed is not the first message, or comes twice")
			}
			committed = c
		} else {
			agents = append(agents, e.GetAgent())
		}
		return nil
	})
	if err != nil {
		w.t.Fatal(err)
	}
	if committed == nil {
		w.t.Fatal("nothing was said to be committed")
	}
	return committed, agents
}

func lines(agents []*apiv1.AgentEffect) string {
	var out []string
	for _, a := range agents {
		out = append(out, a.String())
	}
	return strings.Join(out, "\n")
}
