package policy

import (
	"fmt"
	"slices"
	"strings"
	"time"

	rbacv1 "k8s.io/api/rbac/v1"
)

// Rules lists what a user may do in a namespace, for a SelfSubjectRulesReview:
// what is allowed, less what is denied outright. Patterns stand where names do.
// What its words cannot say, the caveat does: the answer is to be marked
// incomplete with it.
func (p *Policy) Rules(userID, namespace string) (resource, nonResource []rbacv1.PolicyRule, caveat string) {
	s := p.subjects[userID]
	if s == nil {
		return nil, nil, ""
	}
	at := p.now()
	denies := p.deniesIn(s, namespace, at)
	wild, listed, listedURLs := false, map[*role]bool{}, map[*role]bool{}
	for _, g := range s.grants {
		whole, here := g.holdsIn(namespace, false)
		if !g.live(at) || !here {
			continue
		}
		resources, urls := !listed[g.role], whole && !listedURLs[g.role]
		listed[g.role], listedURLs[g.role] = true, listedURLs[g.role] || urls
		for _, x := range g.role.allow {
			wild = wild || slices.Contains(x.ApiGroups, "*") || slices.ContainsFunc(x.Resources, func(r string) bool { return strings.Contains(r, "*") })
			if len(x.Resources) > 0 && resources {
				resource = append(resource, x.without(denies)...)
			}
			if len(x.NonResourceUrls) > 0 && urls {
				nonResource = append(nonResource, rbacv1.PolicyRule{Verbs: x.Verbs, NonResourceURLs: x.NonResourceUrls})
			}
		}
	}
	if s.holds(at) {
		nonResource = append(nonResource, rbacv1.PolicyRule{
			Verbs: []string{"get"},
			NonResourceURLs: []string{
				"/api", "/api/*", "/apis", "/apis/*", "/healthz", "/livez", "/openapi", "/openapi/*", "/readyz", "/version", "/version/",
			},
		})
	}
	return resource, nonResource, caveatOf(denies, wild)
}

// holdsIn reports whether the grant's rules of an effect hold in a namespace, or
// in the whole cluster.
func (g *grant) holdsIn(namespace string, deny bool) (whole, here bool) {
	for _, scope := range g.scopes() {
		switch scope {
		case wholeCluster:
			return true, true
		case inNamespace + namespace:
			here = true
		case unknownScope:
			here = here || deny
		}
	}
	return false, here
}

// located is a deny and whose it is.
type located struct {
	rule
	role string
}

func (p *Policy) deniesIn(s *subject, namespace string, at time.Time) []located {
	var out []located
	for _, g := range s.grants {
		if _, here := g.holdsIn(namespace, true); !here || !g.live(at) {
			continue
		}
		for _, x := range g.role.deny {
			if l := (located{x, g.role.name}); !slices.Contains(out, l) {
				out = append(out, l)
			}
		}
	}
	return out
}

// without is what a rule allows where denies hold, in Kubernetes' words. A verb
// of a resource that is denied only for some names stays.
func (x rule) without(denies []located) []rbacv1.PolicyRule {
	whole := rbacv1.PolicyRule{Verbs: x.Verbs, APIGroups: x.ApiGroups, Resources: x.Resources, ResourceNames: x.ResourceNames}
	touched := slices.ContainsFunc(denies, func(d located) bool { return d.touches(x) })
	if !touched {
		return []rbacv1.PolicyRule{whole}
	}
	var out []rbacv1.PolicyRule
	for _, group := range x.ApiGroups {
		for _, resource := range x.Resources {
			part := whole
			part.APIGroups, part.Resources = []string{group}, []string{resource}
			part.Verbs = left(x.Verbs, denies, group, resource)
			if len(part.Verbs) > 0 {
				out = append(out, part)
			}
		}
	}
	return out
}

// touches reports whether a deny takes anything of a rule away outright.
func (l located) touches(x rule) bool {
	for _, group := range x.ApiGroups {
		for _, resource := range x.Resources {
			if l.takes(group, resource, "") {
				return true
			}
		}
	}
	return false
}

// takes reports whether a deny covers all of a group and a resource, either of
// which may be a wildcard, for a verb, "" for any.
func (l located) takes(group, resource, verb string) bool {
	if len(l.ResourceNames) > 0 || !hasOr(l.ApiGroups, "*", group) {
		return false
	}
	base, sub, _ := strings.Cut(resource, "/")
	if !slices.ContainsFunc(l.Resources, func(r string) bool { return resourcePatternCovers(r, resource) }) &&
		!(sameObject(sub) && slices.Contains(l.Resources, base)) {
		return false
	}
	a := &Attributes{ResourceRequest: true, Verb: verb, APIGroup: group, Resource: base, Subresource: sub}
	return verb == "" || hasOr(l.Verbs, "*", verb) || sameDeed(l.Verbs, a)
}

// left is which verbs of a group and resource are not denied.
func left(verbs []string, denies []located, group, resource string) []string {
	taken := func(v string) bool {
		return slices.ContainsFunc(denies, func(l located) bool { return l.takes(group, resource, v) })
	}
	if slices.Contains(verbs, "*") {
		if !slices.ContainsFunc(everyVerb, taken) {
			return verbs
		}
		verbs = everyVerb
	}
	return slices.DeleteFunc(slices.Clone(verbs), taken)
}

// maxCaveats bounds how many denies are told.
const maxCaveats = 10

// caveatOf says which denies there are. Which names they are about may be more
// than the asker should know.
func caveatOf(denies []located, wild bool) string {
	var parts []string
	for i, d := range denies {
		if i == maxCaveats {
			parts = append(parts, fmt.Sprintf("and %d more", len(denies)-i))
			break
		}
		what := strings.Join(append(slices.Clone(d.Resources), d.NonResourceUrls...), ",")
		if len(d.ResourceNames) > 0 {
			what = "some " + what
		}
		parts = append(parts, fmt.Sprintf("role %s forbids %s on %s", d.role, strings.Join(d.Verbs, ","), what))
	}
	if wild {
		parts = append(parts, "a wildcard does not reach what a role must name, such as pods/proxy")
	}
	return strings.Join(parts, "; ")
}
