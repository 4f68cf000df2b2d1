package manifest

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"

	"github.com/sallyport-mesh/sallyport/pkg/policy"
)

// The ceilings an owner can choose from, narrowest first.
const (
	// View reads everything but Secrets.
	View = "view"
	// Edit is View, and writes workloads and their configuration (Secrets too)
	// in namespaces, exec and port-forward. No RBAC, no nodes.
	Edit = "edit"
	// Admin is the widest: all of Kubernetes' own groups but what would lead
	// above it.
	Admin = "admin"
)

// Names that the agent looks for in a cluster.
const (
	SystemNamespace = policy.SystemNamespace
	UsersNamespace  = policy.UsersNamespace
	AgentAccount    = "sallyport-agent"
	CeilingRole     = "sallyport-ceiling"
	JoinSecret      = "sallyport-join"
	JoinSecretKey   = "token"
	// ObjectPrefix begins the name of everything the agent makes.
	ObjectPrefix = "sp-"
)

// AgentUser is the agent's user name in the cluster.
const AgentUser = "system:serviceaccount:" + SystemNamespace + ":" + AgentAccount

var (
	readVerbs  = []string{"get", "list", "watch"}
	writeVerbs = []string{"create", "update", "patch", "delete", "deletecollection"}
	allVerbs   = slices.Concat(readVerbs, writeVerbs)
	// An HTTP method each.
	proxyVerbs = []string{"get", "create", "update", "patch", "delete"}
)

func rule(verbs []string, group string, resources ...string) rbacv1.PolicyRule {
	return rbacv1.PolicyRule{Verbs: verbs, APIGroups: []string{group}, Resources: resources}
}

// Ceiling is the rules of a level, with all resources of extra API groups (those
// of CRDs) as far as the level goes: read for View, everything otherwise.
func Ceiling(level string, extra []string) ([]rbacv1.PolicyRule, error) {
	var rules []rbacv1.PolicyRule
	verbs := allVerbs
	switch level {
	case View:
		rules, verbs = viewRules(), readVerbs
	case Edit:
		rules = slices.Concat(viewRules(), editRules())
	case Admin:
		rules = adminRules()
	default:
		return nil, fmt.Errorf("there is no ceiling %q: choose %s, %s or %s", level, View, Edit, Admin)
	}
	seen := map[string]bool{}
	for _, g := range extra {
		if err := checkExtraGroup(g); err != nil {
			return nil, err
		}
		if !seen[g] {
			seen[g] = true
			rules = append(rules, rule(verbs, g, "*"))
		}
	}
	urls := []string{
		"/api", "/api/*", "/apis", "/apis/*", "/openapi", "/openapi/*", "/version", "/version/", "/healthz", "/livez", "/readyz",
	}
	if level == Admin {
		urls = append(urls, "/healthz/*", "/livez/*", "/readyz/*", "/metrics")
	}
	return append(rules, rbacv1.PolicyRule{Verbs: []string{"get"}, NonResourceURLs: urls}), nil
}

var groupPattern = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)+$`)

// checkExtraGroup keeps 'one more group' from being a way around the ceiling:
// a group of Kubernetes' own is in it already, or is left out on purpose.
func checkExtraGroup(g string) error {
	if len(g) > 253 || !groupPattern.MatchString(g) {
		return fmt.Errorf("%q is not the API group of a custom resource, like cert-manager.io", g)
	}
	if g == "k8s.io" || strings.HasSuffix(g, ".k8s.io") && !strings.HasSuffix(g, ".x-k8s.io") && !slices.Contains(communityGroups, g) {
		return fmt.Errorf("%q is a group of Kubernetes' own: it is in the ceiling already, or left out because it leads above it", g)
	}
	return nil
}

// communityGroups end in .k8s.io and are CRDs of Kubernetes' special interest
// groups all the same.
var communityGroups = []string{"gateway.networking.k8s.io", "metrics.k8s.io", "snapshot.storage.k8s.io", "policy.networking.k8s.io"}

func viewRules() []rbacv1.PolicyRule {
	return []rbacv1.PolicyRule{
		rule(readVerbs, "", "bindings", "componentstatuses", "configmaps", "endpoints", "events", "limitranges",
			"namespaces", "namespaces/status", "nodes", "nodes/status",
			"persistentvolumeclaims", "persistentvolumeclaims/status", "persistentvolumes", "persistentvolumes/status",
			"pods", "pods/log", "pods/status", "podtemplates",
			"replicationcontrollers", "replicationcontrollers/scale", "replicationcontrollers/status",
			"resourcequotas", "resourcequotas/status", "serviceaccounts", "services", "services/status"),
		rule(readVerbs, "apps", "*"),
		rule(readVerbs, "autoscaling", "*"),
		rule(readVerbs, "batch", "*"),
		rule(readVerbs, "coordination.k8s.io", "*"),
		rule(readVerbs, "discovery.k8s.io", "*"),
		rule(readVerbs, "events.k8s.io", "*"),
		rule(readVerbs, "metrics.k8s.io", "*"),
		rule(readVerbs, "networking.k8s.io", "*"),
		rule(readVerbs, "node.k8s.io", "*"),
		rule(readVerbs, "policy", "*"),
		rule(readVerbs, "resource.k8s.io", "*"),
		rule(readVerbs, "scheduling.k8s.io", "*"),
		rule(readVerbs, "storage.k8s.io", "*"),
		rule(readVerbs, "apiextensions.k8s.io", "customresourcedefinitions", "customresourcedefinitions/status"),
		rule(readVerbs, "apiregistration.k8s.io", "apiservices", "apiservices/status"),
		selfReviews(),
	}
}

func editRules() []rbacv1.PolicyRule {
	return []rbacv1.PolicyRule{
		rule(writeVerbs, "", "configmaps", "endpoints", "events", "persistentvolumeclaims",
			"pods", "pods/eviction", "pods/ephemeralcontainers", "pods/resize", "podtemplates",
			"replicationcontrollers", "replicationcontrollers/scale", "serviceaccounts", "services"),
		rule(allVerbs, "", "secrets"),
		rule(allVerbs, "", "pods/attach", "pods/exec", "pods/portforward"),
		rule(readVerbs, "", "pods/ephemeralcontainers", "pods/resize"),
		rule(writeVerbs, "apps", "*"),
		rule(writeVerbs, "autoscaling", "*"),
		rule(writeVerbs, "batch", "*"),
		rule(writeVerbs, "coordination.k8s.io", "leases"),
		rule(writeVerbs, "discovery.k8s.io", "endpointslices"),
		rule(writeVerbs, "events.k8s.io", "events"),
		rule(writeVerbs, "networking.k8s.io", "ingresses", "ingresses/status", "networkpolicies"),
		rule(writeVerbs, "policy", "poddisruptionbudgets", "poddisruptionbudgets/status"),
		rule(writeVerbs, "resource.k8s.io", "resourceclaims", "resourceclaimtemplates"),
	}
}

func adminRules() []rbacv1.PolicyRule {
	return []rbacv1.PolicyRule{
		// Every resource of the core group but serviceaccounts/token, which is
		// anybody's identity, and nodes/proxy, which is exec without a record.
		rule(allVerbs, "", "bindings", "componentstatuses", "configmaps", "endpoints", "events", "limitranges",
			"namespaces", "namespaces/finalize", "namespaces/status", "nodes", "nodes/status",
			"persistentvolumeclaims", "persistentvolumeclaims/status", "persistentvolumes", "persistentvolumes/status",
			"pods", "pods/binding", "pods/ephemeralcontainers", "pods/eviction", "pods/log", "pods/resize", "pods/status", "podtemplates",
			"replicationcontrollers", "replicationcontrollers/scale", "replicationcontrollers/status",
			"resourcequotas", "resourcequotas/status", "secrets", "serviceaccounts", "services", "services/status"),
		rule(allVerbs, "", "pods/attach", "pods/exec", "pods/portforward"),
		rule(proxyVerbs, "", "pods/proxy", "services/proxy"),
		rule(allVerbs, "apps", "*"),
		rule(allVerbs, "autoscaling", "*"),
		rule(allVerbs, "batch", "*"),
		rule(allVerbs, "coordination.k8s.io", "*"),
		rule(allVerbs, "discovery.k8s.io", "*"),
		rule(allVerbs, "events.k8s.io", "*"),
		rule(readVerbs, "metrics.k8s.io", "*"),
		rule(allVerbs, "networking.k8s.io", "*"),
		rule(allVerbs, "node.k8s.io", "*"),
		rule(allVerbs, "policy", "*"),
		rule(allVerbs, "resource.k8s.io", "*"),
		rule(allVerbs, "scheduling.k8s.io", "*"),
		rule(allVerbs, "storage.k8s.io", "*"),
		rule(allVerbs, "apiextensions.k8s.io", "*"),
		// Without bind and escalate a writer of RBAC stays under what he holds.
		rule(allVerbs, "rbac.authorization.k8s.io", "roles", "rolebindings", "clusterroles", "clusterrolebindings"),
		// Requests may be made and looked at; approving one makes a credential of
		// any name.
		rule(allVerbs, "certificates.k8s.io", "certificatesigningrequests"),
		// Who writes these reads and changes everybody's requests, ours included,
		// or takes our admission policies away.
		rule(readVerbs, "admissionregistration.k8s.io", "*"),
		rule(readVerbs, "apiregistration.k8s.io", "*"),
		rule(readVerbs, "flowcontrol.apiserver.k8s.io", "*"),
		rule([]string{"create"}, "authentication.k8s.io", "tokenreviews"),
		rule([]string{"create"}, "authorization.k8s.io", "localsubjectaccessreviews", "subjectaccessreviews"),
		selfReviews(),
		rule([]string{"create"}, "authentication.k8s.io", "selfsubjectreviews"),
	}
}

func selfReviews() rbacv1.PolicyRule {
	return rule([]string{"create"}, "authorization.k8s.io", "selfsubjectaccessreviews", "selfsubjectrulesreviews")
}
