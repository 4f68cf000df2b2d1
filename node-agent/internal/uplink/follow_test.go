package uplink

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/sallyport-mesh/sallyport/node-agent/internal/bundle"
	apiv1 "github.com/sallyport-mesh/sallyport/pkg/api/sallyport/v1"
	"github.com/sallyport-mesh/sallyport/pkg/api/sallyport/v1/apiv1connect"
	"github.com/sallyport-mesh/sallyport/pkg/policy"
)

// hub is the coordinator's end: real Connect over HTTP, with the test at the pen.
type hub struct {
	apiv1connect.UnimplementedAgentServiceHandler
	t      *testing.T
	signer *policy.Signer
	ca     []byte

	mu       sync.Mutex
	changed  chan struct{}
	watches  []*apiv1.AgentWatchRequest
	confirms []*apiv1.ConfirmRequest
	refuse   int                         // how many confirmations fail
	streams  map[chan *apiv1.Signed]bool // bundles to send, and false for heartbeats
	kick     map[chan *apiv1.Signed]func()
}

func newHub(t *testing.T) *hub {
	t.Helper()
	pub, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := policy.NewSigner(key)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1)}
	ca, err := x509.CreateCertificate(rand.Reader, template, template, pub, key)
	if err != nil {
		t.Fatal(err)
	}
	return &hub{t: t, signer: signer, ca: ca, changed: make(chan struct{}), streams: map[chan *apiv1.Signed]bool{}, kick: map[chan *apiv1.Signed]func(){}}
}

func (h *hub) note() {
	close(h.changed)
	h.changed = make(chan struct{})
}

func (h *hub) Watch(ctx context.Context, req *connect.Request[apiv1.AgentWatchRequest], s *connect.ServerStream[apiv1.AgentDirective]) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ch := make(chan *apiv1.Signed, 16)
	h.mu.Lock()
	h.watches = append(h.watches, req.Msg)
	h.streams[ch], h.kick[ch] = true, cancel
	h.note()
	h.mu.Unlock()
	defer func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		delete(h.streams, ch)
		delete(h.kick, ch)
		h.note()
	}()
	for {
		select {
		case <-ctx.Done():
			return connect.NewError(connect.CodeUnavailable, errors.New("going away"))
		case signed := <-ch:
			d := &apiv1.AgentDirective{Kind: &apiv1.AgentDirective_Bundle{Bundle: signed}}
			if _, err := policy.ParseBundle(signed.Payload); err != nil {
				d = &apiv1.AgentDirective{Kind: &apiv1.AgentDirective_Heartbeat{Heartbeat: signed}}
			}
			if err := s.Send(d); err != nil {
				return err
			}
		}
	}
}

func (h *hub) Confirm(_ context.Context, req *connect.Request[apiv1.ConfirmRequest]) (*connect.Response[apiv1.ConfirmResponse], error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.refuse > 0 {
		h.refuse--
		return nil, connect.NewError(connect.CodeUnavailable, errors.New("not now"))
	}
	h.confirms = append(h.confirms, req.Msg)
	h.note()
	return connect.NewResponse(&apiv1.ConfirmResponse{}), nil
}

// wait waits until something has happened, for a minute at most.
func (h *hub) wait(what string, ok func() bool) {
	h.t.Helper()
	deadline := time.NewTimer(time.Minute)
	defer deadline.Stop()
	for {
		h.mu.Lock()
		done, changed := ok(), h.changed
		h.mu.Unlock()
		if done {
			return
		}
		select {
		case <-changed:
		case <-deadline.C:
			h.t.Fatalf("never happened: %s", what)
		}
	}
}

func (h *hub) confirmed(what string, ok func(*apiv1.ConfirmRequest) bool) {
	h.t.Helper()
	h.wait(what, func() bool { return slices.ContainsFunc(h.confirms, ok) })
}

// send sends over the one stream there is, once there is one.
func (h *hub) send(s *apiv1.Signed) {
	h.t.Helper()
	h.wait("a stream", func() bool { return len(h.streams) == 1 })
	h.mu.Lock()
	defer h.mu.Unlock()
	for ch := range h.streams {
		ch <- s
	}
}

// drop ends the streams.
func (h *hub) drop() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, cancel := range h.kick {
		cancel()
	}
}

func (h *hub) bundle(revision uint64, f ...func(*apiv1.Bundle)) *apiv1.Signed {
	h.t.Helper()
	b := &apiv1.Bundle{
		ClusterId: "cls-1", ClusterName: "edge-1", Revision: revision, TrustDomain: "example.test", UserCa: [][]byte{h.ca},
		IssuedAt: timestamppb.Now(), Roles: policy.Builtin(),
		Subjects: []*apiv1.BundleSubject{{UserId: "a", Name: "a"}},
		Grants:   []*apiv1.BundleGrant{{Id: "grt-1", UserId: "a", Role: policy.View}},
	}
	for _, g := range f {
		g(b)
	}
	b.Requires = append(b.Requires, policy.Requires(b)...)
	data, err := proto.Marshal(b)
	if err != nil {
		h.t.Fatal(err)
	}
	return h.signer.Sign(policy.BundleContext, data)
}

func (h *hub) beat(of *apiv1.Signed) *apiv1.Signed {
	h.t.Helper()
	b, err := policy.ParseBundle(of.Payload)
	if err != nil {
		h.t.Fatal(err)
	}
	sum := sha256.Sum256(of.Payload)
	data, err := proto.Marshal(&apiv1.Heartbeat{ClusterId: "cls-1", Revision: b.Revision, BundleSha256: sum[:], Time: timestamppb.Now()})
	if err != nil {
		h.t.Fatal(err)
	}
	return h.signer.Sign(policy.HeartbeatContext, data)
}

// follow runs Follow against the hub until the test ends.
func (h *hub) follow(dir string, f ...func(*FollowConfig)) *bundle.Keeper {
	h.t.Helper()
	mux := http.NewServeMux()
	mux.Handle(apiv1connect.NewAgentServiceHandler(h))
	server := httptest.NewUnstartedServer(mux)
	server.EnableHTTP2 = true
	server.StartTLS()
	v, err := policy.NewVerifier(h.signer.Public())
	if err != nil {
		h.t.Fatal(err)
	}
	k, err := bundle.Open(h.t.Context(), bundle.Config{Dir: dir, ClusterID: "cls-1", TrustDomain: "example.test", Verifier: v})
	if err != nil {
		h.t.Fatal(err)
	}
	cfg := FollowConfig{
		Client: apiv1connect.NewAgentServiceClient(server.Client(), server.URL), Keeper: k, Version: "test",
		Cut: func(*policy.Policy) int { return 0 }, Clean: func(context.Context, *policy.Policy) error { return nil },
		Backoff: 200 * time.Millisecond,
	}
	for _, g := range f {
		g(&cfg)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- Follow(ctx, cfg) }()
	h.t.Cleanup(func() {
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			h.t.Errorf("follow: %v", err)
		}
		server.Close()
	})
	return k
}

func cutOf(revision uint64) func(*apiv1.ConfirmRequest) bool {
	return func(c *apiv1.ConfirmRequest) bool { return c.Revision == revision && c.CutAt != nil }
}

func cleanOf(revision uint64) func(*apiv1.ConfirmRequest) bool {
	return func(c *apiv1.ConfirmRequest) bool { return c.Revision == revision && c.CleanAt != nil }
}

func TestBundleIsInForceThenCutThenCleaned(t *testing.T) {
	h := newHub(t)
	var mu sync.Mutex
	var order []string
	say := func(s string) { mu.Lock(); defer mu.Unlock(); order = append(order, s) }
	k := h.follow(t.TempDir(), func(c *FollowConfig) {
		keeper := c.Keeper
		c.Ceiling = func() []byte { return []byte("[]") }
		c.Cut = func(p *policy.Policy) int {
			if keeper.Current() != p {
				t.Error("cut by a policy that is not in force")
			}
			say("cut")
			return 3
		}
		c.Clean = func(_ context.Context, p *policy.Policy) error {
			if p.Revision() == 5 {
				say("clean")
			}
			return nil
		}
	})
	b := h.bundle(5)
	h.send(b)
	h.confirmed("cut", func(c *apiv1.ConfirmRequest) bool {
		return cutOf(5)(c) && c.CutStreams == 3 && c.ReceivedAt != nil && c.Problem == ""
	})
	h.confirmed("clean", func(c *apiv1.ConfirmRequest) bool { return cleanOf(5)(c) && cutOf(5)(c) && c.CutStreams == 3 })
	mu.Lock()
	if !slices.Equal(order, []string{"cut", "clean"}) {
		t.Errorf("order %v", order)
	}
	mu.Unlock()
	if err := k.Fresh(policy.Read); err == nil {
		t.Error("fresh without a heartbeat")
	}
	h.send(h.beat(b)) // not confirmed, but the bundle after it is
	h.send(h.bundle(6))
	h.confirmed("the next one", cutOf(6))
	if err := k.Fresh(policy.Exec); err != nil {
		t.Error(err)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if w := h.watches[0]; w.HeldRevision != 0 || w.Version != "test" || string(w.CeilingRules) != "[]" || !slices.Equal(w.Features, policy.Features) {
		t.Errorf("asked with %v", w)
	}
}

func TestSlowCleaningDelaysNoCut(t *testing.T) {
	h := newHub(t)
	release, busy := make(chan struct{}), make(chan uint64, 10)
	h.follow(t.TempDir(), func(c *FollowConfig) {
		c.Clean = func(ctx context.Context, p *policy.Policy) error {
			busy <- p.Revision()
			select {
			case <-release:
			case <-ctx.Done():
			}
			return ctx.Err()
		}
	})
	h.send(h.bundle(5))
	<-busy
	for r := uint64(6); r < 10; r++ {
		h.send(h.bundle(r))
		h.confirmed("cut while cleaning", cutOf(r))
	}
	close(release)
	h.confirmed("clean up to the newest", cleanOf(9))
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, c := range h.confirms {
		if c.CleanAt != nil && c.Revision != 5 && c.Revision != 9 {
			t.Errorf("cleaned up to %d, which was over", c.Revision)
		}
	}
}

func TestFailedCleaningIsSaidAndTriedAgain(t *testing.T) {
	h := newHub(t)
	var mu sync.Mutex
	failures := 1
	h.follow(t.TempDir(), func(c *FollowConfig) {
		c.Clean = func(context.Context, *policy.Policy) error {
			mu.Lock()
			defer mu.Unlock()
			if failures > 0 {
				failures--
				return errors.New("the apiserver did not answer")
			}
			return nil
		}
	})
	h.send(h.bundle(5))
	h.confirmed("the problem", func(c *apiv1.ConfirmRequest) bool {
		return cutOf(5)(c) && c.CleanAt == nil && c.Problem == "cleaning up: the apiserver did not answer"
	})
	h.confirmed("clean after all", func(c *apiv1.ConfirmRequest) bool { return cleanOf(5)(c) && c.Problem == "" })
}

func TestRefusedBundleIsSaidAndTheStreamGoesOn(t *testing.T) {
	h, stranger := newHub(t), newHub(t)
	k := h.follow(t.TempDir())
	h.send(h.bundle(5))
	h.confirmed("cut", cutOf(5))
	for name, s := range map[string]*apiv1.Signed{"older": h.bundle(4), "forged": stranger.bundle(6)} {
		h.send(s)
		h.confirmed(name+" refused", func(c *apiv1.ConfirmRequest) bool { return c.CutAt == nil && c.Problem != "" && c.Revision != 5 })
	}
	h.send(h.bundle(7))
	h.confirmed("the next one", func(c *apiv1.ConfirmRequest) bool { return cutOf(7)(c) && c.Problem == "" })
	if k.Held() != 7 || len(h.watches) != 1 {
		t.Errorf("held %d, %d streams", k.Held(), len(h.watches))
	}
}

func TestBundleThatCannotBeUsedCutsEverything(t *testing.T) {
	h := newHub(t)
	cuts := make(chan *policy.Policy, 10)
	h.follow(t.TempDir(), func(c *FollowConfig) {
		c.Cut = func(p *policy.Policy) int { cuts <- p; return 1 }
	})
	h.send(h.bundle(5, func(b *apiv1.Bundle) { b.Requires = []string{"moon-phase.v1"} }))
	h.confirmed("cut, and why", func(c *apiv1.ConfirmRequest) bool { return cutOf(5)(c) && c.Problem != "" })
	p := <-cuts
	if d := p.Decide(policy.Attributes{UserID: "a", Verb: "get", Resource: "pods", Namespace: "x", Name: "p", ResourceRequest: true}); d.Allowed {
		t.Error("still open")
	}
}

func TestComesBackWithWhatItHoldsAndSaysItAgain(t *testing.T) {
	h := newHub(t)
	dir := t.TempDir()
	h.follow(dir)
	h.send(h.bundle(5))
	h.confirmed("clean", cleanOf(5))
	h.drop()
	h.wait("another stream", func() bool { return len(h.watches) == 2 && len(h.streams) == 1 })
	h.mu.Lock()
	if held := h.watches[1].HeldRevision; held != 5 {
		t.Errorf("came back holding %d", held)
	}
	h.confirms = nil // the coordinator was restarted and has forgotten
	h.mu.Unlock()
	h.send(h.beat(h.bundle(5)))
	h.confirmed("said again", cleanOf(5))
}

func TestRestartedAgentConfirmsWhatItKept(t *testing.T) {
	dir := t.TempDir()
	h := newHub(t)
	t.Run("before", func(t *testing.T) {
		h.t = t
		h.follow(dir)
		h.send(h.bundle(5))
		h.confirmed("clean", cleanOf(5))
	})
	h.t, h.confirms, h.watches = t, nil, nil
	h.follow(dir)
	h.confirmed("clean again", cleanOf(5))
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.watches) > 0 && h.watches[0].HeldRevision != 5 {
		t.Errorf("holds %d", h.watches[0].HeldRevision)
	}
}

func TestSilentStreamIsGivenUp(t *testing.T) {
	h := newHub(t)
	h.follow(t.TempDir(), func(c *FollowConfig) { c.Silence = 300 * time.Millisecond })
	h.wait("three streams in all", func() bool { return len(h.watches) >= 3 })
}

func TestConfirmationIsSaidUntilItIsTaken(t *testing.T) {
	h := newHub(t)
	h.refuse = 4
	h.follow(t.TempDir())
	h.send(h.bundle(5))
	h.confirmed("cut", cutOf(5))
	h.confirmed("clean", cleanOf(5))
}

func TestExpiredGrantIsCleanedUpWithoutTheCoordinator(t *testing.T) {
	h := newHub(t)
	cleaned := make(chan int, 100)
	k := h.follow(t.TempDir(), func(c *FollowConfig) {
		c.Clean = func(_ context.Context, p *policy.Policy) error { cleaned <- len(p.Entitlements("a")); return nil }
	})
	h.send(h.bundle(5, func(b *apiv1.Bundle) {
		b.Grants[0].ExpiresAt = timestamppb.New(time.Now().Add(3 * time.Second))
		b.Grants = append(b.Grants, &apiv1.BundleGrant{Id: "grt-2", UserId: "a", Role: policy.Edit, Namespaces: []string{"x"}})
	}))
	if n := <-cleaned; n != 2 {
		t.Fatalf("%d entitlements at first", n)
	}
	if n := <-cleaned; n != 1 {
		t.Errorf("%d entitlements after the expiry", n)
	}
	if k.Held() != 5 {
		t.Errorf("held %d", k.Held())
	}
}

func TestBundleThatCannotBeKeptIsAskedForAgain(t *testing.T) {
	h := newHub(t)
	dir := filepath.Join(t.TempDir(), "policy")
	k := h.follow(dir, func(c *FollowConfig) { c.Silence = time.Hour })
	h.send(h.bundle(5))
	h.confirmed("cut", cutOf(5))
	if err := os.Rename(dir, dir+".gone"); err != nil {
		t.Fatal(err)
	}
	next := h.bundle(6)
	h.send(next)
	h.confirmed("closed, and why", func(c *apiv1.ConfirmRequest) bool { return cutOf(6)(c) && c.Problem != "" })
	if err := os.Rename(dir+".gone", dir); err != nil {
		t.Fatal(err)
	}
	h.wait("asked again", func() bool { return len(h.watches) == 2 && h.watches[1].HeldRevision == 5 && len(h.streams) == 1 })
	h.send(next)
	h.confirmed("open again", func(c *apiv1.ConfirmRequest) bool { return cutOf(6)(c) && c.Problem == "" })
	if k.Held() != 6 {
		t.Errorf("held %d", k.Held())
	}
}

func TestWhatChangesWithoutABundleIsCleanedUpToo(t *testing.T) {
	h := newHub(t)
	cleaned, changed := make(chan int, 100), make(chan struct{}, 1)
	k := h.follow(t.TempDir(), func(c *FollowConfig) {
		c.Changed = changed
		c.Clean = func(_ context.Context, p *policy.Policy) error { cleaned <- len(p.Entitlements("a")); return nil }
	})
	h.send(h.bundle(5, func(b *apiv1.Bundle) { b.Grants[0].NamespaceSelector = "team=a" }))
	if n := <-cleaned; n != 0 {
		t.Fatalf("%d entitlements before the labels are known", n)
	}
	k.SeeNamespaces(policy.Namespaces{"x": {"team": "a"}, "y": {"team": "b"}})
	changed <- struct{}{}
	if n := <-cleaned; n != 1 {
		t.Errorf("%d entitlements with the labels", n)
	}
	h.confirmed("clean", cleanOf(5))
}
