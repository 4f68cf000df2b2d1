package e2e

import (
	"fmt"
	"strings"
	"testing"

	"github.com/sallyport-mesh/sallyport/test/play"
)

const auditorRole = `description: Reads everything but Secrets.
rules:
- apiGroups: ["*"]
  resources: ["*"]
  verbs: [get, list, watch]
- deny: true
  apiGroups: [""]
  resources: [secrets]
  verbs: ["*"]
`

// Scenario D: a read-only auditor, by a role of one's own, over a project of
// three clusters.
func scenarioD(t *testing.T, w *play.World) {
	audra, alice := arrive(t, w, "audra"), person(t, w, "alice")
	clusters := []string{"edge-1", "edge-2", "edge-3"}
	ctl(t, alice, "role", "add", "reads-all", "-f", roleFile(t, auditorRole))
	if shown := ctl(t, alice, "role", "show", "reads-all"); shown != auditorRole {
		// What is shown is what was written, but for the way YAML is written.
		if r, err := alice.RunIn(t.Context(), shown, "sallyportctl", "role", "change", "reads-all", "-f", "-"); err != nil || !strings.Contains(r.Stdout, "0 agents") {
			t.Errorf("role show prints what role change takes for something else: %v\n%s", err, shown)
		}
	}
	ctl(t, alice, "grant", "add", "--role", "reads-all", "--user", "audra", "--project", "aws", "--reason", "the yearly audit")
	eventually(t, "contexts", func() error {
		return sameContexts(t, audra, "sallyport/edge-1", "sallyport/edge-2", "sallyport/edge-3")
	})

	// Reads work on all three, writes on none.
	for _, cluster := range clusters {
		in := func(args ...string) []string { return append([]string{"--context=sallyport/" + cluster}, args...) }
		for _, args := range [][]string{
			{"get", "pods", "-A"}, {"get", "nodes"}, {"get", "deployments", "-A", "-o", "wide"}, {"get", "clusterroles"}, {"get", "events", "-A"},
		} {
			ok(t, audra, in(args...)...)
		}
		for _, args := range [][]string{
			{"create", "configmap", "mine", "--from-literal=a=b"},
			{"create", "namespace", "mine"},
			{"delete", "deployment", "nginx"},
			{"delete", "pods", "--all", "-A"},
			{"scale", "deployment", "nginx", "--replicas=0"},
			{"exec", "deployment/nginx", "--", "true"},
			{"get", "secrets"},
			{"get", "secrets", "-A"},
			{"get", "secret", "password", "-n", "team-a"},
		} {
			notAllowed(t, audra, "", in(args...)...)
		}
	}

	// One search shows all of it, from one place.
	eventually(t, "audit", func() error {
		allowed, denied := map[string]int{}, map[string]int{}
		for _, r := range search(t, alice, "--user", "audra", "--project", "aws", "--since", "1h", "--limit", "1000") {
			switch {
			case r.Intent.User.Username != "audra":
				t.Errorf("somebody else's: %+v", r)
			case r.Intent.Ext.Decision == "allow" && r.Intent.Verb == "list":
				allowed[r.Cluster]++
			case r.Intent.Ext.Decision == "deny":
				denied[r.Cluster]++
			}
		}
		for _, cluster := range clusters {
			if allowed[cluster] < 5 || denied[cluster] < 7 {
				return fmt.Errorf("found %v allowed, %v denied", allowed, denied)
			}
		}
		return nil
	})

	// A role that is changed changes what runs, on every cluster it is given on.
	var watches []*play.Process
	for _, cluster := range clusters {
		watches = append(watches, running(t, audra, "watch-"+cluster, "", "--context=sallyport/"+cluster, "get", "pods", "-A", "-w"))
	}
	nodes := running(t, audra, "watch-nodes", "", "--context=sallyport/edge-1", "get", "nodes", "-w")
	changed := ctl(t, alice, "role", "change", "reads-all", "-f", roleFile(t, auditorRole+`- deny: true
  apiGroups: [""]
  resources: [pods]
  verbs: [get]
`))
	if strings.Count(changed, "cut in") != 3 {
		t.Errorf("the change says:\n%s", changed)
	}
	for _, p := range watches {
		ended(t, p)
	}
	select {
	case <-nodes.Done():
		t.Error("a watch that the role still allows ended too")
	default:
		nodes.Kill()
	}
	notAllowed(t, audra, "", "--context=sallyport/edge-2", "get", "pods", "-A")
	ok(t, audra, "--context=sallyport/edge-2", "get", "deployments", "-A")

	// It goes only with what it gives, and then everything is gone.
	if r, err := alice.Run(t.Context(), "sallyportctl", "role", "remove", "reads-all", "--yes"); err == nil || !strings.Contains(r.Stderr, "--with-grants") || !strings.Contains(r.Stderr, "grt-") {
		t.Errorf("removing a role that is given: %v\n%s", err, r.Stderr)
	}
	ctl(t, alice, "role", "remove", "reads-all", "--with-grants", "--yes")
	for _, cluster := range clusters {
		if left := of(accounts(t, w, cluster), "audra"); len(left) != 0 {
			t.Errorf("%s still holds %v", cluster, left)
		}
	}
	eventually(t, "contexts", func() error { return sameContexts(t, audra) })
}
