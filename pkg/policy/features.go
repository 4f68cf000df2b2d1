package policy

import (
	"slices"

	apiv1 "github.com/sallyport-mesh/sallyport/pkg/api/sallyport/v1"
)

// What a bundle may require of the agent that decides by it. A feature is added
// here together with the code that honours it, and never changes its meaning.
const (
	// FeatureRules are allow rules with the semantics of Kubernetes RBAC, names
	// and non-resource URLs included, in grants on a cluster or on namespaces.
	FeatureRules = "rules.v1"
	// FeatureDeny are rules that override every allow.
	FeatureDeny = "deny.v1"
	// FeaturePatterns are "*" in the resource names of rules. An agent that took
	// them for names would let a deny pass.
	FeaturePatterns = "patterns.v1"
	// FeatureSelectors are grants on namespaces by their labels. An agent that
	// ignored them would take such a grant for one on the whole cluster.
	FeatureSelectors = "selectors.v1"
	// FeatureExpiry ends grants at a moment.
	FeatureExpiry = "expiry.v1"
	// FeatureRevocation refuses by auth generation, device and session.
	FeatureRevocation = "revocation.v1"
)

// Features are those that this build knows.
var Features = []string{FeatureDeny, FeatureExpiry, FeaturePatterns, FeatureRevocation, FeatureRules, FeatureSelectors}

// Requires lists what an agent must know to decide rightly from b, sorted.
func Requires(b *apiv1.Bundle) []string {
	need := []string{FeatureRevocation, FeatureRules}
	anyRule := func(is func(*apiv1.Rule) bool) bool {
		return slices.ContainsFunc(b.GetRoles(), func(r *apiv1.Role) bool { return slices.ContainsFunc(r.GetRules(), is) })
	}
	if anyRule((*apiv1.Rule).GetDeny) {
		need = append(need, FeatureDeny)
	}
	if anyRule(hasPattern) {
		need = append(need, FeaturePatterns)
	}
	if Selects(b) {
		need = append(need, FeatureSelectors)
	}
	if slices.ContainsFunc(b.GetGrants(), func(g *apiv1.BundleGrant) bool { return g.GetExpiresAt() != nil }) {
		need = append(need, FeatureExpiry)
	}
	slices.Sort(need)
	return need
}

func unknownFeatures(requires []string) []string {
	var unknown []string
	for _, f := range requires {
		if !slices.Contains(Features, f) {
			unknown = append(unknown, f)
		}
	}
	return unknown
}

func missingFeatures(b *apiv1.Bundle) []string {
	var missing []string
	for _, f := range Requires(b) {
		if !slices.Contains(b.GetRequires(), f) {
			missing = append(missing, f)
		}
	}
	return missing
}
