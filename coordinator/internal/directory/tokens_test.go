package directory

import (
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sallyport-mesh/sallyport/coordinator/internal/store"
	apiv1 "github.com/sallyport-mesh/sallyport/pkg/api/sallyport/v1"
)

func join(token JoinToken, uid string, key byte) Join {
	return Join{Token: token.Secret, KubeSystemUID: uid, KeySHA256: [32]byte{key}, CheckpointVKey: "origin+abcd+key", Version: "v0.1.0"}
}

func problem(err error) TokenProblem {
	if e, ok := errors.AsType[*TokenError](err); ok {
		return e.Problem
	}
	return 0
}

func TestJoinTokenWorksOnceForItsCluster(t *testing.T) {
	f := open(t)
	ctx := t.Context()
	ok[*apiv1.Project](t)(f.CreateProject(ctx, "aws"))
	c, token := f.cluster("edge-1", "aws")

	// Many replicas race for one token: one wins.
	var group sync.WaitGroup
	var mu sync.Mutex
	var winner *apiv1.Agent
	for i := range 8 {
		group.Go(func() {
			a, _, err := f.RedeemJoinToken(ctx, join(token, "uid-edge-1", byte(i)))
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err == nil && winner == nil:
				winner = a
			case err == nil:
				t.Error("the token worked twice")
			case problem(err) != TokenUsed:
				t.Errorf("replica %d: %v", i, err)
			}
		})
	}
	group.Wait()
	if winner == nil || winner.ClusterId != c.Id || f.Snapshot().Clusters[c.Id].KubeSystemUid != "uid-edge-1" {
		t.Fatalf("winner %v", winner)
	}

	// Another Kubernetes cluster with a good token is refused and told why, and
	// the token stays good for the right one.
	again := ok[JoinToken](t)(f.CreateJoinToken(ctx, "edge-1", 0))
	_, _, err := f.RedeemJoinToken(ctx, join(again, "uid-of-another", 90))
	if err == nil || !strings.Contains(err.Error(), "bound to another Kubernetes cluster") {
		t.Errorf("another cluster: %v", err)
	}
	second := ok[*apiv1.Agent](t)(f.RedeemJoinToken(ctx, join(again, "uid-edge-1", 91)))
	if second.Id == winner.Id || len(f.Snapshot().AgentsOf(c.Id)) != 2 {
		t.Errorf("second replica: %v", second)
	}

	// A replica whose answer was lost comes again, with all that it had.
	if a := ok[*apiv1.Agent](t)(f.RedeemJoinToken(ctx, join(again, "uid-edge-1", 91))); a.Id != second.Id || len(f.Snapshot().AgentsOf(c.Id)) != 2 {
		t.Errorf("asking again made %s of %s", a.Id, second.Id)
	}
	other := join(again, "uid-edge-1", 91)
	other.CheckpointVKey = "another"
	for _, j := range []Join{join(again, "uid-edge-1", 92), join(again, "uid-of-another", 91), other} {
		if _, _, err := f.RedeemJoinToken(ctx, j); problem(err) != TokenUsed {
			t.Errorf("a used token, presented by another: %v", err)
		}
	}
	// Or with a fresh token.
	third := ok[JoinToken](t)(f.CreateJoinToken(ctx, "edge-1", 0))
	if a := ok[*apiv1.Agent](t)(f.RedeemJoinToken(ctx, join(third, "uid-edge-1", 91))); a.Id != second.Id {
		t.Errorf("the same key became %s, was %s", a.Id, second.Id)
	}
	f.cluster("edge-2", "aws")
	elsewhere := ok[JoinToken](t)(f.CreateJoinToken(ctx, "edge-2", 0))
	if _, _, err := f.RedeemJoinToken(ctx, join(elsewhere, "uid-edge-2", 91)); err == nil {
		t.Error("one key is an agent of two clusters")
	}
}

func TestJoinTokenProblemsAreToldApart(t *testing.T) {
	f := open(t)
	ctx := t.Context()
	ok[*apiv1.Project](t)(f.CreateProject(ctx, "aws"))
	_, token := f.cluster("edge-1", "aws")
	if _, _, err := f.RedeemJoinToken(ctx, join(JoinToken{Secret: "jtk-guess"}, "uid-edge-1", 1)); problem(err) != TokenUnknown {
		t.Errorf("unknown: %v", err)
	}
	short := ok[JoinToken](t)(f.CreateJoinToken(ctx, "edge-1", time.Minute))
	f.clock.Advance(time.Minute)
	if _, _, err := f.RedeemJoinToken(ctx, join(short, "uid-edge-1", 1)); problem(err) != TokenExpired {
		t.Errorf("expired: %v", err)
	}
	token.Secret = " " + token.Secret + "\n" // as pasted
	ok[*apiv1.Agent](t)(f.RedeemJoinToken(ctx, join(token, "uid-edge-1", 1)))
	_, _, err := f.RedeemJoinToken(ctx, join(token, "uid-edge-1", 2))
	if problem(err) != TokenUsed || strings.Contains(err.Error(), strings.TrimSpace(token.Secret)) || Hint(err) == "" {
		t.Errorf("used: %v", err)
	}
	// A cluster that is gone takes its tokens along.
	left := ok[JoinToken](t)(f.CreateJoinToken(ctx, "edge-1", 0))
	ok[*apiv1.Cluster](t)(f.DeleteCluster(ctx, "edge-1"))
	if _, _, err := f.RedeemJoinToken(ctx, join(left, "uid-edge-1", 2)); problem(err) != TokenUnknown {
		t.Errorf("of a deleted cluster: %v", err)
	}
}

func TestTokensAreNotInTheStore(t *testing.T) {
	f := open(t)
	ctx := t.Context()
	f.user("u")
	ok[*apiv1.User](t)(f.SetPassword(ctx, "u", "correct horse"))
	ok[*apiv1.Project](t)(f.CreateProject(ctx, "aws"))
	_, token := f.cluster("edge-1", "aws")
	w := ok[Welcome](t)(f.CreateWelcome(ctx, "u", 0))
	err := f.store.View(ctx, func(r store.Reader) error {
		return r.List("", func(it store.Item) error {
			for _, secret := range []string{token.Secret, w.Secret, "correct horse"} {
				if strings.Contains(it.Key+string(it.Value), secret) {
					t.Errorf("key %s holds a secret", it.Key)
				}
			}
			return nil
		})
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestRemovedAgentStaysOut(t *testing.T) {
	f := open(t)
	ctx := t.Context()
	ok[*apiv1.Project](t)(f.CreateProject(ctx, "aws"))
	c, token := f.cluster("edge-1", "aws")
	a := ok[*apiv1.Agent](t)(f.RedeemJoinToken(ctx, join(token, "uid-edge-1", 1)))
	if got := ok[*apiv1.Agent](t)(f.RenewAgent(ctx, a.Id, [32]byte{1}, "v0.2.0")); got.Version != "v0.2.0" {
		t.Errorf("renewed as %v", got)
	}
	if _, _, err := f.RenewAgent(ctx, a.Id, [32]byte{2}, ""); err == nil {
		t.Error("renewed with another key")
	}
	ok[*apiv1.Agent](t)(f.RemoveAgent(ctx, a.Id))
	if len(f.Snapshot().AgentsOf(c.Id)) != 0 {
		t.Error("a removed agent is listed")
	}
	if _, _, err := f.RenewAgent(ctx, a.Id, [32]byte{1}, ""); err == nil {
		t.Error("a removed agent renewed")
	}
	fresh := ok[JoinToken](t)(f.CreateJoinToken(ctx, "edge-1", 0))
	if _, _, err := f.RedeemJoinToken(ctx, join(fresh, "uid-edge-1", 1)); err == nil {
		t.Error("a removed agent joined with its old key")
	}
}

func TestDeviceKeyIsOneDeviceOfOneUser(t *testing.T) {
	f := open(t)
	ctx := t.Context()
	u, other := f.user("shivam"), f.user("virat")
	dev := f.device(u, 1)
	if again := f.device(u, 1); again.Id != dev.Id {
		t.Errorf("the same key became %s, was %s", again.Id, dev.Id)
	}
	if _, _, err := f.EnrollDevice(ctx, DeviceSpec{UserID: other.Id, KeySHA256: [32]byte{1}}); err == nil || Hint(err) == "" {
		t.Errorf("another user's login with the key: %v", err)
	}
	if _, _, err := f.CreateSession(ctx, other.Id, dev.Id, time.Hour); err == nil {
		t.Error("a session on another's device")
	}
	ses := f.session(u, dev)
	ok[*apiv1.Device](t)(f.RevokeDevice(ctx, dev.Id))
	if !f.Snapshot().Sessions[ses.Id].Revoked {
		t.Error("a session outlived its device")
	}
	if _, _, err := f.EnrollDevice(ctx, DeviceSpec{UserID: u.Id, KeySHA256: [32]byte{1}}); err != errDeviceRevoked {
		t.Errorf("a revoked device: %v", err)
	}
	if _, _, err := f.SetSessionSerial(ctx, ses.Id, "01"); err == nil {
		t.Error("a certificate was noted for a revoked session")
	}
	if _, _, err := f.CreateSession(ctx, u.Id, dev.Id, time.Hour); err != errDeviceRevoked {
		t.Errorf("a session on a revoked device: %v", err)
	}
	if _, _, err := f.CreateSession(ctx, u.Id, f.device(u, 2).Id, 169*time.Hour); err == nil {
		t.Error("a session longer than the limit")
	}
}
