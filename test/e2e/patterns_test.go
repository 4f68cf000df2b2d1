package e2e

import (
	"errors"
	"strings"
	"testing"

	"github.com/sallyport-mesh/sallyport/test/play"
)

var errStill = errors.New("it is still there")

const patternRole = `rules:
- apiGroups: [""]
  resources: [configmaps]
  resourceNames: ["web-*"]
  verbs: [get, list, watch, patch, delete, deletecollection]
- apiGroups: [""]
  resources: [configmaps]
  verbs: [create]
`

const hidingRole = `rules:
- deny: true
  apiGroups: [""]
  resources: [configmaps]
  resourceNames: ["prod-*"]
  verbs: ["*"]
`

// What RBAC cannot say: an allow by pattern, and a deny by pattern, hold through
// every way that kubectl and the API have to the same objects.
func namesByPattern(t *testing.T, w *play.World) {
	const edge = "--context=sallyport/edge-1"
	direct := func(args ...string) string {
		t.Helper()
		r, err := w.KubectlDirect(t.Context(), w.Clusters["edge-1"], args...)
		if err != nil {
			t.Fatal(err)
		}
		return r.Stdout
	}
	for _, name := range []string{"web-1", "web-2", "prod-1", "other"} {
		direct("-n", "team-b", "create", "configmap", name, "--from-literal=secret=from-"+name)
	}

	t.Run("an allow", func(t *testing.T) {
		pat := arrive(t, w, "pat")
		admin(t, w, "grant", "add", "--role", "web-names", "--user", "pat", "--cluster", "edge-1", "-n", "team-b")
		eventually(t, "contexts", func() error { return sameContexts(t, pat, "sallyport/edge-1") })
		in := func(args ...string) []string { return append([]string{edge, "-n", "team-b"}, args...) }
		ok(t, pat, in("get", "configmap", "web-1")...)
		ok(t, pat, in("get", "configmaps", "--field-selector", "metadata.name=web-2")...)
		ok(t, pat, in("patch", "configmap", "web-1", "-p", `{"data":{"a":"b"}}`)...)
		running(t, pat, "one", "web-1", in("get", "configmap", "web-1", "-w")...).Kill()
		for _, args := range [][]string{
			{"get", "configmap", "prod-1"},
			{"get", "configmap", "web-1", "other"}, // one of the two
			{"get", "configmaps"},
			{"get", "configmaps", "-o", "wide"},
			{"get", "configmaps", "-w"},
			{"get", "configmaps", "-l", "a=b"},
			{"get", "configmaps", "--field-selector", "metadata.name!=prod-1"},
			{"get", "configmaps", "--field-selector", "metadata.name=prod-1"},
			{"get", "configmaps", "-A"},
			{"get", "--raw", "/api/v1/watch/namespaces/team-b/configmaps"},
			{"delete", "configmaps", "--all"},
			{"delete", "configmap", "other"},
			{"patch", "configmap", "other", "-p", `{"data":{"a":"b"}}`},
			{"edit", "configmap", "other"},
		} {
			hides(t, pat, in(args...), "from-prod-1", "from-other")
		}
		if got := cani(t, pat, "get", "configmap/web-1", "-n", "team-b") + cani(t, pat, "get", "configmap/prod-1", "-n", "team-b") + cani(t, pat, "list", "configmaps", "-n", "team-b"); got != "yesnono" {
			t.Errorf("can-i: %s", got)
		}
		if list := ok(t, pat, in("auth", "can-i", "--list")...).Stdout; !strings.Contains(list, "[web-*]") {
			t.Errorf("can-i --list:\n%s", list)
		}
	})

	t.Run("a deny", func(t *testing.T) {
		dan := arrive(t, w, "dan")
		admin(t, w, "grant", "add", "--role", "edit", "--user", "dan", "--cluster", "edge-1", "-n", "team-b")
		admin(t, w, "grant", "add", "--role", "no-prod-names", "--user", "dan", "--cluster", "edge-1")
		eventually(t, "contexts", func() error { return sameContexts(t, dan, "sallyport/edge-1") })
		in := func(args ...string) []string { return append([]string{edge, "-n", "team-b"}, args...) }
		ok(t, dan, in("get", "configmap", "other")...)
		ok(t, dan, in("get", "configmaps", "--field-selector", "metadata.name=other")...)
		ok(t, dan, in("delete", "configmap", "other")...)
		for _, args := range [][]string{
			{"get", "configmap", "prod-1"},
			{"get", "configmaps"},
			{"get", "configmaps", "-w"},
			{"get", "configmaps", "--chunk-size=1"},
			{"get", "configmaps", "--field-selector", "metadata.name=prod-1"},
			{"delete", "configmaps", "--all"},
			{"delete", "configmap", "prod-1"},
			{"patch", "configmap", "prod-1", "-p", `{"data":{"a":"b"}}`},
			{"create", "configmap", "prod-2", "--from-literal=a=b"},
		} {
			hides(t, dan, in(args...), "from-prod-1")
		}
		apply := "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: prod-3, namespace: team-b}\n"
		notAllowed(t, dan, apply, in("apply", "--server-side", "-f", "-")...)
		if _, err := dan.KubectlIn(t.Context(), strings.ReplaceAll(apply, "prod-3", "dev-3"), in("apply", "--server-side", "-f", "-")...); err != nil {
			t.Errorf("what is not denied is refused too: %v", err)
		}
		r, err := dan.Kubectl(t.Context(), in("auth", "can-i", "--list")...)
		if err != nil || !strings.Contains(r.Stderr, "role no-prod-names forbids") {
			t.Errorf("can-i --list does not say that something is denied: %v\n%s", err, r.Stderr)
		}
	})

	if got := direct("-n", "team-b", "get", "configmaps", "-o", "name"); !strings.Contains(got, "configmap/prod-1") || strings.Contains(got, "prod-2") || strings.Contains(got, "prod-3") {
		t.Errorf("team-b holds\n%s", got)
	}
}

// hides wants kubectl to be refused, and to print nothing of what is hidden.
func hides(t *testing.T, p *play.Person, args []string, hidden ...string) {
	t.Helper()
	notAllowed(t, p, "", args...)
	r, _ := p.Kubectl(t.Context(), append(args, "-o", "yaml", "--request-timeout=20s")...) // it fails as above, or does not take -o
	for _, s := range hidden {
		if strings.Contains(r.Stdout+r.Stderr, s) {
			t.Errorf("%s: kubectl %v prints %s:\n%s%s", p.Name, args, s, r.Stdout, r.Stderr)
		}
	}
}
