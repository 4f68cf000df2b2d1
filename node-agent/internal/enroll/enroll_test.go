package enroll_test

import (
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sallyport-mesh/sallyport/node-agent/internal/enroll"
	"github.com/sallyport-mesh/sallyport/node-agent/internal/enroll/enrolltest"
	apiv1 "github.com/sallyport-mesh/sallyport/pkg/api/sallyport/v1"
	"github.com/sallyport-mesh/sallyport/pkg/identity"
	"github.com/sallyport-mesh/sallyport/pkg/pki"
	"github.com/sallyport-mesh/sallyport/pkg/process"
)

const uid = "12345678-1234-1234-1234-123456789abc"

func mustEnroll(t *testing.T, c *enrolltest.Coordinator, dir string) *enroll.Identity {
	t.Helper()
	id, err := enroll.Enroll(t.Context(), enroll.Config{Dir: dir, Token: c.NewToken(), KubeSystemUID: uid, Version: "1"})
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func TestIdentityOutlivesTheProcess(t *testing.T) {
	c, dir := enrolltest.New(t), t.TempDir()
	first := mustEnroll(t, c, dir)
	again, err := enroll.Load(dir, "1")
	if err != nil {
		t.Fatal(err)
	}
	if a, b := first.Enrolment(), again.Enrolment(); a.AgentID != b.AgentID || a.AgentChain != b.AgentChain || b.KubeSystemUID != uid || first.Checkpoint != again.Checkpoint {
		t.Errorf("%+v\n%+v", a, b)
	}
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		if info, _ := e.Info(); info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v", e.Name(), info.Mode())
		}
	}
	if len(entries) != 3 {
		t.Errorf("%v", entries)
	}
}

func TestFailedEnrolmentLeavesNothing(t *testing.T) {
	good := enrolltest.New(t)
	used := good.NewToken()
	if _, err := enroll.Enroll(t.Context(), enroll.Config{Dir: t.TempDir(), Token: used, KubeSystemUID: uid, Version: "1"}); err != nil {
		t.Fatal(err)
	}
	other := enrolltest.New(t)
	elsewhere := good.NewToken()
	elsewhere.URL = other.Link.URL
	nobody := good.NewToken()
	nobody.URL = "https://127.0.0.1:1"
	spoiled := func(f func(*apiv1.EnrollAgentResponse)) pki.JoinToken {
		c := enrolltest.New(t)
		c.Spoil = f
		return c.NewToken()
	}
	for name, test := range map[string]struct {
		token pki.JoinToken
		says  string
	}{
		"used token":                {used, "used already"},
		"another root":              {elsewhere, "not the coordinator that the join token is of"},
		"nothing there":             {nobody, "nothing listens at https://127.0.0.1:1"},
		"answer without policy key": {spoiled(func(r *apiv1.EnrollAgentResponse) { r.PolicyKeys = nil }), "not complete"},
		"answer with another root":  {spoiled(func(r *apiv1.EnrollAgentResponse) { r.RootPem = r.ServingChainPem }), "root"},
		"answer for another agent":  {spoiled(func(r *apiv1.EnrollAgentResponse) { r.AgentId = identity.NewID(identity.AgentID) }), "somebody else"},
		"answer without an agent":   {spoiled(func(r *apiv1.EnrollAgentResponse) { r.AgentId = "../x" }), "names no agent"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			_, err := enroll.Enroll(t.Context(), enroll.Config{Dir: dir, Token: test.token, KubeSystemUID: uid, Version: "1"})
			if err == nil || !strings.Contains(err.Error(), test.says) || strings.Contains(err.Error(), "\n") || strings.Contains(err.Error(), test.token.Secret) {
				t.Errorf("got %v, want %q", err, test.says)
			}
			if !strings.HasPrefix(name, "answer") && len(process.Hints(err)) != 1 {
				t.Errorf("hints: %v", process.Hints(err))
			}
			if entries, _ := os.ReadDir(dir); len(entries) != 0 {
				t.Errorf("left behind: %v", entries)
			}
		})
	}
}

func TestDeathOrLossDuringEnrolmentCostsNoToken(t *testing.T) {
	for name, first := range map[string]func(*enrolltest.Coordinator, enroll.Config) error{
		"killed before the answer was on disk": func(_ *enrolltest.Coordinator, cfg enroll.Config) error {
			if _, err := enroll.Enroll(t.Context(), cfg); err != nil {
				return err
			}
			return os.Remove(filepath.Join(cfg.Dir, "enrolment.json"))
		},
		"the answer was lost": func(c *enrolltest.Coordinator, cfg enroll.Config) error {
			c.Lose = 1
			if _, err := enroll.Enroll(t.Context(), cfg); err == nil {
				return errors.New("enrolled without an answer")
			}
			return nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			c, dir := enrolltest.New(t), t.TempDir()
			cfg := enroll.Config{Dir: dir, Token: c.NewToken(), KubeSystemUID: uid, Version: "1"}
			if err := first(c, cfg); err != nil {
				t.Fatal(err)
			}
			if _, err := enroll.Load(dir, "1"); !errors.Is(err, fs.ErrNotExist) {
				t.Fatalf("half an enrolment is loaded: %v", err)
			}
			if _, err := enroll.Enroll(t.Context(), cfg); err != nil {
				t.Fatalf("with the same token: %v", err)
			}
			if _, err := enroll.Load(dir, "1"); err != nil || c.Enrolls != 1 {
				t.Errorf("%v; %d agents were enrolled", err, c.Enrolls)
			}
			// The token is nobody else's for that.
			cfg.Dir = t.TempDir()
			if _, err := enroll.Enroll(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), "used already") {
				t.Errorf("with another key: %v", err)
			}
		})
	}
}

func TestIdentityThatDoesNotFitTogetherIsRefused(t *testing.T) {
	c, a, b := enrolltest.New(t), t.TempDir(), t.TempDir()
	mustEnroll(t, c, a)
	mustEnroll(t, c, b)
	raw, _ := os.ReadFile(filepath.Join(b, "enrolment.json"))
	if err := os.WriteFile(filepath.Join(a, "enrolment.json"), raw, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := enroll.Load(a, "1"); err == nil || !strings.Contains(err.Error(), "another key") {
		t.Errorf("%v", err)
	}
}

func TestCertificatesAreRenewedWithTheSameKeyEvenAfterTheyRanOut(t *testing.T) {
	c, dir := enrolltest.New(t), t.TempDir()
	c.Life = time.Second
	id := mustEnroll(t, c, dir)
	before := id.Enrolment()
	serving, _ := id.ServingCertificate(nil)
	<-time.After(time.Until(before.ExpiresAt) + 10*time.Millisecond)
	c.Life = time.Hour
	if err := id.Renew(t.Context()); err != nil {
		t.Fatal(err)
	}
	after := id.Enrolment()
	if after.AgentID != before.AgentID || after.AgentChain == before.AgentChain || after.AuthKey == before.AuthKey || after.KubeSystemUID != uid || time.Until(after.ExpiresAt) < 50*time.Minute {
		t.Errorf("%+v", after)
	}
	if now, _ := id.ServingCertificate(nil); now.Leaf.Equal(serving.Leaf) || pki.Pin(now.Leaf) != pki.Pin(serving.Leaf) {
		t.Error("the serving certificate is not a new one for the same key")
	}
	loaded, err := enroll.Load(dir, "1")
	if err != nil || loaded.Enrolment().AgentChain != after.AgentChain {
		t.Errorf("not saved: %v", err)
	}
}

func TestKeepFreshRenewsAheadOfTime(t *testing.T) {
	c, dir := enrolltest.New(t), t.TempDir()
	c.Life = 3 * time.Second
	id := mustEnroll(t, c, dir)
	expires := id.Enrolment().ExpiresAt
	c.Life = time.Hour
	go id.KeepFresh(t.Context(), slog.New(slog.DiscardHandler))
	for id.Enrolment().ExpiresAt.Equal(expires) {
		if time.Now().After(expires) {
			t.Fatal("they ran out")
		}
		<-time.After(10 * time.Millisecond)
	}
}
