package policy

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/component-helpers/auth/rbac/validation"

	apiv1 "github.com/sallyport-mesh/sallyport/pkg/api/sallyport/v1"
)

// Small vocabularies, so that rules and requests meet often.
var (
	someVerbs      = []string{"get", "list", "watch", "create", "delete", "deletecollection", "escalate", "*"}
	someGroups     = []string{"", "apps", "rbac.authorization.k8s.io", "*"}
	someResources  = []string{"pods", "pods/exec", "pods/proxy", "deployments", "deployments/scale", "roles", "*", "*/scale", "*/proxy", "pods/*"}
	someNames      = []string{"a", "b"}
	someURLs       = []string{"/metrics", "/metrics/*", "/logs", "/lo*", "*", "/debug/pprof/*"}
	somePaths      = []string{"/metrics", "/metrics/x", "/logs", "/login", "/debug/pprof/heap", "/"}
	someNamespaces = []string{"ns-1", "ns-2", "ns-3"}
)

func pick(r *rand.Rand, from []string, most int) []string {
	var out []string
	for range 1 + r.IntN(most) {
		if x := from[r.IntN(len(from))]; !slices.Contains(out, x) {
			out = append(out, x)
		}
	}
	return out
}

func randomRule(r *rand.Rand) *apiv1.Rule {
	if r.IntN(5) == 0 {
		return &apiv1.Rule{Verbs: pick(r, someVerbs, 2), NonResourceUrls: pick(r, someURLs, 2)}
	}
	x := &apiv1.Rule{Verbs: pick(r, someVerbs, 3), ApiGroups: pick(r, someGroups, 2), Resources: pick(r, someResources, 3)}
	if r.IntN(3) == 0 {
		x.ResourceNames = pick(r, someNames, 2)
	}
	return x
}

func randomRules(r *rand.Rand, most int) []rbacv1.PolicyRule {
	role := &apiv1.Role{}
	for range 1 + r.IntN(most) {
		role.Rules = append(role.Rules, randomRule(r))
	}
	return PolicyRules(role)
}

func randomRequest(r *rand.Rand) Attributes {
	if r.IntN(5) == 0 {
		return path("a", someVerbs[r.IntN(3)], somePaths[r.IntN(len(somePaths))])
	}
	resource := someResources[r.IntN(6)] // no wildcards
	namespace := append(someNamespaces, "")[r.IntN(4)]
	a := ask("a", someVerbs[r.IntN(6)], someGroups[r.IntN(3)], resource, namespace, "")
	switch a.Verb {
	case "list", "watch", "deletecollection":
		a.SelectedName = append(someNames, "c", "")[r.IntN(4)]
	case "get", "delete":
		a.Name = append(someNames, "c")[r.IntN(3)]
	}
	return a
}

// atom is a request as the narrowest rule: Kubernetes' own escalation check then
// tells whether rules allow it.
func atom(a Attributes) rbacv1.PolicyRule {
	if !a.ResourceRequest {
		return rbacv1.PolicyRule{Verbs: []string{a.Verb}, NonResourceURLs: []string{a.Path}}
	}
	x := rbacv1.PolicyRule{Verbs: []string{a.Verb}, APIGroups: []string{a.APIGroup}, Resources: []string{a.resource()}}
	if n := a.target(); n != "" {
		x.ResourceNames = []string{n}
	}
	return x
}

// names reports whether a rule spells out the request's group and resource.
func names(x rbacv1.PolicyRule, a Attributes) bool {
	return slices.Contains(x.APIGroups, a.APIGroup) && slices.Contains(x.Resources, a.resource())
}

func TestAllowsExactlyWhatKubernetesAllows(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	allowed := 0
	for range 600 {
		var roles []*apiv1.Role
		var grants []*apiv1.BundleGrant
		for i := range 1 + r.IntN(4) {
			role := custom(fmt.Sprint("role-", i))
			for range 1 + r.IntN(3) {
				role.Rules = append(role.Rules, randomRule(r))
			}
			roles = append(roles, role)
			g := grantTo("a", role.Name)
			if r.IntN(2) == 0 {
				g.Namespaces = pick(r, someNamespaces, 2)
			}
			grants = append(grants, g)
		}
		p := compile(t, bundleOf(roles, grants...))
		for range 40 {
			a := randomRequest(r)
			// What Kubernetes says: a ClusterRoleBinding holds everywhere, a
			// RoleBinding in its namespace.
			want := false
			for i, g := range grants {
				if len(g.Namespaces) > 0 && (!a.ResourceRequest || !slices.Contains(g.Namespaces, a.Namespace)) {
					continue
				}
				for _, x := range PolicyRules(roles[i]) {
					ok, _ := validation.Covers([]rbacv1.PolicyRule{x}, []rbacv1.PolicyRule{atom(a)})
					want = want || (ok && (!a.ResourceRequest || !guarded(a.APIGroup, a.resource(), a.Verb) || names(x, a)))
				}
			}
			if want {
				allowed++
			}
			if d := p.Decide(a); d.Allowed != want {
				t.Fatalf("%+v: allowed = %v, Kubernetes says %v (%s)\nroles %v\ngrants %v", a, d.Allowed, want, d.Reason, roles, grants)
			}
		}
	}
	if allowed < 1000 {
		t.Errorf("only %d requests were allowed: the vocabulary is too large to prove anything", allowed)
	}
}

func TestNamespacedGrantNeverLeaks(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	for range 200 {
		role := custom("r", on([]string{"*"}, []string{"*"}, "*"), &apiv1.Rule{Verbs: []string{"*"}, NonResourceUrls: []string{"*"}}, randomRule(r))
		granted := pick(r, someNamespaces, 2)
		p := compile(t, bundleOf([]*apiv1.Role{role}, grantTo("a", "r", granted...)))
		for range 50 {
			a := randomRequest(r)
			if d := p.Decide(a); d.Allowed && !slices.Contains(granted, a.Namespace) {
				t.Fatalf("%+v allowed by a grant on %v: %s", a, granted, d.Rule)
			}
		}
		for _, e := range p.Entitlements("a") {
			if !slices.Contains(granted, e.Namespace) {
				t.Fatalf("entitlement in %q by a grant on %v", e.Namespace, granted)
			}
		}
	}
}

func TestDenyOnlyEverNarrows(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	for range 300 {
		roles := []*apiv1.Role{custom("allow", randomRule(r), randomRule(r), randomRule(r)), custom("deny", deny(randomRule(r)))}
		denied := grantTo("a", "deny")
		if r.IntN(2) == 0 {
			denied.Namespaces = pick(r, someNamespaces, 2)
		}
		without := compile(t, bundleOf(roles, grantTo("a", "allow")))
		with := compile(t, bundleOf(roles, grantTo("a", "allow"), denied))
		for range 50 {
			a := randomRequest(r)
			before, after := without.Decide(a), with.Decide(a)
			hit := len(denied.Namespaces) == 0 || (a.ResourceRequest && slices.Contains(denied.Namespaces, a.Namespace))
			ok, _ := validation.Covers(PolicyRules(&apiv1.Role{Rules: []*apiv1.Rule{{
				Verbs: roles[1].Rules[0].Verbs, ApiGroups: roles[1].Rules[0].ApiGroups, Resources: roles[1].Rules[0].Resources,
				ResourceNames: roles[1].Rules[0].ResourceNames, NonResourceUrls: roles[1].Rules[0].NonResourceUrls,
			}}}), []rbacv1.PolicyRule{atom(a)})
			switch {
			case after.Allowed && !before.Allowed:
				t.Fatalf("%+v allowed by adding a deny", a)
			case after.Allowed && hit && ok:
				t.Fatalf("%+v allowed though denied by %v", a, roles[1].Rules)
			}
		}
	}
}

func TestWithinACeilingPassesKubernetesEscalationCheck(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 8))
	kept := 0
	for range 3000 {
		rules, ceiling := randomRules(r, 3), randomRules(r, 4)
		within, above := Under(rules, ceiling)
		if ok, missing := validation.Covers(ceiling, within); !ok {
			t.Fatalf("not under the ceiling: %v\nrules %v\nceiling %v\nwithin %v", missing, rules, ceiling, within)
		}
		if ok, missing := validation.Covers(rules, within); !ok {
			t.Fatalf("more than the rules: %v\nrules %v\nceiling %v", missing, rules, ceiling)
		}
		for _, x := range within {
			if slices.Contains(x.Verbs, "*") || slices.ContainsFunc(x.Verbs, neverAllowed) {
				t.Fatalf("verbs %v got through", x.Verbs)
			}
			if len(x.NonResourceURLs) == 0 && (len(x.APIGroups) == 0 || len(x.Resources) == 0) || len(x.Verbs) == 0 {
				t.Fatalf("rule that Kubernetes refuses: %v", x)
			}
		}
		if ok, _ := validation.Covers(ceiling, rules); (len(above) == 0) != (ok && !holds(rules, neverAllowed)) {
			t.Fatalf("Kubernetes says covered = %v, above is %v\nrules %v\nceiling %v", ok, above, rules, ceiling)
		}
		// Nothing that both allow is lost, and what must be named is only there if
		// both name it.
		for range 40 {
			a := randomRequest(r)
			in := func(list []rbacv1.PolicyRule) bool {
				ok, _ := validation.Covers(list, []rbacv1.PolicyRule{atom(a)})
				return ok
			}
			if a.ResourceRequest && guarded(a.APIGroup, a.resource(), a.Verb) {
				byName := slices.ContainsFunc(rules, func(x rbacv1.PolicyRule) bool { return names(x, a) && in([]rbacv1.PolicyRule{x}) }) &&
					slices.ContainsFunc(ceiling, func(x rbacv1.PolicyRule) bool { return names(x, a) && in([]rbacv1.PolicyRule{x}) })
				if in(within) != byName {
					t.Fatalf("%+v: within = %v, named by both = %v\nrules %v\nceiling %v\nwithin %v", a, in(within), byName, rules, ceiling, within)
				}
				continue
			}
			if in(rules) && in(ceiling) && !in(within) && !lostToWildcards(rules, ceiling, a) {
				t.Fatalf("%+v is allowed by both and lost\nrules %v\nceiling %v\nwithin %v", a, rules, ceiling, within)
			}
			if in(within) {
				kept++
			}
		}
	}
	if kept < 1000 {
		t.Errorf("only %d requests lay within: the vocabulary is too large to prove anything", kept)
	}
}

func holds(rules []rbacv1.PolicyRule, bad func(string) bool) bool {
	return slices.ContainsFunc(rules, func(x rbacv1.PolicyRule) bool { return slices.ContainsFunc(x.Verbs, bad) })
}

// lostToWildcards: where both sides only give a resource by a wildcard that also
// reaches what must be named, RBAC has no words for the rest.
func lostToWildcards(rules, ceiling []rbacv1.PolicyRule, a Attributes) bool {
	wild := func(list []rbacv1.PolicyRule) bool {
		return slices.ContainsFunc(list, func(x rbacv1.PolicyRule) bool {
			return slices.Contains(x.APIGroups, "*") || slices.ContainsFunc(x.Resources, func(s string) bool { return strings.Contains(s, "*") })
		})
	}
	return a.ResourceRequest && wild(rules) && wild(ceiling)
}

func TestBuiltinRolesKeepTheirPromises(t *testing.T) {
	roles := map[string][]rbacv1.PolicyRule{}
	for _, r := range Builtin() {
		roles[r.Name] = PolicyRules(r)
	}
	in := func(role string, a Attributes) bool {
		ok, _ := validation.Covers(roles[role], []rbacv1.PolicyRule{atom(a)})
		return ok
	}
	for _, pair := range [][2]string{{View, Edit}, {Edit, Admin}, {Admin, ClusterAdmin}} {
		if ok, missing := validation.Covers(roles[pair[1]], roles[pair[0]]); !ok {
			t.Errorf("%s is not in %s: %v", pair[0], pair[1], missing)
		}
	}
	for _, a := range []Attributes{
		ask("", "get", "", "secrets", "x", "s"), ask("", "list", "", "secrets", "x", ""),
		ask("", "get", "", "pods/exec", "x", "p"), ask("", "create", "", "pods/portforward", "x", "p"),
	} {
		if in(View, a) || !in(Edit, a) {
			t.Errorf("%s %s: view %v, edit %v", a.Verb, a.resource(), in(View, a), in(Edit, a))
		}
	}
	for _, role := range []string{View, Edit, Admin} {
		for _, x := range roles[role] {
			for _, group := range x.APIGroups {
				for _, resource := range x.Resources {
					for _, verb := range x.Verbs {
						if guarded(group, resource, verb) || neverAllowed(verb) || strings.Contains(group+resource+verb, "*") {
							t.Errorf("%s holds %s %s/%s", role, verb, group, resource)
						}
					}
				}
			}
		}
		// A role of ours is a ceiling under which itself fits.
		within, above := Under(roles[role], roles[role])
		ok, missing := validation.Covers(within, roles[role])
		if len(above) > 0 || !ok {
			t.Errorf("%s under itself: above %v, lost %v", role, above, missing)
		}
	}
	// cluster-admin under a ceiling is the ceiling.
	within, above := Under(roles[ClusterAdmin], roles[Admin])
	if ok, missing := validation.Covers(within, roles[Admin]); !ok || len(above) == 0 {
		t.Errorf("cluster-admin under admin lost %v, above %v", missing, above)
	}
}
