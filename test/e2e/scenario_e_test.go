package e2e

import (
	"strings"
	"testing"

	"github.com/sallyport-mesh/sallyport/test/play"
)

// Scenario E: admin in team-a, read-only in team-b of the same cluster.
func scenarioE(t *testing.T, w *play.World) {
	eve := arrive(t, w, "eve")
	const edge = "--context=sallyport/edge-1"
	direct := func(args ...string) (string, error) {
		r, err := w.KubectlDirect(t.Context(), w.Clusters["edge-1"], args...)
		return r.Stdout, err
	}
	for _, args := range [][]string{{"admin", "team-a"}, {"view", "team-b"}, {"edit", "team-ghost"}} {
		admin(t, w, "grant", "add", "--role", args[0], "--user", "eve", "--cluster", "edge-1", "-n", args[1])
	}
	eventually(t, "contexts", func() error { return sameContexts(t, eve, "sallyport/edge-1") })

	// Admin in the one.
	ok(t, eve, edge, "-n", "team-a", "create", "configmap", "mine", "--from-literal=a=b")
	ok(t, eve, edge, "-n", "team-a", "get", "secret", "password")
	ok(t, eve, edge, "-n", "team-a", "exec", "deployment/web", "--", "true")
	ok(t, eve, edge, "-n", "team-a", "delete", "configmap", "mine")
	if _, err := eve.KubectlIn(t.Context(), "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: applied}\ndata: {a: b}\n", edge, "-n", "team-a", "apply", "--server-side", "-f", "-"); err != nil {
		t.Error(err)
	}

	// A reader in the other, and nobody anywhere else.
	ok(t, eve, edge, "-n", "team-b", "get", "pods")
	for _, args := range [][]string{
		{"-n", "team-b", "create", "configmap", "mine", "--from-literal=a=b"},
		{"-n", "team-b", "delete", "configmap", "settings"},
		{"-n", "team-b", "delete", "pods", "--all"},
		{"-n", "team-b", "patch", "deployment", "web", "-p", `{"spec":{"replicas":0}}`},
		{"-n", "team-b", "exec", "deployment/web", "--", "true"},
		{"-n", "team-b", "get", "secret", "password"},
		{"-n", "default", "get", "pods"},
		{"-n", "default", "create", "configmap", "mine", "--from-literal=a=b"},
		{"get", "pods", "-A"},
		{"delete", "pods", "-A", "--all"},
		{"get", "nodes"},
		{"create", "namespace", "mine"},
		{"delete", "namespace", "team-a"},
		{"label", "namespace", "team-a", "team=x", "--overwrite"},
	} {
		notAllowed(t, eve, "", append([]string{edge}, args...)...)
	}
	if out, err := direct("-n", "team-b", "get", "configmap", "settings", "-o", "jsonpath={.data.color}"); err != nil || out != "blue" {
		t.Errorf("team-b's settings are %q: %v", out, err)
	}
	if got := cani(t, eve, "delete", "pods", "-n", "team-a") + cani(t, eve, "delete", "pods", "-n", "team-b") + cani(t, eve, "get", "pods", "-n", "team-b"); got != "yesnoyes" {
		t.Errorf("can-i: %s", got)
	}

	// A namespace that does not exist is not made by asking, and works once it is there.
	if r, err := eve.Kubectl(t.Context(), edge, "-n", "team-ghost", "create", "configmap", "mine", "--from-literal=a=b"); err == nil {
		t.Errorf("created in a namespace that is not there: %s", r.Stdout)
	}
	if out, err := direct("get", "namespace", "team-ghost", "--ignore-not-found", "-o", "name"); err != nil || out != "" {
		t.Errorf("namespace team-ghost was made: %s%v", out, err)
	}
	if _, err := direct("create", "namespace", "team-ghost"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the namespace that came later", func() error {
		_, err := eve.Kubectl(t.Context(), edge, "-n", "team-ghost", "create", "configmap", "mine", "--from-literal=a=b")
		return err
	})

	// The one grant gone, the others stay; the last one gone, everything is.
	admin(t, w, "grant", "remove", grantID(t, w, "eve", "team-a"))
	notAllowed(t, eve, "", edge, "-n", "team-a", "get", "pods")
	ok(t, eve, edge, "-n", "team-b", "get", "pods")
	admin(t, w, "grant", "remove", grantID(t, w, "eve", "team-ghost"))
	admin(t, w, "grant", "remove", grantID(t, w, "eve", "team-b"))
	if left := of(accounts(t, w, "edge-1"), "eve"); len(left) != 0 {
		t.Errorf("edge-1 still holds %v", left)
	}
	eventually(t, "contexts", func() error { return sameContexts(t, eve) })
}

// A grant by label holds where the labels match, from the moment they do until
// the moment they do not.
func namespacesByLabel(t *testing.T, w *play.World) {
	lena := arrive(t, w, "lena")
	const edge = "--context=sallyport/edge-1"
	direct := func(args ...string) {
		t.Helper()
		if _, err := w.KubectlDirect(t.Context(), w.Clusters["edge-1"], args...); err != nil {
			t.Fatal(err)
		}
	}
	works := func(ns string) {
		t.Helper()
		eventually(t, "work in "+ns, func() error {
			_, err := lena.Kubectl(t.Context(), edge, "-n", ns, "get", "configmaps")
			return err
		})
	}
	admin(t, w, "grant", "add", "--role", "edit", "--user", "lena", "--project", "aws", "--namespace-selector", "stage in (dev)")
	eventually(t, "contexts", func() error {
		return sameContexts(t, lena, "sallyport/edge-1", "sallyport/edge-2", "sallyport/edge-3")
	})
	// Nothing matches yet.
	refused(t, lena, []string{"what you hold here gives you nothing now"}, edge, "get", "--raw", "/api")
	notAllowed(t, lena, "", edge, "-n", "team-a", "get", "configmaps")
	notAllowed(t, lena, "", edge, "get", "nodes")

	direct("label", "namespace", "team-a", "stage=dev")
	works("team-a")
	ok(t, lena, edge, "-n", "team-a", "create", "configmap", "by-label", "--from-literal=a=b")
	notAllowed(t, lena, "", edge, "-n", "team-b", "get", "configmaps")
	notAllowed(t, lena, "", edge, "-n", "team-a", "label", "namespace", "team-a", "stage=other", "--overwrite")
	notAllowed(t, lena, "", edge, "get", "configmaps", "-A")

	// A namespace that is made later.
	direct("create", "namespace", "team-new")
	direct("label", "namespace", "team-new", "stage=dev")
	works("team-new")

	// An agent that starts again looks again.
	if err := w.Clusters["edge-1"].Agent.Stop(); err != nil {
		t.Error(err)
	}
	if err := w.StartAgent(t.Context(), w.Clusters["edge-1"]); err != nil {
		t.Fatal(err)
	}
	works("team-new")
	works("team-a")

	// A label that goes takes what runs with it, and what was made in the cluster.
	gone := running(t, lena, "by-label", "", edge, "-n", "team-a", "get", "configmaps", "-w")
	stays := running(t, lena, "by-label-new", "", edge, "-n", "team-new", "get", "configmaps", "-w")
	direct("label", "namespace", "team-a", "stage-")
	ended(t, gone)
	notAllowed(t, lena, "", edge, "-n", "team-a", "get", "configmaps")
	eventually(t, "bindings", func() error {
		r, err := w.KubectlDirect(t.Context(), w.Clusters["edge-1"], "-n", "team-a", "get", "rolebindings", "-o", "name")
		if err == nil && strings.Contains(r.Stdout, "sp-lena") {
			t.Log(r.Stdout)
			err = errStill
		}
		return err
	})
	select {
	case <-stays.Done():
		t.Error("the watch in the other namespace ended too")
	default:
	}
	ok(t, lena, edge, "-n", "team-new", "get", "configmaps")

	admin(t, w, "grant", "remove", grantID(t, w, "lena", "stage in (dev)"))
	ended(t, stays)
	if left := of(accounts(t, w, "edge-1"), "lena"); len(left) != 0 {
		t.Errorf("edge-1 still holds %v", left)
	}
}
