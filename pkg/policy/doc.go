// Package policy decides. A Policy is one cluster's signed bundle, compiled;
// Decide answers what one person may do there, and says why.
//
// Why its answers can be relied on:
//
//   - Nothing allows but a grant. Who is unknown, has no grant or only expired
//     ones is refused, and so is whatever no rule spells out.
//   - Rules are those of Kubernetes RBAC, matched exactly as Kubernetes matches
//     them; a differential test holds the two together. What RBAC lacks is
//     added on top and only ever narrows: a deny overrides every allow, a grant
//     ends at its expiry even inside a remembered decision, and what leads to
//     somebody else's rights (see guarded.go) is reached by no wildcard.
//   - A grant on a namespace admits requests in that namespace and nothing else.
//     A deny on a namespace, or on a name, also refuses the wider request that
//     would include it.
//   - Casbin merges the effects (deny over allow) over the lines that concern the
//     subject. A matcher that fails, for whatever reason, is a refusal.
//   - A bundle that needs a feature this build does not know, or that refers to
//     something it does not hold, is refused whole: half a policy is not a policy.
//
// A Policy is immutable and safe for concurrent use. Decisions are remembered in
// memory that is bounded whatever a client asks for.
package policy
