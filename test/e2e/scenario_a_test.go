package e2e

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/sallyport-mesh/sallyport/test/play"
)

// Scenario A: a new user is put in a group, logs in, joins, and kubectl works on
// the clusters of the group's project and nowhere else.
func TestScenarioAOnboarding(t *testing.T) {
	w := quickstart(t)
	alice := person(t, w, "alice")

	// The administrator adds the user from her own machine, with her own login.
	nadia := person(t, w, "nadia")
	addUser(t, alice, nadia)
	ctl(t, alice, "group", "join", "aws-members", "nadia")

	// Login and join.
	if err := nadia.Login(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := nadia.Up(t.Context()); err != nil {
		t.Fatal(err)
	}
	eventually(t, "contexts", func() error { return sameContexts(t, nadia, "sallyport/edge-1", "sallyport/edge-2") })

	// Nothing is in any cluster before the first request.
	for name := range w.Clusters {
		if got := of(accounts(t, w, name), "nadia"); len(got) != 0 {
			t.Errorf("%s holds %v before the first request", name, got)
		}
	}

	// kubectl works on both clusters, over an overlay address.
	for _, cluster := range []string{"edge-1", "edge-2"} {
		if out := ok(t, nadia, "--context", "sallyport/"+cluster, "get", "pods").Stdout; !strings.Contains(out, "nginx-") {
			t.Errorf("get pods on %s:\n%s", cluster, out)
		}
		if cluster == "edge-1" {
			if got := of(accounts(t, w, "edge-2"), "nadia"); len(got) != 0 {
				t.Errorf("edge-2 holds %v though only edge-1 was touched", got)
			}
		}
		if got := of(accounts(t, w, cluster), "nadia"); len(got) < 2 {
			t.Errorf("%s holds %v after the first request, want an account and its binding", cluster, got)
		}
	}

	// On record at the coordinator, with device, account and overlay address.
	eventually(t, "audit", func() error {
		found := search(t, alice, "--user", "nadia", "--verb", "list", "--resource", "pods", "--cluster", "edge-1")
		if len(found) != 1 || found[0].Outcome == nil {
			return fmt.Errorf("found %+v", found)
		}
		r := found[0]
		from, err := netip.ParseAddr(r.Intent.SourceIPs[0])
		if err != nil || !netip.MustParsePrefix("100.64.0.0/10").Contains(from) && !netip.MustParsePrefix("fd7a:115c:a1e0::/48").Contains(from) {
			t.Errorf("the request came from %v, which is not on the overlay", r.Intent.SourceIPs)
		}
		if r.Outcome.ResponseStatus == nil || r.Outcome.ResponseStatus.Code != 200 || r.Intent.Ext.Device == "" || r.Outcome.Ext.Account == "" {
			t.Errorf("record lacks something: %+v", r)
		}
		return nil
	})

	// The other project's cluster is not there. A context made by hand ends in
	// one sentence from the credential plugin, and nothing reaches the agent.
	before := len(search(t, alice, "--cluster", "edge-3"))
	handMade(t, nadia, "edge-1", "edge-3")
	r, err := nadia.Kubectl(t.Context(), "--context", "sallyport/edge-3", "get", "pods")
	if err == nil {
		t.Fatalf("get pods on edge-3 succeeded:\n%s", r.Stdout)
	}
	if !strings.Contains(r.Stderr, `no cluster "edge-3" is open to you`) {
		t.Errorf("the refusal is not clear:\n%s", r.Stderr)
	}
	// There is no route either: with the certificate that edge-1 accepts, and
	// edge-3's own overlay address, no connection comes about.
	if r, err := nadia.Kubectl(t.Context(), "--context", "sallyport/edge-1", "--server", "https://edge-3.sallyport.internal", "--request-timeout=5s", "get", "pods"); err == nil {
		t.Fatalf("get pods from edge-3's address succeeded:\n%s", r.Stdout)
	}
	// Nothing of it reached the agent: once it has shipped all it has (a stop
	// does that), its log holds no more than before, not even a refusal.
	if err := w.Clusters["edge-3"].Agent.Stop(); err != nil {
		t.Error(err)
	}
	if err := w.StartAgent(t.Context(), w.Clusters["edge-3"]); err != nil {
		t.Fatal(err)
	}
	if after := search(t, alice, "--cluster", "edge-3"); len(after) != before {
		t.Errorf("edge-3 has %d records, had %d: %+v", len(after), before, after)
	}
}

func addUser(t *testing.T, admin, p *play.Person) {
	t.Helper()
	r, err := admin.RunIn(t.Context(), p.Password+"\n", "sallyportctl", "user", "add", "--password-stdin", p.Name)
	if err != nil {
		t.Fatal(err, r.Stderr)
	}
}

func sameContexts(t *testing.T, p *play.Person, want ...string) error {
	t.Helper()
	got, err := p.Contexts(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(got)
	if !slices.Equal(got, want) {
		return fmt.Errorf("contexts are %v, want %v", got, want)
	}
	return nil
}

// handMade copies a context, its cluster and its user in a person's kubeconfig,
// with another cluster's name in place of the one's.
func handMade(t *testing.T, p *play.Person, from, to string) {
	t.Helper()
	r, err := p.Kubectl(t.Context(), "config", "view", "--raw", "--minify", "--context", "sallyport/"+from, "-o", "json")
	if err != nil {
		t.Fatal(err)
	}
	copied := strings.ReplaceAll(r.Stdout, from, to)
	if !json.Valid([]byte(copied)) {
		t.Fatalf("not JSON: %s", copied)
	}
	extra := filepath.Join(t.TempDir(), "by-hand")
	if err := os.WriteFile(extra, []byte(copied), 0o600); err != nil {
		t.Fatal(err)
	}
	merged, err := p.KubectlWith(t.Context(), []string{"KUBECONFIG=" + filepath.Join(p.Home, "kubeconfig") + ":" + extra}, "config", "view", "--raw", "-o", "json")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(p.Home, "kubeconfig"), []byte(merged.Stdout), 0o600); err != nil {
		t.Fatal(err)
	}
}
