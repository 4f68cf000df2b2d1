package bundle

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/sallyport-mesh/sallyport/pkg/policy"

	apiv1 "github.com/sallyport-mesh/sallyport/pkg/api/sallyport/v1"
)

// world is a coordinator's pen, a machine with a clock, and a directory.
type world struct {
	t      *testing.T
	signer *policy.Signer
	ca     []byte
	dir    string

	coordinator time.Time     // true time
	wall        time.Time     // what the machine's wall clock says
	boot        time.Duration // since boot
	bootID      string
}

func newWorld(t *testing.T) *world {
	t.Helper()
	pub, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	s, err := policy.NewSigner(key)
	if err != nil {
		t.Fatal(err)
	}
	ca, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{SerialNumber: big.NewInt(1)}, &x509.Certificate{SerialNumber: big.NewInt(1)}, pub, key)
	if err != nil {
		t.Fatal(err)
	}
	start := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	return &world{t: t, signer: s, ca: ca, dir: filepath.Join(t.TempDir(), "policy"), coordinator: start, wall: start, boot: time.Hour, bootID: "one"}
}

func (w *world) open() *Keeper {
	w.t.Helper()
	v, err := policy.NewVerifier(w.signer.Public())
	if err != nil {
		w.t.Fatal(err)
	}
	k, err := Open(w.t.Context(), Config{
		Dir: w.dir, ClusterID: "cls-1", TrustDomain: "example.test", Verifier: v,
		Clock: Clock{Wall: func() time.Time { return w.wall }, Boot: func() time.Duration { return w.boot }, BootID: w.bootID},
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return k
}

// pass lets true time and the machine's go on together.
func (w *world) pass(d time.Duration) {
	w.coordinator, w.wall, w.boot = w.coordinator.Add(d), w.wall.Add(d), w.boot+d
}

// reboot turns the machine off for a while.
func (w *world) reboot(off time.Duration) {
	w.coordinator, w.wall, w.boot, w.bootID = w.coordinator.Add(off), w.wall.Add(off), 10*time.Second, w.bootID+"+"
}

func (w *world) bundle(revision uint64, f ...func(*apiv1.Bundle)) *apiv1.Signed {
	w.t.Helper()
	b := &apiv1.Bundle{
		ClusterId: "cls-1", ClusterName: "edge-1", Revision: revision, TrustDomain: "example.test", UserCa: [][]byte{w.ca},
		IssuedAt: timestamppb.New(w.coordinator), Roles: policy.Builtin(),
		Subjects: []*apiv1.BundleSubject{{UserId: "a", Name: "a"}},
		Grants:   []*apiv1.BundleGrant{{Id: "grt-1", UserId: "a", Role: policy.View}},
	}
	b.Requires = policy.Requires(b)
	for _, f := range f {
		f(b)
	}
	data, err := proto.Marshal(b)
	if err != nil {
		w.t.Fatal(err)
	}
	return w.signer.Sign(policy.BundleContext, data)
}

func (w *world) beat(of *apiv1.Signed, f ...func(*apiv1.Heartbeat)) *apiv1.Signed {
	w.t.Helper()
	b, err := policy.ParseBundle(of.Payload)
	if err != nil {
		w.t.Fatal(err)
	}
	sum := sha256.Sum256(of.Payload)
	h := &apiv1.Heartbeat{ClusterId: "cls-1", Revision: b.Revision, BundleSha256: sum[:], Time: timestamppb.New(w.coordinator)}
	for _, f := range f {
		f(h)
	}
	data, err := proto.Marshal(h)
	if err != nil {
		w.t.Fatal(err)
	}
	return w.signer.Sign(policy.HeartbeatContext, data)
}

func (w *world) accept(k *Keeper, s *apiv1.Signed) {
	w.t.Helper()
	if p, err := k.Accept(s); err != nil || p == nil || p != k.Current() {
		w.t.Fatalf("policy %v, current %v, error %v", p, k.Current(), err)
	}
}

func (w *world) mustBeat(k *Keeper, s *apiv1.Signed) {
	w.t.Helper()
	if err := k.Beat(s); err != nil {
		w.t.Fatal(err)
	}
}

// fresh checks which classes are fresh: "rwe", "r", "" …
func (w *world) fresh(k *Keeper, want string) {
	w.t.Helper()
	for c, letter := range map[policy.Class]string{policy.Read: "r", policy.Write: "w", policy.Exec: "e"} {
		err := k.Fresh(c)
		if err != nil && !errors.Is(err, ErrStale) {
			w.t.Errorf("%v: %v", c, err)
		}
		if (err == nil) != strings.Contains(want, letter) {
			w.t.Fatalf("%v: %v, want fresh for %q only", c, err, want)
		}
	}
}

var get = policy.Attributes{UserID: "a", Verb: "get", Resource: "pods", Namespace: "x", Name: "p", ResourceRequest: true}

func TestOnlyTheCoordinatorsNewerBundleForThisClusterIsTaken(t *testing.T) {
	w := newWorld(t)
	k := w.open()
	if k.Current() != nil || k.Held() != 0 {
		t.Fatal("a policy out of nowhere")
	}
	held := w.bundle(5)
	w.accept(k, held)
	if p, err := k.Accept(held); p != nil || err != nil {
		t.Errorf("the same bundle again: %v, %v", p, err)
	}
	stranger := newWorld(t)
	tampered := proto.CloneOf(w.bundle(9))
	tampered.Payload = append(tampered.Payload, 0x58, 0)
	for name, s := range map[string]*apiv1.Signed{
		"another key":       stranger.bundle(9),
		"another cluster":   w.bundle(9, func(b *apiv1.Bundle) { b.ClusterId = "cls-2" }),
		"another context":   w.signer.Sign(policy.HeartbeatContext, w.bundle(9).Payload),
		"tampered":          tampered,
		"older":             w.bundle(4),
		"same but not same": w.bundle(5, func(b *apiv1.Bundle) { b.Subjects[0].Name = "b" }),
		"garbage":           w.signer.Sign(policy.BundleContext, []byte("\xff\xff")),
		"nothing":           nil,
	} {
		if p, err := k.Accept(s); p != nil || err == nil || k.Problem() == "" {
			t.Errorf("%s: policy %v, error %v, problem %q", name, p, err, k.Problem())
		}
		if k.Held() != 5 || !k.Current().Decide(get).Allowed {
			t.Fatalf("%s: the policy held was lost", name)
		}
	}
	w.accept(k, w.bundle(6))
	if k.Problem() != "" {
		t.Errorf("problem %q stays after a good bundle", k.Problem())
	}
}

func TestBundleOutlivesARestartAndNeverGoesBack(t *testing.T) {
	w := newWorld(t)
	k := w.open()
	w.accept(k, w.bundle(5))
	w.accept(k, w.bundle(6))
	info, err := os.Stat(filepath.Join(w.dir, bundleFile))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("%v, %v", info, err)
	}
	k = w.open()
	if k.Held() != 6 || !k.Current().Decide(get).Allowed || k.UserCAs().Equal(x509.NewCertPool()) {
		t.Fatalf("held %d after a restart", k.Held())
	}
	if _, err := k.Accept(w.bundle(5)); err == nil {
		t.Error("an older bundle was taken after a restart")
	}
}

func TestForgedFileStopsTheAgent(t *testing.T) {
	w := newWorld(t)
	w.accept(w.open(), w.bundle(5))
	stranger := newWorld(t)
	v, err := policy.NewVerifier(stranger.signer.Public())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Open(t.Context(), Config{Dir: w.dir, ClusterID: "cls-1", Verifier: v}); err == nil {
		t.Error("opened with a bundle that nobody trusted signed")
	}
	if err := os.WriteFile(filepath.Join(w.dir, bundleFile), []byte("\xff"), 0o600); err != nil {
		t.Fatal(err)
	}
	v, _ = policy.NewVerifier(w.signer.Public())
	if _, err := Open(t.Context(), Config{Dir: w.dir, ClusterID: "cls-1", Verifier: v}); err == nil {
		t.Error("opened with a damaged bundle")
	}
}

func TestGenuineBundleThatCannotBeUsedClosesTheAgent(t *testing.T) {
	for name, f := range map[string]func(*apiv1.Bundle){
		"unknown feature":       func(b *apiv1.Bundle) { b.Requires = append(b.Requires, "moon-phase.v1") },
		"another trust domain":  func(b *apiv1.Bundle) { b.TrustDomain = "other.test" },
		"no authority":          func(b *apiv1.Bundle) { b.UserCa = nil },
		"damaged authority":     func(b *apiv1.Bundle) { b.UserCa = [][]byte{[]byte("x")} },
		"a role that is not in": func(b *apiv1.Bundle) { b.Grants[0].Role = "ghost" },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			k := w.open()
			w.accept(k, w.bundle(5))
			p, err := k.Accept(w.bundle(6, f))
			if p == nil || err == nil || k.Problem() == "" {
				t.Fatalf("policy %v, error %v, problem %q", p, err, k.Problem())
			}
			if d := k.Current().Decide(get); d.Allowed || d.Revision != 6 {
				t.Errorf("%+v", d)
			}
			// Neither a restart nor the older bundle opens it again.
			k = w.open()
			if d := k.Current().Decide(get); d.Allowed || k.Problem() == "" {
				t.Errorf("after a restart: %+v, problem %q", d, k.Problem())
			}
			if _, err := k.Accept(w.bundle(5)); err == nil {
				t.Error("the older bundle was taken")
			}
			w.accept(k, w.bundle(7))
			if !k.Current().Decide(get).Allowed || k.Problem() != "" {
				t.Errorf("a good one does not open it: problem %q", k.Problem())
			}
		})
	}
}

func TestBundleThatCannotBeKeptClosesTheAgentUntilItCan(t *testing.T) {
	w := newWorld(t)
	k := w.open()
	w.accept(k, w.bundle(5))
	if err := os.Rename(w.dir, w.dir+".gone"); err != nil {
		t.Fatal(err)
	}
	next := w.bundle(6)
	p, err := k.Accept(next)
	if p == nil || err == nil || k.Current().Decide(get).Allowed {
		t.Fatalf("policy %v, error %v: still open by a policy that is over", p, err)
	}
	if k.Held() != 5 {
		t.Errorf("held %d: it would not be sent again", k.Held())
	}
	if err := os.Rename(w.dir+".gone", w.dir); err != nil {
		t.Fatal(err)
	}
	w.accept(k, next)
	if k.Held() != 6 || !k.Current().Decide(get).Allowed {
		t.Error("not open again")
	}
}

func TestStalenessBudgetsBoundEachClass(t *testing.T) {
	w := newWorld(t)
	k := w.open()
	w.fresh(k, "")
	b := w.bundle(5)
	w.accept(k, b)
	w.fresh(k, "") // nobody has said yet that it is the newest
	w.mustBeat(k, w.beat(b))
	w.fresh(k, "rwe")
	w.pass(DefaultExecBudget)
	w.fresh(k, "rwe")
	w.pass(time.Second)
	w.fresh(k, "rw")
	if err := k.Fresh(policy.Exec); !strings.Contains(err.Error(), "2026-03-01T12:00:00Z, 15m1s ago") {
		t.Error(err)
	}
	w.pass(DefaultWriteBudget)
	w.fresh(k, "r")
	w.pass(DefaultReadBudget)
	w.fresh(k, "")
	w.mustBeat(k, w.beat(b))
	w.fresh(k, "rwe")

	short := w.bundle(6, func(b *apiv1.Bundle) {
		b.Budgets = &apiv1.StalenessBudgets{ReadSeconds: 3, WriteSeconds: 2, ExecSeconds: 1}
	})
	w.accept(k, short)
	w.fresh(k, "rwe") // the one before was the newest a moment ago
	w.pass(1500 * time.Millisecond)
	w.fresh(k, "rw")
	w.pass(time.Second)
	w.fresh(k, "r")
}

func TestOnlyAHeartbeatForTheBundleHeldProvesAnything(t *testing.T) {
	w := newWorld(t)
	k := w.open()
	b := w.bundle(5)
	w.accept(k, b)
	w.mustBeat(k, w.beat(b))
	w.pass(DefaultExecBudget + time.Second)
	stranger := newWorld(t)
	stranger.coordinator = w.coordinator
	for name, s := range map[string]*apiv1.Signed{
		"a newer bundle":  w.beat(w.bundle(6)),
		"an older bundle": w.beat(w.bundle(4)),
		"another bundle":  w.beat(b, func(h *apiv1.Heartbeat) { h.BundleSha256 = bytes.Repeat([]byte{1}, 32) }),
		"another cluster": w.beat(b, func(h *apiv1.Heartbeat) { h.ClusterId = "cls-2" }),
		"another key":     stranger.beat(b),
		"another context": w.signer.Sign(policy.BundleContext, w.beat(b).Payload),
		"the past":        w.beat(b, func(h *apiv1.Heartbeat) { h.Time = timestamppb.New(w.coordinator.Add(-time.Hour)) }),
		"no time":         w.beat(b, func(h *apiv1.Heartbeat) { h.Time = nil }),
		"nothing":         nil,
	} {
		if err := k.Beat(s); err == nil {
			t.Errorf("%s: no error", name)
		}
		w.fresh(k, "rw")
	}
	w.mustBeat(k, w.beat(b))
	w.fresh(k, "rwe")
}

func TestWallClockChangesNothing(t *testing.T) {
	w := newWorld(t)
	k := w.open()
	b := w.bundle(5)
	w.accept(k, b)
	w.mustBeat(k, w.beat(b))
	for _, jump := range []time.Duration{-48 * time.Hour, 96 * time.Hour} {
		w.wall = w.wall.Add(jump)
		w.fresh(k, "rwe")
		if now := k.Now(); !now.Equal(w.coordinator) {
			t.Errorf("now is %s", now)
		}
	}
	w.boot += DefaultExecBudget + time.Second // suspended, and nothing else moved
	w.fresh(k, "rw")
}

func TestHeldBackHeartbeatProvesOnlyItsOwnTime(t *testing.T) {
	w := newWorld(t)
	k := w.open()
	b := w.bundle(5)
	w.accept(k, b)
	w.mustBeat(k, w.beat(b))
	w.pass(time.Second)
	late := w.beat(b)
	w.pass(DefaultExecBudget + time.Minute)
	w.fresh(k, "rw")
	w.mustBeat(k, late)
	w.fresh(k, "rw")
	if behind := w.coordinator.Sub(k.Now()); behind > 2*time.Second {
		t.Errorf("a late heartbeat set the clock back by %s", behind)
	}
	w.mustBeat(k, w.beat(b))
	w.fresh(k, "rwe")
}

func TestFastClockIsCorrectedByHeartbeats(t *testing.T) {
	w := newWorld(t)
	k := w.open()
	b := w.bundle(5)
	w.accept(k, b)
	for range 2_000 { // eight hours, 500 ppm fast: fifteen seconds if they added up
		w.coordinator = w.coordinator.Add(15 * time.Second)
		w.boot += 15*time.Second + 7500*time.Microsecond
		w.mustBeat(k, w.beat(b))
	}
	if ahead := k.Now().Sub(w.coordinator); ahead.Abs() > 10*time.Millisecond {
		t.Errorf("ahead by %s", ahead)
	}
}

func TestRestartWithinABootForgetsNothing(t *testing.T) {
	w := newWorld(t)
	k := w.open()
	b := w.bundle(5)
	w.accept(k, b)
	w.mustBeat(k, w.beat(b))
	if err := k.Mark(); err != nil {
		t.Fatal(err)
	}
	w.pass(time.Minute)
	w.wall = time.Unix(0, 0)
	k = w.open()
	w.fresh(k, "rwe")
	w.pass(DefaultExecBudget)
	w.fresh(k, "rw")
	if !k.Now().Equal(w.coordinator) {
		t.Errorf("now is %s, not %s", k.Now(), w.coordinator)
	}
}

func TestAfterARebootWritesWaitForAHeartbeat(t *testing.T) {
	w := newWorld(t)
	k := w.open()
	b := w.bundle(5)
	w.accept(k, b)
	w.mustBeat(k, w.beat(b))
	if err := k.Mark(); err != nil {
		t.Fatal(err)
	}
	w.reboot(time.Minute)
	k = w.open()
	w.fresh(k, "r")
	// Another restart of the process does not make it forget that.
	if err := k.Mark(); err != nil {
		t.Fatal(err)
	}
	w.pass(time.Minute)
	k = w.open()
	w.fresh(k, "r")
	w.mustBeat(k, w.beat(b))
	w.fresh(k, "rwe")
}

func TestRebootsDoNotStretchTheReadBudget(t *testing.T) {
	w := newWorld(t)
	k := w.open()
	b := w.bundle(5)
	w.accept(k, b)
	w.mustBeat(k, w.beat(b))
	// Almost half a day at a time, with a wall clock that starts at nothing.
	for range 2 {
		for range 71 {
			w.pass(10 * time.Minute)
			if err := k.Mark(); err != nil {
				t.Fatal(err)
			}
		}
		w.fresh(k, "r")
		w.reboot(time.Second)
		w.wall = time.Unix(0, 0)
		k = w.open()
	}
	w.pass(21 * time.Minute)
	w.fresh(k, "")
}

func TestWallClockCanOnlyMakeItStalerAfterAReboot(t *testing.T) {
	w := newWorld(t)
	k := w.open()
	b := w.bundle(5)
	w.accept(k, b)
	w.mustBeat(k, w.beat(b))
	if err := k.Mark(); err != nil {
		t.Fatal(err)
	}
	w.reboot(2 * DefaultReadBudget) // the wall clock knows
	k = w.open()
	w.fresh(k, "")
	if err := k.Mark(); err != nil {
		t.Fatal(err)
	}
	// A wall clock that was wrong by years leaves no mark.
	w.wall = w.wall.Add(100 * 365 * 24 * time.Hour)
	k = w.open()
	w.fresh(k, "")
	if err := k.Mark(); err != nil {
		t.Fatal(err)
	}
	k = w.open()
	w.mustBeat(k, w.beat(b))
	w.fresh(k, "rwe")
	if !k.Now().Equal(w.coordinator) {
		t.Errorf("now is %s, not %s", k.Now(), w.coordinator)
	}
}

func TestGrantsEndByTheCoordinatorsClock(t *testing.T) {
	w := newWorld(t)
	k := w.open()
	b := w.bundle(5, func(b *apiv1.Bundle) {
		b.Grants[0].ExpiresAt = timestamppb.New(w.coordinator.Add(time.Minute))
		b.Requires = policy.Requires(b)
	})
	w.accept(k, b)
	w.mustBeat(k, w.beat(b))
	w.wall = w.wall.Add(time.Hour)
	if d := k.Current().Decide(get); !d.Allowed {
		t.Error("the wall clock ended a grant: " + d.Reason)
	}
	w.pass(time.Minute)
	w.wall = w.wall.Add(-48 * time.Hour)
	if d := k.Current().Decide(get); d.Allowed {
		t.Error("a grant outlived its end")
	}
}

func TestMarkIsWrittenNowAndThenOnly(t *testing.T) {
	w := newWorld(t)
	k := w.open()
	b := w.bundle(5)
	w.accept(k, b)
	written := 0
	var last []byte
	for range 100 { // 100 s
		w.pass(time.Second)
		w.mustBeat(k, w.beat(b))
		if err := k.Mark(); err != nil {
			t.Fatal(err)
		}
		data, err := os.ReadFile(filepath.Join(w.dir, markFile))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(data, last) {
			written, last = written+1, data
		}
	}
	if written != 4 {
		t.Errorf("written %d times in 100 s", written)
	}
}
