package policy

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	apiv1 "github.com/sallyport-mesh/sallyport/pkg/api/sallyport/v1"
)

// byLabel makes a grant on the namespaces that a selector selects.
func byLabel(user, role, selector string) *apiv1.BundleGrant {
	return &apiv1.BundleGrant{Id: "grt-" + user + "-" + role + "-by-label", UserId: user, Role: role, NamespaceSelector: selector}
}

var teams = Namespaces{
	"web": {"team": "a"}, "api": {"team": "a", "env": "prod"}, "db": {"team": "b"}, "bare": {},
	SystemNamespace: {"team": "a"}, UsersNamespace: {"team": "a"},
}

func TestAGrantByLabelHoldsWhereTheLabelsMatch(t *testing.T) {
	b := bundleOf(Builtin(), byLabel("a", Edit, "team=a"))
	p := compile(t, b, WithNamespaces(teams))
	check(t, p, []decideCase{
		{ask("a", "delete", "", "pods", "web", "x"), true},
		{ask("a", "list", "", "pods", "api", ""), true},
		{ask("a", "get", "", "pods", "db", "x"), false},
		{ask("a", "get", "", "pods", "bare", "x"), false},
		{ask("a", "get", "", "pods", "gone", "x"), false},
		{ask("a", "list", "", "pods", "", ""), false},
		{ask("a", "get", "", "nodes", "", "n"), false},
		{ask("a", "get", "", "secrets", SystemNamespace, "x"), false},
		{ask("a", "patch", "", "namespaces", "web", "web"), false},
		{path("a", "get", "/api"), true},
	})
	var in []string
	for _, e := range p.Entitlements("a") {
		in = append(in, e.Namespace)
	}
	if !slices.Equal(in, []string{"api", "web"}) {
		t.Errorf("entitled in %q", in)
	}
	// None matches: nothing anywhere, and not the whole cluster.
	none := compile(t, b, WithNamespaces(Namespaces{"db": {"team": "b"}}))
	if d := none.Decide(ask("a", "get", "", "pods", "db", "x")); d.Allowed || len(none.Entitlements("a")) != 0 {
		t.Errorf("%+v, entitled to %v", d, none.Entitlements("a"))
	}
}

func TestLabelsThatAreNotKnownAllowNothingAndDenyEverywhere(t *testing.T) {
	b := bundleOf(append(Builtin(), custom("frozen", deny(on([]string{"delete"}, []string{""}, "pods")))),
		byLabel("a", Edit, "team=a"), byLabel("b", "frozen", "team=a"), grantTo("b", ClusterAdmin))
	p := compile(t, b)
	check(t, p, []decideCase{
		{ask("a", "get", "", "pods", "web", "x"), false},
		{ask("b", "delete", "", "pods", "web", "x"), false},
		{ask("b", "delete", "", "pods", "db", "x"), false},
		{ask("b", "deletecollection", "", "pods", "", ""), false},
		{ask("b", "get", "", "pods", "web", "x"), true},
	})
	if d := p.Decide(ask("a", "get", "", "pods", "web", "x")); !strings.Contains(d.Reason, "labels are not known") {
		t.Errorf("the reason is %q", d.Reason)
	}
	if len(p.Entitlements("a")) != 0 {
		t.Errorf("entitled to %v", p.Entitlements("a"))
	}
	known := compile(t, b, WithNamespaces(teams))
	check(t, known, []decideCase{
		{ask("b", "delete", "", "pods", "web", "x"), false},
		{ask("b", "delete", "", "pods", "db", "x"), true},
		{ask("b", "deletecollection", "", "pods", "", ""), false},
	})
	// Nor does the last namespace that matched open lists over all of them: the
	// next may match in between.
	nowhere := compile(t, b, WithNamespaces(Namespaces{}))
	check(t, nowhere, []decideCase{
		{ask("b", "deletecollection", "", "pods", "", ""), false},
		{ask("b", "delete", "", "pods", "web", "x"), true},
	})
}

// By label is by name, of the namespaces that match now.
func TestByLabelIsByNameOfThoseThatMatch(t *testing.T) {
	r := rand.New(rand.NewPCG(11, 12))
	for range 200 {
		ns, match := Namespaces{}, []string{}
		for _, name := range someNamespaces {
			ns[name] = map[string]string{"team": fmt.Sprint(r.IntN(2))}
			if ns[name]["team"] == "0" {
				match = append(match, name)
			}
		}
		role := custom("r", randomRule(r), randomRule(r))
		label := compile(t, bundleOf([]*apiv1.Role{role}, byLabel("a", "r", "team=0")), WithNamespaces(ns))
		if len(match) == 0 {
			match = []string{"another"}
		}
		name := compile(t, bundleOf([]*apiv1.Role{role}, grantTo("a", "r", match...)))
		for range 50 {
			a := randomRequest(r)
			if l, n := label.Decide(a), name.Decide(a); l.Allowed != n.Allowed {
				t.Fatalf("%+v: %v by label (%s), %v by name (%s)", a, l.Allowed, l.Reason, n.Allowed, n.Reason)
			}
		}
	}
}

func TestOnlyLabelsThatMatterMakeAnotherPolicy(t *testing.T) {
	p := compile(t, bundleOf(Builtin(), byLabel("a", View, "team=a")), WithNamespaces(teams))
	more := Namespaces{"new": {"team": "c"}}
	for name, labels := range teams {
		more[name] = labels
	}
	if !p.SameNamespaces(more) {
		t.Error("a namespace that nothing selects makes another policy")
	}
	more["new"] = map[string]string{"team": "a"}
	if p.SameNamespaces(more) || p.SameNamespaces(nil) {
		t.Error("what a grant selects has changed, and the policy is taken for the same")
	}
	if plain := compile(t, bundleOf(Builtin(), grantTo("a", View))); !plain.SameNamespaces(teams) {
		t.Error("labels matter where no grant looks at them")
	}
}

func TestAnOldAgentRefusesWhatItWouldMisread(t *testing.T) {
	for feature, b := range map[string]*apiv1.Bundle{
		FeatureSelectors: bundleOf(Builtin(), byLabel("a", View, "team=a")),
		FeaturePatterns:  bundleOf([]*apiv1.Role{custom("r", deny(named(on([]string{"get"}, []string{""}, "secrets"), "prod-*")))}, grantTo("a", "r")),
	} {
		if !slices.Contains(b.Requires, feature) {
			t.Errorf("%v does not require %s", b.Requires, feature)
		}
		b.Requires = slices.DeleteFunc(b.Requires, func(f string) bool { return f == feature })
		if _, err := Compile(b); err == nil {
			t.Errorf("compiled without %s", feature)
		}
	}
	both := bundleOf(Builtin(), byLabel("a", View, "team=a"))
	both.Grants[0].Namespaces = []string{"web"}
	if _, err := Compile(both); err == nil {
		t.Error("a grant by name and by label compiled")
	}
	all := bundleOf(Builtin(), byLabel("a", View, " "))
	if _, err := Compile(all); err == nil {
		t.Error("a selector of everything compiled")
	}
}
