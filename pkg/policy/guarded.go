package policy

import "strings"

// Whoever reaches one of these reaches further than the rule that let him: into
// a node, past the decision (a proxied request is decided as one request and may
// be anything), or to rights of his own making. A role must spell out API group
// and resource; no wildcard in either reaches them.
var guardedResources = []struct {
	group, resource string // "*": every resource of the group
	readable        bool   // get, list and watch need no naming
}{
	{"", "nodes/proxy", false},
	{"", "pods/proxy", false},
	{"", "services/proxy", false},
	{"", "serviceaccounts/token", false},
	{"rbac.authorization.k8s.io", "*", true},
	{"certificates.k8s.io", "certificatesigningrequests/approval", true},
	{"certificates.k8s.io", "certificatesigningrequests/status", true},
	{"certificates.k8s.io", "signers", false},
	{"admissionregistration.k8s.io", "*", true},
	{"apiregistration.k8s.io", "*", true},
}

// guarded reports whether a group, resource and verb, each of which may be a
// wildcard of a rule, reach anything that must be named.
func guarded(group, resource, verb string) bool {
	for _, g := range guardedResources {
		if group != "*" && group != g.group {
			continue
		}
		if g.readable && reads(verb) {
			continue
		}
		if g.resource == "*" || resource == "*" || resource == g.resource {
			return true
		}
		if _, sub, ok := strings.Cut(g.resource, "/"); ok && resource == "*/"+sub {
			return true
		}
	}
	return false
}

// neverAllowed reports whether no rule of any role admits the verb: three are
// Kubernetes' ways to take on somebody else's rights, and "proxy" is what an
// apiserver of old would proxy by.
func neverAllowed(verb string) bool {
	switch verb {
	case "bind", "escalate", "proxy":
		return true
	}
	return strings.HasPrefix(verb, "impersonate")
}

// The namespaces that are ours in every cluster: the agent lives in the first,
// the accounts it mints in the second.
const (
	SystemNamespace = "sallyport-system"
	UsersNamespace  = "sallyport-users"
)

// ours says why a request that touches our own namespaces is refused, and what
// to do instead, or nothing. The refusal precedes every rule.
func ours(a Attributes) (refusal, next string) {
	if !a.ResourceRequest {
		return "", ""
	}
	const closed, never = " belongs to Sallyport and is closed to everyone", "no grant opens it"
	if a.APIGroup == "" && a.Resource == "namespaces" {
		name := a.Name
		if name == "" {
			name = a.Namespace
		}
		switch {
		case a.Verb == "deletecollection":
			return "namespaces are deleted one by one: all of them would include Sallyport's own", "delete them by name"
		case (name == SystemNamespace || name == UsersNamespace) && !reads(a.Verb):
			return "namespace " + name + closed, never
		}
		return "", ""
	}
	if a.Namespace == SystemNamespace || a.Namespace == UsersNamespace {
		return "namespace " + a.Namespace + closed, never
	}
	// RBAC cannot take one namespace out of a list of all of them, but who lists
	// can: Kubernetes then leaves ours out, and we have not touched the answer.
	if a.APIGroup == "" && a.Resource == "secrets" && a.Namespace == "" && !a.WithoutOurs {
		next := "name a namespace with -n"
		if a.collection() {
			next += ", or leave ours out: --field-selector " + leaveOurs
		}
		return "the Secrets of all namespaces include Sallyport's own, and a list is not trimmed", next
	}
	return "", ""
}

// leaveOurs is a field selector that leaves our namespaces out.
const leaveOurs = "metadata.namespace!=" + SystemNamespace + ",metadata.namespace!=" + UsersNamespace
