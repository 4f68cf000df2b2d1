package policy

import (
	"cmp"
	"slices"
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"
)

// Entitlements lists what a user's account may hold in Kubernetes now, one for
// each role and scope, sorted. Expired grants give nothing.
func (p *Policy) Entitlements(userID string) []Entitlement {
	s := p.subjects[userID]
	if s == nil {
		return nil
	}
	at := p.now()
	type key struct{ role, namespace string }
	found := map[key]*Entitlement{}
	for _, g := range s.grants {
		rules := p.rules[g.role.name]
		if !g.live(at) || len(rules) == 0 {
			continue
		}
		for _, scope := range g.scopes() {
			namespace, _ := strings.CutPrefix(scope, inNamespace)
			if scope == wholeCluster {
				namespace = ""
			}
			if namespace == SystemNamespace || namespace == UsersNamespace {
				continue
			}
			e, ok := found[key{g.role.name, namespace}]
			if !ok {
				found[key{g.role.name, namespace}] = &Entitlement{g.role.name, namespace, rules, g.expires}
				continue
			}
			if g.expires.IsZero() || (!e.Expires.IsZero() && g.expires.After(e.Expires)) {
				e.Expires = g.expires
			}
		}
	}
	out := make([]Entitlement, 0, len(found))
	for _, e := range found {
		out = append(out, *e)
	}
	slices.SortFunc(out, func(a, b Entitlement) int {
		return cmp.Or(strings.Compare(a.Role, b.Role), strings.Compare(a.Namespace, b.Namespace))
	})
	return out
}

// Rules lists what a user may do in a namespace, for a SelfSubjectRulesReview.
// Denies cannot be said in its words, so the answer is to be marked incomplete.
func (p *Policy) Rules(userID, namespace string) (resource, nonResource []rbacv1.PolicyRule) {
	for _, e := range p.Entitlements(userID) {
		for _, r := range e.Rules {
			switch {
			case len(r.NonResourceURLs) > 0 && e.Namespace == "":
				nonResource = append(nonResource, r)
			case len(r.Resources) > 0 && (e.Namespace == "" || e.Namespace == namespace):
				resource = append(resource, r)
			}
		}
	}
	if len(resource)+len(nonResource) > 0 {
		nonResource = append(nonResource, rbacv1.PolicyRule{
			Verbs: []string{"get"},
			NonResourceURLs: []string{
				"/api", "/api/*", "/apis", "/apis/*", "/healthz", "/livez", "/openapi", "/openapi/*", "/readyz", "/version", "/version/",
			},
		})
	}
	return resource, nonResource
}
