package adminapi

import (
	"maps"
	"slices"
	"time"

	"github.com/sallyport-mesh/sallyport/coordinator/internal/directory"
	apiv1 "github.com/sallyport-mesh/sallyport/pkg/api/sallyport/v1"
)

// reach says in which projects people hold grants, directly or through a group.
// It is what makes somebody a member of a project.
type reach struct {
	users, groups map[string]map[string]bool // id → project ids
}

func reachOf(snap *directory.Snapshot, now time.Time) reach {
	r := reach{users: map[string]map[string]bool{}, groups: map[string]map[string]bool{}}
	add := func(m map[string]map[string]bool, id, project string) {
		if m[id] == nil {
			m[id] = map[string]bool{}
		}
		m[id][project] = true
	}
	for _, g := range snap.Grants {
		project := projectOf(snap, g)
		switch {
		case g.ExpiresAt != nil && !now.Before(g.ExpiresAt.AsTime()):
		case g.UserId != "":
			add(r.users, g.UserId, project)
		default:
			add(r.groups, g.GroupId, project)
			for _, id := range snap.Groups[g.GroupId].GetMemberIds() {
				add(r.users, id, project)
			}
		}
	}
	return r
}

// seen reports whether any of the projects is visible; what belongs to none is
// for those who may see everything.
func seen(projects map[string]bool, visible func(projectID string) bool) bool {
	if visible(everywhere) {
		return true
	}
	for id := range projects {
		if visible(id) {
			return true
		}
	}
	return false
}

// userScope is the domain in which reading a user is decided: a project of
// theirs in which the caller may, or everywhere.
func (s *Server) userScope(userID string, may func(projectID string) bool) string {
	for _, id := range slices.Sorted(maps.Keys(reachOf(s.snap(), time.Now()).users[userID])) {
		if may(id) {
			return id
		}
	}
	return everywhere
}

// onlyProject is the domain in which ending something of a user's is decided
// that holds in all of their projects: the one project, if they have but one and
// administer nothing else. Otherwise a manager could make somebody a member, by a
// grant, to end what is none of the project's.
func (s *Server) onlyProject(userID string) string {
	projects := reachOf(s.snap(), time.Now()).users[userID]
	for _, b := range s.snap().Users[userID].GetAdmin() {
		if b.ProjectId == "" || !projects[b.ProjectId] {
			return everywhere
		}
	}
	if len(projects) == 1 {
		for id := range projects {
			return id
		}
	}
	return everywhere
}

func names[T any, P interface {
	*T
	GetName() string
}](m map[string]*T, ids []string) []string {
	var out []string
	for _, id := range ids {
		if v, ok := m[id]; ok {
			out = append(out, P(v).GetName())
		}
	}
	slices.Sort(out)
	return out
}

// grantViews are the grants that want accepts, as people name things.
func grantViews(snap *directory.Snapshot, want func(*apiv1.Grant) bool) []*apiv1.GrantView {
	var out []*apiv1.GrantView
	for _, g := range snap.Grants {
		if want(g) {
			out = append(out, grantView(snap, g))
		}
	}
	sortGrants(out)
	return out
}
