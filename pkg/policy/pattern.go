package policy

import (
	"slices"
	"strings"

	apiv1 "github.com/sallyport-mesh/sallyport/pkg/api/sallyport/v1"
)

// isPattern reports whether a resource name of a rule is a pattern. Kubernetes
// names hold no asterisk but for those of RBAC objects, where one is odd.
func isPattern(name string) bool { return strings.Contains(name, "*") }

func hasPattern(r *apiv1.Rule) bool { return slices.ContainsFunc(r.GetResourceNames(), isPattern) }

// nameCovers reports whether a name of a rule, in which every "*" stands for
// any characters or none, is that of an object.
func nameCovers(pattern, name string) bool {
	first, rest, ok := strings.Cut(pattern, "*")
	if !ok {
		return pattern == name
	}
	name, ok = strings.CutPrefix(name, first)
	if !ok {
		return false
	}
	// What stands between two asterisks is found as early as it can be, which
	// leaves the most for what follows.
	for {
		part, after, more := strings.Cut(rest, "*")
		if !more {
			return strings.HasSuffix(name, part)
		}
		i := strings.Index(name, part)
		if i < 0 {
			return false
		}
		name, rest = name[i+len(part):], after
	}
}
