package policy

import (
	"slices"
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"

	apiv1 "github.com/sallyport-mesh/sallyport/pkg/api/sallyport/v1"
)

// role is a compiled role: its rules apart by effect.
type role struct {
	name        string
	allow, deny []rule
	named       bool // some rule is about names
}

// rule is one rule and its place in the role, counted from 1.
type rule struct {
	*apiv1.Rule
	number int
}

func compileRole(r *apiv1.Role) *role {
	c := &role{name: r.GetName()}
	for i, x := range r.GetRules() {
		if x.GetDeny() {
			c.deny = append(c.deny, rule{x, i + 1})
		} else {
			c.allow = append(c.allow, rule{x, i + 1})
		}
		c.named = c.named || len(x.GetResourceNames()) > 0
	}
	return c
}

// rule is the rule of a number, nil where find found none.
func (r *role) rule(number int) *apiv1.Rule {
	for _, x := range slices.Concat(r.allow, r.deny) {
		if x.number == number {
			return x.Rule
		}
	}
	return nil
}

// find returns the first rule with the effect that covers the request, or 0.
func (r *role) find(a *Attributes, deny bool) int {
	rules := r.allow
	if deny {
		rules = r.deny
	}
	for _, x := range rules {
		if x.covers(a) {
			return x.number
		}
	}
	return 0
}

// covers is Kubernetes' RuleAllows (plugin/pkg/auth/authorizer/rbac), with the
// differences that deny, patterns and guarded resources make.
func (x rule) covers(a *Attributes) bool {
	if !x.coversAnyName(a) {
		return false
	}
	if len(x.ResourceNames) == 0 || !a.ResourceRequest {
		return true
	}
	target := a.target()
	if target == "" {
		// An allow reaches only what it names. A deny reaches every request that
		// may include what it names.
		return x.Deny
	}
	return slices.ContainsFunc(x.ResourceNames, func(n string) bool { return nameCovers(n, target) })
}

// coversAnyName is covers for a rule without its names.
func (x rule) coversAnyName(a *Attributes) bool {
	if !hasOr(x.Verbs, "*", a.Verb) && !(x.Deny && sameDeed(x.Verbs, a)) {
		return false
	}
	if !a.ResourceRequest {
		return slices.ContainsFunc(x.NonResourceUrls, func(u string) bool { return urlCovers(u, a.Path) })
	}
	resource := a.resource()
	if !hasOr(x.ApiGroups, "*", a.APIGroup) {
		return false
	}
	if !resourceCovers(x.Resources, resource, a.Subresource) && !(x.Deny && sameObject(a.Subresource) && resourceCovers(x.Resources, a.Resource, "")) {
		return false
	}
	return x.Deny || !guarded(a.APIGroup, resource, a.Verb) ||
		slices.Contains(x.ApiGroups, a.APIGroup) && slices.Contains(x.Resources, resource)
}

// sameDeed reports whether a request does, under another verb, what one of the
// verbs of a deny does: a list reads what a get reads, a watch begins with the
// list, and a write is answered with the object, also as a dry run.
func sameDeed(denied []string, a *Attributes) bool {
	has := func(verb string) bool { return slices.Contains(denied, verb) }
	if !a.ResourceRequest {
		return false
	}
	if a.MayCreate && has("create") || a.inContainer() && has("get") {
		return true
	}
	switch a.Verb {
	case "list":
		return has("get") || has("watch")
	case "watch":
		return has("get") || has("list")
	case "delete":
		return has("get")
	case "deletecollection":
		return has("delete") || has("get") || has("list")
	case "update":
		return has("patch") || has("get")
	case "patch":
		return has("update") || has("get")
	}
	return false
}

// sameObject reports whether a subresource is read and written as the whole
// object, so that a deny on the one is a deny on the other.
func sameObject(subresource string) bool {
	return subresource == "status" || subresource == "ephemeralcontainers" || subresource == "resize"
}

func hasOr(set []string, all, one string) bool {
	return slices.Contains(set, one) || slices.Contains(set, all)
}

func resourceCovers(set []string, resource, subresource string) bool {
	for _, s := range set {
		if s == "*" || s == resource {
			return true
		}
		if subresource != "" && len(s) == len(subresource)+2 && s[:2] == "*/" && s[2:] == subresource {
			return true
		}
	}
	return false
}

// urlCovers follows Kubernetes: "*" is every path, a trailing "*" every path
// that begins so. pattern may cover another pattern.
func urlCovers(pattern, path string) bool {
	if pattern == "*" || pattern == path {
		return true
	}
	return strings.HasSuffix(pattern, "*") && strings.HasPrefix(path, strings.TrimRight(pattern, "*"))
}

// PolicyRules returns what a role allows, in the words of Kubernetes. Denies
// have none and are left out: they live in the policy alone. So do patterns of
// names: a rule that has one is without names in Kubernetes, and the policy is
// what holds people to them.
func PolicyRules(r *apiv1.Role) []rbacv1.PolicyRule {
	var out []rbacv1.PolicyRule
	for _, x := range r.GetRules() {
		if x.GetDeny() {
			continue
		}
		if len(x.GetResources()) > 0 {
			names := slices.Clone(x.GetResourceNames())
			if hasPattern(x) {
				names = nil
			}
			out = append(out, rbacv1.PolicyRule{
				Verbs: slices.Clone(x.GetVerbs()), APIGroups: slices.Clone(x.GetApiGroups()),
				Resources: slices.Clone(x.GetResources()), ResourceNames: names,
			})
		}
		if len(x.GetNonResourceUrls()) > 0 {
			out = append(out, rbacv1.PolicyRule{
				Verbs: slices.Clone(x.GetVerbs()), NonResourceURLs: slices.Clone(x.GetNonResourceUrls()),
			})
		}
	}
	return out
}
