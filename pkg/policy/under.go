package policy

import (
	"fmt"
	"slices"
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"
)

// everyVerb is what "*" stands for where both sides say it. Spelling it out
// keeps bind, escalate and impersonate out.
var everyVerb = []string{"create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"}

// Under returns the part of rules that lies within a ceiling, and the rules that
// reach above it. What lies within is accepted by Kubernetes' escalation check
// from anyone who holds the ceiling, and holds no guarded resource unless the
// rule and the ceiling both name it, nor the verbs bind, escalate and
// impersonate. A wildcard reaches above every ceiling that is enumerated, as an
// agent's must be; what lies within it is then the ceiling.
func Under(rules, ceiling []rbacv1.PolicyRule) (within, above []rbacv1.PolicyRule) {
	seen := map[string]bool{}
	for _, r := range rules {
		for _, c := range ceiling {
			for _, x := range intersect(r, c) {
				if k := fmt.Sprint(x); !seen[k] {
					seen[k] = true
					within = append(within, x)
				}
			}
		}
		if x, all := beyond(r, ceiling); !all {
			above = append(above, x...)
		}
	}
	return within, above
}

// intersect returns what both rules allow. Every part of it lies within one
// rule of the ceiling, which is how Kubernetes' check looks at it.
func intersect(r, c rbacv1.PolicyRule) []rbacv1.PolicyRule {
	verbs := bothVerbs(r.Verbs, c.Verbs)
	if len(verbs) == 0 {
		return nil
	}
	var out []rbacv1.PolicyRule
	if urls := both(r.NonResourceURLs, c.NonResourceURLs, bothURLs); len(urls) > 0 {
		out = append(out, rbacv1.PolicyRule{Verbs: verbs, NonResourceURLs: urls})
	}
	names, ok := bothNames(r.ResourceNames, c.ResourceNames)
	if !ok {
		return out
	}
	// Resources of one group whose verbs came out the same stay together.
	for _, group := range both(r.APIGroups, c.APIGroups, bothGroups) {
		byVerbs := map[string]int{}
		for _, resource := range both(r.Resources, c.Resources, bothResources) {
			left := unguarded(r, c, group, resource, verbs)
			if len(left) == 0 {
				continue
			}
			k := strings.Join(left, " ")
			if i, ok := byVerbs[k]; ok {
				out[i].Resources = append(out[i].Resources, resource)
				continue
			}
			byVerbs[k] = len(out)
			out = append(out, rbacv1.PolicyRule{
				Verbs: left, APIGroups: []string{group}, Resources: []string{resource}, ResourceNames: names,
			})
		}
	}
	return out
}

// unguarded takes out the verbs that reach a guarded resource by a wildcard.
func unguarded(r, c rbacv1.PolicyRule, group, resource string, verbs []string) []string {
	named := func(x rbacv1.PolicyRule) bool {
		return group != "*" && !strings.Contains(resource, "*") &&
			slices.Contains(x.APIGroups, group) && slices.Contains(x.Resources, resource)
	}
	if named(r) && named(c) {
		return verbs
	}
	return slices.DeleteFunc(slices.Clone(verbs), func(v string) bool { return guarded(group, resource, v) })
}

func bothVerbs(r, c []string) []string {
	var out []string
	switch all := slices.Contains(r, "*"); {
	case all && slices.Contains(c, "*"):
		out = append(slices.Clone(everyVerb), append(r, c...)...)
	case all:
		out = slices.Clone(c)
	case slices.Contains(c, "*"):
		out = slices.Clone(r)
	default:
		for _, v := range r {
			if slices.Contains(c, v) {
				out = append(out, v)
			}
		}
	}
	out = slices.DeleteFunc(out, func(v string) bool { return v == "*" || neverAllowed(v) })
	slices.Sort(out)
	return slices.Compact(out)
}

// both collects what pairs of two lists have in common, sorted.
func both(r, c []string, pair func(a, b string) (string, bool)) []string {
	var out []string
	for _, a := range r {
		for _, b := range c {
			if x, ok := pair(a, b); ok {
				out = append(out, x)
			}
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

func bothGroups(a, b string) (string, bool) {
	switch {
	case a == b || b == "*":
		return a, true
	case a == "*":
		return b, true
	}
	return "", false
}

func bothResources(a, b string) (string, bool) {
	switch {
	case a == b || resourcePatternCovers(b, a):
		return a, true
	case resourcePatternCovers(a, b):
		return b, true
	}
	return "", false
}

// resourcePatternCovers reports whether the pattern covers a resource or a
// narrower pattern: "*" covers all, "*/scale" covers "deployments/scale".
func resourcePatternCovers(pattern, x string) bool {
	if pattern == "*" || pattern == x {
		return true
	}
	_, sub, ok := strings.Cut(x, "/")
	return ok && pattern == "*/"+sub
}

func bothURLs(a, b string) (string, bool) {
	switch {
	case urlCovers(b, a):
		return a, true
	case urlCovers(a, b):
		return b, true
	}
	return "", false
}

// bothNames intersects names, where none stands for all of them.
func bothNames(r, c []string) ([]string, bool) {
	switch {
	case len(r) == 0:
		return slices.Clone(c), true
	case len(c) == 0:
		return slices.Clone(r), true
	}
	var out []string
	for _, n := range r {
		if slices.Contains(c, n) {
			out = append(out, n)
		}
	}
	return out, len(out) > 0
}

// beyond returns the parts of a rule that the ceiling does not cover, and
// whether it covers all of it.
func beyond(r rbacv1.PolicyRule, ceiling []rbacv1.PolicyRule) ([]rbacv1.PolicyRule, bool) {
	var out []rbacv1.PolicyRule
	names := [][]string{nil}
	if len(r.ResourceNames) > 0 {
		names = names[:0]
		for _, n := range r.ResourceNames {
			names = append(names, []string{n})
		}
	}
	for _, group := range r.APIGroups {
		for _, resource := range r.Resources {
			for _, n := range names {
				part := rbacv1.PolicyRule{APIGroups: []string{group}, Resources: []string{resource}, ResourceNames: n}
				for _, v := range r.Verbs {
					if !slices.ContainsFunc(ceiling, func(c rbacv1.PolicyRule) bool { return ceilingCovers(c, part, v) }) {
						part.Verbs = append(part.Verbs, v)
					}
				}
				if len(part.Verbs) > 0 {
					out = append(out, part)
				}
			}
		}
	}
	for _, u := range r.NonResourceURLs {
		part := rbacv1.PolicyRule{NonResourceURLs: []string{u}}
		for _, v := range r.Verbs {
			if !slices.ContainsFunc(ceiling, func(c rbacv1.PolicyRule) bool {
				return !neverAllowed(v) && hasOr(c.Verbs, "*", v) && slices.ContainsFunc(c.NonResourceURLs, func(x string) bool { return urlCovers(x, u) })
			}) {
				part.Verbs = append(part.Verbs, v)
			}
		}
		if len(part.Verbs) > 0 {
			out = append(out, part)
		}
	}
	return out, len(out) == 0
}

// ceilingCovers reports whether a rule of the ceiling covers one verb on a part
// with one group, one resource and at most one name.
func ceilingCovers(c, part rbacv1.PolicyRule, verb string) bool {
	return !neverAllowed(verb) && hasOr(c.Verbs, "*", verb) && hasOr(c.APIGroups, "*", part.APIGroups[0]) &&
		slices.ContainsFunc(c.Resources, func(x string) bool { return resourcePatternCovers(x, part.Resources[0]) }) &&
		(len(c.ResourceNames) == 0 || len(part.ResourceNames) > 0 && slices.Contains(c.ResourceNames, part.ResourceNames[0]))
}
