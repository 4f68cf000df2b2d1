package policy

import (
	"cmp"
	"slices"
	"strings"
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
			namespace, named := strings.CutPrefix(scope, inNamespace)
			switch {
			case scope == wholeCluster:
				namespace = ""
			case !named, namespace == SystemNamespace, namespace == UsersNamespace:
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
