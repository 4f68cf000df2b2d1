// Package manifest renders what a cluster's owner applies to import a cluster.
//
// Applying it is the only moment at which Sallyport gets rights in a cluster,
// and it fixes their upper bound: the ClusterRole sallyport-ceiling, chosen by
// the owner, bound to the agent. Kubernetes lets nobody hand out rights that he
// does not hold (the escalation check), so no coordinator, a stolen one
// included, gets a person above it. The ceiling enumerates its verbs; bind,
// escalate and impersonate, which undo that check, are not among them, nor is
// making tokens, reaching through a kubelet, approving certificates, or writing
// webhooks, admission policies and APIServices. What the agent needs for its own
// work stands in roles apart, so that it is never mistaken for something that
// may be granted.
//
// Four ValidatingAdmissionPolicies close what RBAC cannot say. They bind
// everyone, system:masters included:
//
//   - the agent writes ClusterRoles and bindings only under our names, only to
//     accounts in sallyport-users, and never into an aggregated role;
//   - only the agent makes accounts and tokens in sallyport-users, and nobody
//     makes Secrets or pods there, so no account of ours is made in advance and
//     none is run by a pod;
//   - nobody else writes our roles and bindings, or binds anything to an account
//     of ours (a binding is by name and would outlive the account);
//   - an account of ours writes nothing in our two namespaces, whatever it was
//     granted: a second wall behind the proxy, which refuses them by path.
//
// Taking something of ours away stays free to a cluster's owner: less access is
// never an attack on safety, and uninstalling must work.
package manifest
