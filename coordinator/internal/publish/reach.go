package publish

import (
	"maps"
	"slices"

	apiv1 "github.com/sallyport-mesh/sallyport/pkg/api/sallyport/v1"
)

// ClustersOf lists the clusters whose policy lets a user do anything now, by
// name, and gives a channel that is closed when the answer may have changed.
func (h *Hub) ClustersOf(userID string) ([]*apiv1.ReachableCluster, <-chan struct{}) {
	at := h.cfg.Now()
	s := h.cfg.Directory.Snapshot()
	h.mu.Lock()
	defer h.mu.Unlock()
	online := map[string]bool{}
	for _, a := range h.agents {
		online[a.cluster] = online[a.cluster] || len(a.streams) > 0
	}
	var out []*apiv1.ReachableCluster
	for id, c := range h.clusters {
		if !c.allows(userID, at) {
			continue
		}
		r := &apiv1.ReachableCluster{
			Id: id, Name: c.bundle.GetClusterName(), Online: online[id],
			Project:    s.Projects[s.Clusters[id].GetProjectId()].GetName(),
			ServerName: c.bundle.GetClusterName() + "." + h.cfg.Domain,
		}
		r.Roles, r.Namespace = rolesOf(c.bundle, userID, func(g *apiv1.BundleGrant) bool {
			return g.GetExpiresAt() == nil || at.Before(g.GetExpiresAt().AsTime())
		})
		out = append(out, r)
	}
	slices.SortFunc(out, func(a, b *apiv1.ReachableCluster) int { return compare(a.GetName(), b.GetName()) })
	return out, h.reach
}

// rolesOf lists the roles a user has in a bundle, and the namespace to start in:
// the first one granted, where nothing is granted on the whole cluster.
func rolesOf(b *apiv1.Bundle, userID string, live func(*apiv1.BundleGrant) bool) (roles []string, namespace string) {
	i := slices.IndexFunc(b.GetSubjects(), func(s *apiv1.BundleSubject) bool { return s.GetUserId() == userID })
	if i < 0 {
		return nil, ""
	}
	names, namespaces, whole := map[string]bool{}, []string(nil), false
	for _, g := range b.GetGrants() {
		if (g.GetUserId() != userID && !slices.Contains(b.GetSubjects()[i].GetGroupIds(), g.GetGroupId())) || !live(g) {
			continue
		}
		names[g.GetRole()] = true
		namespaces = append(namespaces, g.GetNamespaces()...)
		whole = whole || len(g.GetNamespaces()) == 0 && g.GetNamespaceSelector() == ""
	}
	if !whole && len(namespaces) > 0 {
		namespace = slices.Min(namespaces)
	}
	return slices.Sorted(maps.Keys(names)), namespace
}
