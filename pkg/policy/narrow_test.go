package policy

import (
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	rbacv1 "k8s.io/api/rbac/v1"

	apiv1 "github.com/sallyport-mesh/sallyport/pkg/api/sallyport/v1"
)

func selecting(a Attributes, name string) Attributes { a.SelectedName = name; return a }

func making(a Attributes) Attributes { a.MayCreate = true; return a }

func TestARuleOnAPatternReachesWhatMatchesAndListsOnlyByExactName(t *testing.T) {
	role := custom("web", named(on([]string{"get", "list", "watch", "patch", "deletecollection"}, []string{""}, "configmaps"), "web-*"))
	p := compile(t, bundleOf(append(Builtin(), role), grantTo("a", "web", "x")))
	all := func(verb string) Attributes { return ask("a", verb, "", "configmaps", "x", "") }
	check(t, p, []decideCase{
		{ask("a", "get", "", "configmaps", "x", "web-1"), true},
		{ask("a", "patch", "", "configmaps", "x", "web-"), true},
		{ask("a", "get", "", "configmaps", "x", "db-1"), false},
		{ask("a", "get", "", "configmaps", "y", "web-1"), false},
		{all("list"), false},
		{all("watch"), false},
		{all("deletecollection"), false},
		{selecting(all("list"), "web-1"), true},
		{selecting(all("watch"), "web-1"), true},
		{selecting(all("deletecollection"), "web-1"), true},
		{selecting(all("list"), "db-1"), false},
		// A pattern is no name: what selects it selects the object of that name.
		{selecting(all("list"), "web-*"), true},
	})
	d := p.Decide(all("list"))
	if !strings.Contains(d.Reason, "not trimmed") || !strings.Contains(d.Next, "metadata.name=") {
		t.Errorf("the refused list says %+v", d)
	}
	// RBAC has no patterns. The rule goes there without names, and the policy is
	// what holds people to them.
	want := rbacv1.PolicyRule{Verbs: role.Rules[0].Verbs, APIGroups: []string{""}, Resources: []string{"configmaps"}}
	if e := p.Entitlements("a"); len(e) != 1 || len(e[0].Rules) != 1 || !sameRuleAs(e[0].Rules[0], want) {
		t.Errorf("entitled to %+v", e)
	}
}

func sameRuleAs(a, b rbacv1.PolicyRule) bool {
	return slices.Equal(a.Verbs, b.Verbs) && slices.Equal(a.Resources, b.Resources) && slices.Equal(a.APIGroups, b.APIGroups) && slices.Equal(a.ResourceNames, b.ResourceNames)
}

// What is denied under one verb is not to be had under another that does the
// same, nor through the object's other faces.
func TestADenyLeaksThroughNoOtherWayToTheSame(t *testing.T) {
	p := compile(t, bundleOf(append(Builtin(),
		custom("hidden", deny(named(on([]string{"get"}, []string{""}, "configmaps", "pods"), "prod-*"))),
		custom("kept", deny(on([]string{"delete"}, []string{"apps"}, "deployments"))),
		custom("unmade", deny(on([]string{"create"}, []string{""}, "services"))),
		custom("fixed", deny(on([]string{"update"}, []string{""}, "endpoints"))),
		custom("outside", deny(on([]string{"get"}, []string{""}, "pods/exec"))),
	), grantTo("a", ClusterAdmin), grantTo("a", "hidden"), grantTo("a", "kept"), grantTo("a", "unmade"), grantTo("a", "fixed"), grantTo("a", "outside")))
	check(t, p, []decideCase{
		{ask("a", "get", "", "configmaps", "x", "prod-1"), false},
		{ask("a", "list", "", "configmaps", "x", ""), false},
		{ask("a", "watch", "", "configmaps", "", ""), false},
		{selecting(ask("a", "list", "", "configmaps", "x", ""), "prod-1"), false},
		{selecting(ask("a", "list", "", "configmaps", "x", ""), "dev-1"), true},
		{ask("a", "get", "", "configmaps", "x", "dev-1"), true},
		{ask("a", "get", "", "pods/status", "x", "prod-1"), false},
		{ask("a", "get", "", "pods/ephemeralcontainers", "x", "prod-1"), false},
		{ask("a", "get", "", "pods/log", "x", "prod-1"), true},

		{ask("a", "delete", "apps", "deployments", "x", "web"), false},
		{ask("a", "deletecollection", "apps", "deployments", "x", ""), false},

		{ask("a", "create", "", "services", "x", ""), false},
		{making(ask("a", "patch", "", "services", "x", "s")), false},
		{making(ask("a", "update", "", "services", "x", "s")), false},
		{ask("a", "patch", "", "services", "x", "s"), true},

		{ask("a", "patch", "", "endpoints", "x", "e"), false},
		{ask("a", "create", "", "pods/exec", "x", "p"), false},
	})
}

// A server-side apply makes what is not there, and RBAC has no patterns to stop
// it.
func TestAnUpdateThatMayCreateNeedsTheRightToCreateByName(t *testing.T) {
	p := compile(t, bundleOf(append(Builtin(),
		custom("web", named(on([]string{"create"}, []string{""}, "configmaps"), "web-*"), on([]string{"patch"}, []string{""}, "configmaps"))),
		grantTo("a", "web"), grantTo("b", Edit)))
	check(t, p, []decideCase{
		{making(ask("a", "patch", "", "configmaps", "x", "web-1")), true},
		{making(ask("a", "patch", "", "configmaps", "x", "db-1")), false},
		{ask("a", "patch", "", "configmaps", "x", "db-1"), true},
		{making(ask("b", "patch", "", "configmaps", "x", "db-1")), true},
	})
}

func TestRulesTellTheTruthAboutDeniesAndPatterns(t *testing.T) {
	p := compile(t, bundleOf(append(Builtin(),
		custom("own", on([]string{"get", "list", "delete"}, []string{"apps"}, "deployments", "statefulsets"),
			on([]string{"*"}, []string{""}, "services"), named(on([]string{"get"}, []string{""}, "secrets"), "web-*")),
		custom("kept", deny(on([]string{"delete"}, []string{"*"}, "deployments", "services"))),
		custom("hidden", deny(named(on([]string{"get"}, []string{""}, "secrets"), "web-prod"))),
	), grantTo("a", "own", "x", "y"), grantTo("a", "kept", "x"), grantTo("a", "hidden", "x"), grantTo("b", View, "y")))
	resource, _, caveat := p.Rules("a", "x")
	for _, r := range resource {
		if (slices.Contains(r.Resources, "deployments") || slices.Contains(r.Resources, "services")) && (slices.Contains(r.Verbs, "delete") || slices.Contains(r.Verbs, "*")) {
			t.Errorf("listed though denied: %+v", r)
		}
	}
	has := func(resource []rbacv1.PolicyRule, name, verb string) bool {
		return slices.ContainsFunc(resource, func(r rbacv1.PolicyRule) bool { return slices.Contains(r.Resources, name) && hasOr(r.Verbs, "*", verb) })
	}
	if !has(resource, "statefulsets", "delete") || !has(resource, "deployments", "get") || !has(resource, "services", "patch") {
		t.Errorf("allowed and not listed: %+v", resource)
	}
	if !slices.ContainsFunc(resource, func(r rbacv1.PolicyRule) bool { return slices.Equal(r.ResourceNames, []string{"web-*"}) }) {
		t.Errorf("the pattern is not listed as it is: %+v", resource)
	}
	for _, want := range []string{"role kept forbids delete on deployments,services", "role hidden forbids get on some secrets"} {
		if !strings.Contains(caveat, want) {
			t.Errorf("%q does not say %q", caveat, want)
		}
	}
	if strings.Contains(caveat, "web-prod") {
		t.Errorf("%q names what is hidden", caveat)
	}
	// In the other namespace none of the denies holds, and what one may do in one
	// is not listed in another.
	if resource, _, caveat := p.Rules("a", "y"); !has(resource, "deployments", "delete") || caveat != "" {
		t.Errorf("in y: %+v, %q", resource, caveat)
	}
	if resource, urls, _ := p.Rules("b", "x"); len(resource) != 0 || len(urls) != 1 {
		t.Errorf("b in x: %+v %+v", resource, urls)
	}
}

func TestARefusedListSaysHowToNarrowIt(t *testing.T) {
	p := compile(t, bundleOf(append(Builtin(), custom("hidden", deny(named(on([]string{"get"}, []string{""}, "secrets"), "prod-*")))),
		grantTo("a", Edit, "team-a", "team-b"), grantTo("a", "hidden", "team-a")))
	for _, c := range []struct {
		a    Attributes
		next string
	}{
		{ask("a", "list", "", "pods", "", ""), "-n team-a"},
		{ask("a", "list", "", "secrets", "team-a", ""), "metadata.name="},
		{ask("a", "create", "", "pods", "", ""), ""},
		{ask("a", "list", "", "nodes", "", ""), ""},
	} {
		if d := p.Decide(c.a); d.Allowed || !strings.Contains(d.Next, c.next) || (c.next == "" && d.Next != "") {
			t.Errorf("%s %s: %+v", c.a.Verb, c.a.resource(), d)
		}
	}
}

// A pattern is the names that it matches, whatever the rule and its effect.
func TestAPatternIsTheNamesThatItMatches(t *testing.T) {
	r := rand.New(rand.NewPCG(13, 14))
	spell := func(rules []*apiv1.Rule, names func(string) []string) []*apiv1.Rule {
		var out []*apiv1.Rule
		for _, x := range rules {
			c := proto.CloneOf(x)
			c.ResourceNames = nil
			for _, n := range x.ResourceNames {
				c.ResourceNames = append(c.ResourceNames, names(n)...)
			}
			out = append(out, c)
		}
		return out
	}
	asked := append(slices.Clone(someNames), "")
	patterns := map[string][]string{"a": {"a", "*a", "a*", "a**"}, "b": {"b", "*b", "b*"}}
	for range 300 {
		rules := []*apiv1.Rule{randomRule(r), randomRule(r), deny(randomRule(r))}
		byName := compile(t, bundleOf([]*apiv1.Role{custom("r", rules...)}, grantTo("a", "r")))
		byPattern := compile(t, bundleOf([]*apiv1.Role{custom("r", spell(rules, func(n string) []string { return pick(r, patterns[n], 1) })...)}, grantTo("a", "r")))
		for range 50 {
			a := randomRequest(r)
			if !slices.Contains(asked, a.target()) {
				continue
			}
			if n, p := byName.Decide(a), byPattern.Decide(a); n.Allowed != p.Allowed {
				t.Fatalf("%+v: %v by name (%s), %v by pattern (%s)", a, n.Allowed, n.Reason, p.Allowed, p.Reason)
			}
		}
	}
}
