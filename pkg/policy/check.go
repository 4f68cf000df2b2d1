package policy

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/api/validate/content"
	"k8s.io/apimachinery/pkg/labels"

	apiv1 "github.com/sallyport-mesh/sallyport/pkg/api/sallyport/v1"
)

// Bounds on a role, which every bundle that grants it carries.
const (
	maxRules   = 200
	maxEntries = 200 // in each list of a rule
	maxEntry   = 253
)

// Problem is what is wrong with one field of a role.
type Problem struct {
	Field  string // as in YAML, counted from 0: "rules[2].verbs"
	Reason string
}

func (p Problem) String() string { return p.Field + ": " + p.Reason }

var (
	verbPattern     = regexp.MustCompile(`^[a-z]+$`)
	resourcePattern = regexp.MustCompile(`^[a-z0-9]([a-z0-9.-]*[a-z0-9])?(/[a-z0-9]([a-z0-9.-]*[a-z0-9])?)?$`)
)

// CheckRules lists what is wrong with the rules of a role before it is stored:
// what could not mean what its author meant, such as a rule that covers nothing.
func CheckRules(rules []*apiv1.Rule) []Problem {
	switch {
	case len(rules) == 0:
		return []Problem{{"rules", "a role needs at least one"}}
	case len(rules) > maxRules:
		return []Problem{{"rules", fmt.Sprintf("there are %d, more than %d", len(rules), maxRules)}}
	}
	var out []Problem
	for i, r := range rules {
		out = append(out, checkRule(fmt.Sprintf("rules[%d]", i), r)...)
	}
	return out
}

func checkRule(at string, r *apiv1.Rule) []Problem {
	var out []Problem
	bad := func(field, format string, args ...any) {
		out = append(out, Problem{at + "." + field, fmt.Sprintf(format, args...)})
	}
	each := func(field string, list []string, check func(string) string) {
		if len(list) > maxEntries {
			bad(field, "there are %d, more than %d", len(list), maxEntries)
			return
		}
		for i, s := range list {
			why := ""
			switch {
			case len(s) > maxEntry:
				why = fmt.Sprintf("is longer than %d bytes", maxEntry)
			case slices.Contains(list[:i], s):
				why = "stands twice"
			default:
				why = check(s)
			}
			if why != "" {
				bad(field, "%q %s", printable(s), why)
			}
		}
	}
	if len(r.GetVerbs()) == 0 {
		bad("verbs", "name at least one, such as get, or \"*\"")
	}
	each("verbs", r.GetVerbs(), checkVerb)
	if len(r.GetNonResourceUrls()) > 0 {
		if len(r.GetApiGroups())+len(r.GetResources())+len(r.GetResourceNames()) > 0 {
			bad("nonResourceURLs", "a rule is about URLs or about resources: make two of it")
		}
		each("nonResourceURLs", r.GetNonResourceUrls(), checkURL)
		return out
	}
	if len(r.GetResources()) == 0 {
		bad("resources", "name at least one, such as pods, or \"*\"")
	} else if len(r.GetApiGroups()) == 0 {
		bad("apiGroups", "name at least one: \"\" is the core group, \"*\" any")
	}
	each("apiGroups", r.GetApiGroups(), checkGroup)
	each("resources", r.GetResources(), checkResource)
	each("resourceNames", r.GetResourceNames(), checkName)
	return out
}

func checkVerb(s string) string {
	switch {
	case s == "*":
	case neverAllowed(s):
		return "is allowed by no role: it leads to somebody else's rights"
	case !verbPattern.MatchString(s):
		return "is not a verb: they are lower case, such as get, list, watch, create, update, patch, delete, deletecollection"
	}
	return ""
}

func checkGroup(s string) string {
	if s == "" || s == "*" || len(content.IsDNS1123Subdomain(s)) == 0 {
		return ""
	}
	if strings.Contains(s, "/") {
		return "is not an API group: leave the version out"
	}
	return "is not an API group, such as apps, or \"\" for the core group"
}

func checkResource(s string) string {
	sub, all := strings.CutPrefix(s, "*/")
	switch {
	case s == "*", all && resourcePattern.MatchString(sub) && !strings.Contains(sub, "/"), resourcePattern.MatchString(s):
		return ""
	case strings.HasSuffix(s, "/*"):
		return "is not a resource: name the subresources, or use \"*\""
	case s != strings.ToLower(s):
		return "is not a resource: they are lower case and plural, such as pods or pods/exec"
	}
	return "is not a resource, such as pods, pods/exec, */scale or \"*\""
}

func checkName(s string) string {
	switch {
	case s == "":
		return "is no name"
	case strings.Trim(s, "*") == "":
		return "is every name: leave resourceNames out"
	case len(content.IsPathSegmentName(s)) > 0 || s != printable(s):
		return "is not the name of an object, or a pattern of names such as web-*"
	}
	return ""
}

func checkURL(s string) string {
	switch {
	case s == "*":
	case !strings.HasPrefix(s, "/"):
		return "is not a URL path: it begins with /"
	case strings.Contains(strings.TrimSuffix(s, "*"), "*"):
		return "has a * that is not at its end"
	case s != printable(s):
		return "is not a URL path"
	}
	return ""
}

// maxSelector bounds a label selector, in bytes.
const maxSelector = 1024

// ParseSelector reads a label selector in Kubernetes' words. One that selects
// everything is refused: a grant on the whole cluster is another thing, and says
// so.
func ParseSelector(s string) (labels.Selector, error) {
	if len(s) > maxSelector {
		return nil, fmt.Errorf("is longer than %d bytes", maxSelector)
	}
	selector, err := labels.Parse(s)
	if err != nil {
		return nil, err
	}
	if selector.Empty() {
		return nil, fmt.Errorf("%q selects every namespace", s)
	}
	return selector, nil
}
