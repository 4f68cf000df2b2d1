package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Everything that plain kubectl does works through Sallyport, on every
// transport it uses.
func TestPlainKubectlWorks(t *testing.T) {
	w := quickstart(t)
	virat := person(t, w, "virat")
	k := func(args ...string) string {
		t.Helper()
		return ok(t, virat, append([]string{"--context", "sallyport/edge-1"}, args...)...).Stdout
	}
	pod := aPod(t, virat, "edge-1")

	t.Run("apply, get, list, patch, delete", func(t *testing.T) {
		const manifest = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: notes, namespace: default}\ndata: {a: one}\n"
		if _, err := virat.KubectlIn(t.Context(), manifest, "--context", "sallyport/edge-1", "apply", "-f", "-"); err != nil {
			t.Fatal(err)
		}
		k("patch", "configmap", "notes", "-p", `{"data":{"a":"two"}}`)
		if got := k("get", "configmap", "notes", "-o", "jsonpath={.data.a}"); got != "two" {
			t.Errorf("patched value is %q", got)
		}
		if got := k("get", "configmaps"); !strings.Contains(got, "notes") {
			t.Errorf("list:\n%s", got)
		}
		k("delete", "configmap", "notes")
		refused(t, virat, []string{"NotFound"}, "--context", "sallyport/edge-1", "get", "configmap", "notes")
	})
	t.Run("watch", func(t *testing.T) {
		watch := running(t, virat, "watch-cm", "kube-root-ca.crt", "--context", "sallyport/edge-1", "get", "configmaps", "-w")
		k("create", "configmap", "seen", "--from-literal=a=b")
		eventually(t, "watch", func() error { return says(watch.Log, "seen") })
		k("delete", "configmap", "seen")
	})
	t.Run("exec", func(t *testing.T) {
		if got := k("exec", pod, "--", "sh", "-c", "echo out; echo err >&2"); got != "out\n" {
			t.Errorf("exec said %q", got)
		}
		r, err := virat.KubectlIn(t.Context(), "typed\n", "--context", "sallyport/edge-1", "exec", "-i", pod, "--", "cat")
		if err != nil || r.Stdout != "typed\n" {
			t.Errorf("exec -i said %q: %v", r.Stdout, err)
		}
		if r, err := virat.Kubectl(t.Context(), "--context", "sallyport/edge-1", "exec", pod, "--", "sh", "-c", "exit 7"); err == nil || !strings.Contains(r.Stderr, "exit code 7") {
			t.Errorf("the command's exit code is lost: %v %q", err, r.Stderr)
		}
	})
	t.Run("logs", func(t *testing.T) {
		if got := k("logs", pod); got == "" {
			t.Error("no log")
		}
		running(t, virat, "logs-f", "", "--context", "sallyport/edge-1", "logs", "-f", pod)
	})
	t.Run("attach", func(t *testing.T) {
		running(t, virat, "attach", "", "--context", "sallyport/edge-1", "attach", pod)
	})
	t.Run("cp", func(t *testing.T) {
		// The container runs on this machine: what is copied in lands under the
		// directory that its commands run in.
		from, to := filepath.Join(t.TempDir(), "from"), filepath.Join(t.TempDir(), "to")
		if err := os.WriteFile(from, []byte("carried"), 0o600); err != nil {
			t.Fatal(err)
		}
		k("cp", from, pod+":carried.txt")
		k("cp", pod+":carried.txt", to)
		raw, err := os.ReadFile(to)
		if err != nil || string(raw) != "carried" {
			t.Errorf("came back as %q: %v", raw, err)
		}
	})
	t.Run("port-forward", func(t *testing.T) {
		_, port := portForward(t, virat, "edge-1", pod)
		if _, err := get("http://127.0.0.1:" + port + "/"); err != nil {
			t.Error(err)
		}
	})
	t.Run("can-i", func(t *testing.T) {
		if got := strings.TrimSpace(k("auth", "can-i", "delete", "deployments")); got != "yes" {
			t.Errorf("can-i delete deployments: %q", got)
		}
	})
	t.Run("as somebody else", func(t *testing.T) {
		refused(t, virat, []string{"sallyportctl why"}, "--context", "sallyport/edge-1", "--as", "root", "get", "pods")
	})
	t.Run("our own namespaces", func(t *testing.T) {
		refused(t, virat, []string{"sallyport-system"}, "--context", "sallyport/edge-1", "-n", "sallyport-system", "get", "secrets")
		refused(t, virat, []string{"sallyport-users"}, "--context", "sallyport/edge-1", "-n", "sallyport-users", "get", "serviceaccounts")
	})
}
