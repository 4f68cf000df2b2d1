package publish

import (
	"crypto/sha256"
	"maps"
	"reflect"
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/sallyport-mesh/sallyport/coordinator/internal/directory"
	apiv1 "github.com/sallyport-mesh/sallyport/pkg/api/sallyport/v1"
	"github.com/sallyport-mesh/sallyport/pkg/policy"
)

// Issuer is what a bundle says about who issues.
type Issuer struct {
	TrustDomain string
	// UserCAs are the certificates, DER, of the authorities that may have issued
	// a user's certificate.
	UserCAs [][]byte
}

// BundleFor is the policy of one cluster at one revision of the directory: what
// concerns it and nothing else. It is the bundle but for revision and time of
// issue, which say when this content came to be. For a cluster that is being
// removed, or gone, it lists nobody.
func BundleFor(s *directory.Snapshot, clusterID string, by Issuer) *apiv1.Bundle {
	return newView(s).bundle(clusterID, by)
}

// view is a snapshot, indexed for computing many bundles.
type view struct {
	*directory.Snapshot
	grants   map[string][]*apiv1.Grant // by cluster
	devices  map[string][]string       // revoked ones, by user, sorted
	sessions map[string][]string       // revoked ones of the user's generation, by user, sorted
}

func newView(s *directory.Snapshot) *view {
	v := &view{Snapshot: s, grants: map[string][]*apiv1.Grant{}, devices: map[string][]string{}, sessions: map[string][]string{}}
	byProject := map[string][]string{}
	for id, c := range s.Clusters {
		byProject[c.GetProjectId()] = append(byProject[c.GetProjectId()], id)
	}
	for _, g := range s.Grants {
		if g.GetClusterId() != "" {
			v.grants[g.GetClusterId()] = append(v.grants[g.GetClusterId()], g)
			continue
		}
		for _, id := range byProject[g.GetProjectId()] {
			v.grants[id] = append(v.grants[id], g)
		}
	}
	for id, d := range s.Devices {
		if d.GetRevoked() {
			v.devices[d.GetUserId()] = append(v.devices[d.GetUserId()], id)
		}
	}
	for id, x := range s.Sessions {
		// What an earlier generation issued is refused by the generation.
		if x.GetRevoked() && x.GetAuthGeneration() >= s.Users[x.GetUserId()].GetAuthGeneration() {
			v.sessions[x.GetUserId()] = append(v.sessions[x.GetUserId()], id)
		}
	}
	for _, m := range []map[string][]string{v.devices, v.sessions} {
		for _, ids := range m {
			slices.Sort(ids)
		}
	}
	return v
}

// sameBundles reports whether two views give the same bundles for sure. Most
// changes are logins, which concern no bundle.
func (v *view) sameBundles(old *view) bool {
	return same(v.Users, old.Users) && same(v.Groups, old.Groups) && same(v.Projects, old.Projects) &&
		same(v.Clusters, old.Clusters) && same(v.Roles, old.Roles) && same(v.Snapshot.Grants, old.Snapshot.Grants) &&
		maps.EqualFunc(v.devices, old.devices, slices.Equal) && maps.EqualFunc(v.sessions, old.sessions, slices.Equal)
}

// same reports whether two maps are one: snapshots share the maps of the kinds
// in which they do not differ.
func same[T any](a, b map[string]*T) bool {
	return reflect.ValueOf(a).UnsafePointer() == reflect.ValueOf(b).UnsafePointer()
}

func (v *view) bundle(clusterID string, by Issuer) *apiv1.Bundle {
	cluster := v.Clusters[clusterID]
	b := &apiv1.Bundle{
		ClusterId: clusterID, ClusterName: cluster.GetName(),
		TrustDomain: by.TrustDomain, UserCa: by.UserCAs, Budgets: cluster.GetBudgets(),
	}
	subjects, roles, groups := map[string]*apiv1.BundleSubject{}, map[string]bool{}, map[string]bool{}
	barred := v.Projects[cluster.GetProjectId()].GetSuspendedUserIds()
	add := func(userID, groupID string) bool {
		u := v.Users[userID]
		if u == nil || u.GetSuspended() || slices.Contains(barred, userID) {
			return false
		}
		s := subjects[userID]
		if s == nil {
			s = &apiv1.BundleSubject{
				UserId: u.GetId(), Name: u.GetName(), AuthGeneration: u.GetAuthGeneration(),
				RevokedDeviceIds:  v.devices[userID],
				RevokedSessionIds: v.sessions[userID],
			}
			subjects[userID] = s
		}
		if groupID != "" && !slices.Contains(s.GroupIds, groupID) {
			s.GroupIds = append(s.GroupIds, groupID)
		}
		return true
	}
	if cluster != nil && !cluster.GetRetired() {
		for _, g := range v.grants[clusterID] {
			concerns := false
			if g.GetGroupId() == "" {
				concerns = add(g.GetUserId(), "")
			}
			for _, member := range v.Groups[g.GetGroupId()].GetMemberIds() {
				concerns = add(member, g.GetGroupId()) || concerns
			}
			if !concerns || v.Roles[g.GetRole()] == nil {
				continue
			}
			roles[g.GetRole()] = true
			if g.GetGroupId() != "" {
				groups[g.GetGroupId()] = true
			}
			b.Grants = append(b.Grants, &apiv1.BundleGrant{
				Id: g.GetId(), UserId: g.GetUserId(), GroupId: g.GetGroupId(), Role: g.GetRole(),
				Namespaces: slices.Sorted(slices.Values(g.GetNamespaces())), ExpiresAt: g.GetExpiresAt(),
				NamespaceSelector: g.GetNamespaceSelector(),
			})
		}
	}
	slices.SortFunc(b.Grants, func(x, y *apiv1.BundleGrant) int { return compare(x.GetId(), y.GetId()) })
	for _, id := range slices.Sorted(maps.Keys(subjects)) {
		slices.Sort(subjects[id].GroupIds)
		b.Subjects = append(b.Subjects, subjects[id])
	}
	for _, id := range slices.Sorted(maps.Keys(groups)) {
		b.Groups = append(b.Groups, &apiv1.BundleGroup{Id: id, Name: v.Groups[id].GetName()})
	}
	for _, name := range slices.Sorted(maps.Keys(roles)) {
		b.Roles = append(b.Roles, v.Roles[name])
	}
	b.Requires = policy.Requires(b)
	return b
}

func compare(a, b string) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

// digest tells one content from another.
func digest(b *apiv1.Bundle) ([sha256.Size]byte, error) {
	data, err := encode(b)
	return sha256.Sum256(data), err
}

func encode(m proto.Message) ([]byte, error) {
	return proto.MarshalOptions{Deterministic: true}.Marshal(m)
}
