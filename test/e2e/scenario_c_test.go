package e2e

import (
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sallyport-mesh/sallyport/test/play"
)

// Scenario C: shivam, who had everything by mistake, is put in trainees, who
// read two namespaces and nothing else.
func scenarioC(t *testing.T, w *play.World) {
	shivam := arrive(t, w, "shivam")
	admin(t, w, "grant", "add", "--role", "cluster-admin", "--user", "shivam", "--project", "aws", "--reason", "a mistake")
	const edge = "--context=sallyport/edge-1"
	eventually(t, "contexts", func() error {
		return sameContexts(t, shivam, "sallyport/edge-1", "sallyport/edge-2", "sallyport/edge-3")
	})
	ok(t, shivam, edge, "get", "nodes")
	everything := running(t, shivam, "watch-nodes", "", edge, "get", "nodes", "-w")

	// Down to two namespaces of one cluster.
	admin(t, w, "group", "add", "trainees")
	admin(t, w, "grant", "add", "--role", "view", "--group", "trainees", "--cluster", "edge-1", "-n", "team-a", "-n", "team-b", "--reason", "learning")
	admin(t, w, "group", "join", "trainees", "shivam")
	admin(t, w, "grant", "remove", grantID(t, w, "shivam", "cluster-admin"))
	ended(t, everything)
	eventually(t, "contexts", func() error { return sameContexts(t, shivam, "sallyport/edge-1") })
	for _, cluster := range []string{"edge-2", "edge-3"} {
		if left := of(accounts(t, w, cluster), "shivam"); len(left) != 0 {
			t.Errorf("%s still holds %v", cluster, left)
		}
	}

	// What works there: get, list, watch, logs, discovery, OpenAPI.
	file := filepath.Join(t.TempDir(), "x")
	for _, ns := range []string{"team-a", "team-b"} {
		in := func(args ...string) []string { return append([]string{edge, "-n", ns}, args...) }
		pod := strings.TrimSpace(ok(t, shivam, in("get", "pods", "-l", "app=web", "-o", "jsonpath={.items[0].metadata.name}")...).Stdout)
		ok(t, shivam, in("get", "deployment", "web", "-o", "yaml")...)
		ok(t, shivam, in("get", "all")...)
		ok(t, shivam, in("describe", "deployment", "web")...)
		ok(t, shivam, in("logs", pod)...)
		running(t, shivam, "watch-"+ns, "web", in("get", "deployments", "-w")...).Kill()
		running(t, shivam, "logs-"+ns, "", in("logs", "-f", pod)...).Kill()

		// What does not.
		for _, args := range [][]string{
			{"create", "configmap", "mine", "--from-literal=a=b"},
			{"apply", "--server-side", "-f", "-"},
			{"patch", "deployment", "web", "-p", `{"spec":{"replicas":0}}`},
			{"scale", "deployment", "web", "--replicas=0"},
			{"label", "deployment", "web", "a=b"},
			{"delete", "deployment", "web"},
			{"delete", "pods", "--all"},
			{"exec", pod, "--", "true"},
			{"attach", pod},
			{"port-forward", pod, ":80"},
			{"cp", pod + ":/etc/hostname", file},
			{"get", "secrets"},
			{"get", "secret", "password"},
			{"get", "--raw", "/api/v1/namespaces/" + ns + "/secrets"},
			{"create", "token", "default"},
		} {
			notAllowed(t, shivam, "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: mine}\n", in(args...)...)
		}
	}
	for _, args := range [][]string{
		{"get", "pods"}, // in default
		{"get", "pods", "-n", "kube-system"},
		{"get", "pods", "-A"},
		{"get", "pods", "-A", "-w"},
		{"get", "deployments", "-A", "-o", "name"},
		{"get", "nodes"},
		{"get", "namespaces"},
		{"get", "clusterroles"},
		{"get", "--raw", "/api/v1/pods"},
		{"get", "--raw", "/metrics"},
	} {
		notAllowed(t, shivam, "", append([]string{edge}, args...)...)
	}

	// Discovery, OpenAPI and can-i are for everyone who holds anything.
	if out := ok(t, shivam, edge, "api-resources").Stdout; !strings.Contains(out, "deployments") {
		t.Errorf("api-resources:\n%s", out)
	}
	if out := ok(t, shivam, edge, "explain", "deployment.spec.replicas").Stdout; !strings.Contains(out, "integer") {
		t.Errorf("explain:\n%s", out)
	}
	for want, all := range map[string][][]string{
		"yes": {{"get", "pods", "-n", "team-a"}, {"watch", "deployments.apps", "-n", "team-b"}, {"get", "pods/log", "-n", "team-a"}},
		"no": {
			{"delete", "pods", "-n", "team-a"},
			{"get", "secrets", "-n", "team-a"},
			{"create", "pods/exec", "-n", "team-b"},
			{"get", "pods", "-n", "default"},
			{"get", "pods", "-A"},
			{"get", "nodes"},
			{"*", "*"},
		},
	} {
		for _, args := range all {
			if got := cani(t, shivam, args...); got != want {
				t.Errorf("can-i %v: %s, want %s", args, got, want)
			}
		}
	}
	list := ok(t, shivam, edge, "auth", "can-i", "--list", "-n", "team-a").Stdout
	if !strings.Contains(list, "pods/log") || strings.Contains(list, "secrets") || strings.Contains(list, "delete") {
		t.Errorf("can-i --list:\n%s", list)
	}

	// Nothing of what was refused happened.
	for _, ns := range []string{"team-a", "team-b"} {
		if r, err := w.KubectlDirect(t.Context(), w.Clusters["edge-1"], "-n", ns, "get", "deployment", "web", "-o", "jsonpath={.spec.replicas} {.metadata.labels}"); err != nil || r.Stdout != `1 {"app":"web"}` {
			t.Errorf("%s: the Deployment is now %q (%v)", ns, r.Stdout, err)
		}
		if r, err := w.KubectlDirect(t.Context(), w.Clusters["edge-1"], "-n", ns, "get", "configmap", "mine"); err == nil {
			t.Errorf("%s: %s", ns, r.Stdout)
		}
	}

	// The last grant gone, everything is gone.
	watch := running(t, shivam, "last", "", edge, "-n", "team-a", "get", "pods", "-w")
	admin(t, w, "group", "leave", "trainees", "shivam")
	ended(t, watch)
	if left := of(accounts(t, w, "edge-1"), "shivam"); len(left) != 0 {
		t.Errorf("edge-1 still holds %v", left)
	}
	eventually(t, "contexts", func() error { return sameContexts(t, shivam) })
}

// notAllowed wants kubectl to be refused by Sallyport, or by kubectl for it.
func notAllowed(t *testing.T, p *play.Person, stdin string, args ...string) {
	t.Helper()
	r, err := p.KubectlIn(t.Context(), stdin, append(args, "--request-timeout=20s")...)
	if err == nil {
		t.Errorf("%s: kubectl %v succeeded:\n%s", p.Name, args, r.Stdout)
		return
	}
	if !strings.Contains(r.Stderr, "sallyport: ") || !strings.Contains(r.Stderr, "[request ") {
		t.Errorf("%s: kubectl %v was not refused by Sallyport:\n%s", p.Name, args, r.Stderr)
	}
}

// ended waits for kubectl to notice that its stream is over.
func ended(t *testing.T, p *play.Process) {
	t.Helper()
	select {
	case <-p.Done():
	case <-time.After(20 * time.Second):
		t.Errorf("%s still runs", p.Name)
		p.Kill()
	}
}
