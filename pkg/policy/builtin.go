package policy

import (
	"slices"

	apiv1 "github.com/sallyport-mesh/sallyport/pkg/api/sallyport/v1"
)

// The roles that are always there. Three mirror Kubernetes 1.36's roles of the
// same names, without the ways from them to other rights: no impersonation, no
// tokens, no proxying, no RBAC writes.
const (
	ClusterAdmin = "cluster-admin"
	Admin        = "admin"
	Edit         = "edit"
	View         = "view"
)

// Builtin returns the built-in roles, anew for each caller.
func Builtin() []*apiv1.Role {
	return []*apiv1.Role{
		{
			Name: ClusterAdmin, Builtin: true,
			Description: "Everything that a wildcard reaches.",
			Rules: []*apiv1.Rule{
				on([]string{"*"}, []string{"*"}, "*"),
				{Verbs: []string{"*"}, NonResourceUrls: []string{"*"}},
			},
		},
		{
			Name: Admin, Builtin: true,
			Description: "Edit, and namespaces, quotas, network and storage of the cluster.",
			Rules:       slices.Concat(viewRules(), editRules(), adminRules()),
		},
		{
			Name: Edit, Builtin: true,
			Description: "Work with workloads, their configuration and their Secrets; exec and port-forward.",
			Rules:       slices.Concat(viewRules(), editRules()),
		},
		{
			Name: View, Builtin: true,
			Description: "Read workloads, configuration and logs. No Secrets, no exec.",
			Rules:       viewRules(),
		},
	}
}

var (
	readVerbs  = []string{"get", "list", "watch"}
	writeVerbs = []string{"create", "update", "patch", "delete", "deletecollection"}
	allVerbs   = slices.Concat(readVerbs, writeVerbs)
)

func on(verbs, groups []string, resources ...string) *apiv1.Rule {
	return &apiv1.Rule{Verbs: slices.Clone(verbs), ApiGroups: groups, Resources: resources}
}

func viewRules() []*apiv1.Rule {
	return []*apiv1.Rule{
		on(readVerbs, []string{""}, "bindings", "configmaps", "endpoints", "limitranges", "namespaces", "namespaces/status",
			"persistentvolumeclaims", "persistentvolumeclaims/status", "pods", "pods/log", "pods/status",
			"replicationcontrollers", "replicationcontrollers/scale", "replicationcontrollers/status",
			"resourcequotas", "resourcequotas/status", "serviceaccounts", "services", "services/status"),
		on(readVerbs, []string{"", "events.k8s.io"}, "events"),
		on(readVerbs, []string{"discovery.k8s.io"}, "endpointslices"),
		on(readVerbs, []string{"apps"}, "controllerrevisions", "daemonsets", "daemonsets/status",
			"deployments", "deployments/scale", "deployments/status", "replicasets", "replicasets/scale", "replicasets/status",
			"statefulsets", "statefulsets/scale", "statefulsets/status"),
		on(readVerbs, []string{"autoscaling"}, "horizontalpodautoscalers", "horizontalpodautoscalers/status"),
		on(readVerbs, []string{"batch"}, "cronjobs", "cronjobs/status", "jobs", "jobs/status"),
		on(readVerbs, []string{"policy"}, "poddisruptionbudgets", "poddisruptionbudgets/status"),
		on(readVerbs, []string{"networking.k8s.io"}, "ingresses", "ingresses/status", "networkpolicies"),
		on(readVerbs, []string{"resource.k8s.io"}, "resourceclaims", "resourceclaims/status", "resourceclaimtemplates"),
		on(readVerbs, []string{"metrics.k8s.io"}, "pods"),
	}
}

func editRules() []*apiv1.Rule {
	return []*apiv1.Rule{
		on(allVerbs, []string{""}, "pods/attach", "pods/exec", "pods/portforward", "secrets"),
		on(writeVerbs, []string{""}, "configmaps", "persistentvolumeclaims", "pods",
			"replicationcontrollers", "replicationcontrollers/scale", "serviceaccounts", "services"),
		on([]string{"create"}, []string{""}, "pods/eviction"),
		on(writeVerbs, []string{"", "events.k8s.io"}, "events"),
		on(writeVerbs, []string{"apps"}, "daemonsets", "deployments", "deployments/rollback", "deployments/scale",
			"replicasets", "replicasets/scale", "statefulsets", "statefulsets/scale"),
		on(writeVerbs, []string{"autoscaling"}, "horizontalpodautoscalers"),
		on(writeVerbs, []string{"batch"}, "cronjobs", "jobs"),
		on(writeVerbs, []string{"policy"}, "poddisruptionbudgets"),
		on(writeVerbs, []string{"networking.k8s.io"}, "ingresses", "networkpolicies"),
		on(allVerbs, []string{"coordination.k8s.io"}, "leases"),
		on(writeVerbs, []string{"resource.k8s.io"}, "resourceclaims", "resourceclaimtemplates"),
	}
}

func adminRules() []*apiv1.Rule {
	return []*apiv1.Rule{
		on(writeVerbs, []string{""}, "limitranges", "namespaces", "resourcequotas"),
		on([]string{"get", "update", "patch"}, []string{""}, "pods/ephemeralcontainers", "pods/resize"),
		on(readVerbs, []string{"", "metrics.k8s.io"}, "nodes"),
		on([]string{"update", "patch"}, []string{""}, "nodes"), // cordon, labels, taints
		on(allVerbs, []string{""}, "persistentvolumes"),
		on(allVerbs, []string{"storage.k8s.io"}, "storageclasses"),
		on(readVerbs, []string{"storage.k8s.io"}, "csidrivers", "csinodes", "csistoragecapacities", "volumeattachments"),
		on(allVerbs, []string{"networking.k8s.io"}, "ingressclasses"),
		on(allVerbs, []string{"scheduling.k8s.io"}, "priorityclasses"),
		on(readVerbs, []string{"node.k8s.io"}, "runtimeclasses"),
		on(readVerbs, []string{"rbac.authorization.k8s.io"}, "clusterrolebindings", "clusterroles", "rolebindings", "roles"),
		on(allVerbs, []string{"apiextensions.k8s.io"}, "customresourcedefinitions"),
		on(readVerbs, []string{"apiregistration.k8s.io"}, "apiservices"),
		on(readVerbs, []string{"admissionregistration.k8s.io"}, "mutatingwebhookconfigurations", "validatingadmissionpolicies",
			"validatingadmissionpolicybindings", "validatingwebhookconfigurations"),
		on(readVerbs, []string{"certificates.k8s.io"}, "certificatesigningrequests"),
		on([]string{"create"}, []string{"authorization.k8s.io"}, "localsubjectaccessreviews"),
		{Verbs: []string{"get"}, NonResourceUrls: []string{"/metrics", "/livez/*", "/readyz/*", "/healthz/*"}},
	}
}
