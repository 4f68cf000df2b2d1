package policy

import (
	"maps"
	"slices"
	"strings"

	apiv1 "github.com/sallyport-mesh/sallyport/pkg/api/sallyport/v1"
)

// Namespaces are the labels of a cluster's namespaces, by name.
type Namespaces map[string]map[string]string

// WithNamespaces says which namespaces there are, for grants that select them by
// label. Without it, or with nil, they are not known: such a grant then allows
// nothing anywhere, and its denies hold in every namespace.
func WithNamespaces(ns Namespaces) Option { return func(p *Policy) { p.namespaces = ns } }

// Selects reports whether a grant of the bundle selects namespaces by label.
func Selects(b *apiv1.Bundle) bool {
	return slices.ContainsFunc(b.GetGrants(), func(g *apiv1.BundleGrant) bool { return g.GetNamespaceSelector() != "" })
}

// SameNamespaces reports whether other namespaces would leave the policy as it
// is: every selector of its grants selects the same ones.
func (p *Policy) SameNamespaces(ns Namespaces) bool {
	if (p.namespaces == nil) != (ns == nil) {
		return !Selects(p.bundle)
	}
	for text, have := range p.selected {
		if want, err := ns.matching(text); err != nil || !slices.Equal(have, want) {
			return false
		}
	}
	return true
}

// matching lists the namespaces that a selector selects, sorted; ours are never
// among them.
func (n Namespaces) matching(text string) ([]string, error) {
	selector, err := ParseSelector(text)
	if err != nil {
		return nil, err
	}
	var out []string
	for _, name := range slices.Sorted(maps.Keys(n)) {
		if name != SystemNamespace && name != UsersNamespace && selector.Matches(labelSet(n[name])) {
			out = append(out, name)
		}
	}
	return out, nil
}

// labelSet is labels.Labels over a map that is not copied.
type labelSet map[string]string

func (s labelSet) Has(label string) bool              { _, ok := s[label]; return ok }
func (s labelSet) Get(label string) string            { return s[label] }
func (s labelSet) Lookup(label string) (string, bool) { v, ok := s[label]; return v, ok }

// selectNamespaces resolves the selector of a grant, once for all grants that
// have the same one.
func (p *Policy) selectNamespaces(text string) ([]string, error) {
	if found, ok := p.selected[text]; ok {
		return found, nil
	}
	found, err := p.namespaces.matching(text)
	if err == nil {
		p.selected[text] = found
	}
	return found, err
}

// scopes are where the grant holds, as lines spell it.
func (g *grant) scopes() []string {
	if g.NamespaceSelector == "" && len(g.namespaces) == 0 {
		return []string{wholeCluster}
	}
	out := make([]string, 0, len(g.namespaces)+1)
	for _, ns := range g.namespaces {
		out = append(out, inNamespace+ns)
	}
	switch {
	case g.unresolved:
		out = append(out, unknownScope)
	case g.NamespaceSelector != "":
		out = append(out, labelledScope)
	}
	return out
}

// withinScope reports whether a line of a scope and an effect is about the
// request.
func withinScope(a *Attributes, scope string, deny bool) bool {
	switch scope {
	case wholeCluster:
		return true
	case unknownScope:
		return deny && a.ResourceRequest && (a.Namespace != "" || a.collection())
	case labelledScope:
		return deny && a.ResourceRequest && a.Namespace == "" && a.collection()
	}
	namespace, ok := strings.CutPrefix(scope, inNamespace)
	if !ok || !a.ResourceRequest {
		return false
	}
	if a.Namespace == "" {
		// A list of every namespace includes the one that is denied.
		return deny && a.collection()
	}
	if a.Namespace != namespace {
		return false
	}
	// Kubernetes puts the namespace object into its own namespace. Whoever works
	// in it may read it, but its labels decide what pods may do there.
	return deny || a.APIGroup != "" || a.Resource != "namespaces" || reads(a.Verb)
}
