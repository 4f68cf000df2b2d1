package adminapi

import (
	"cmp"
	"context"
	"slices"
	"time"

	"connectrpc.com/connect"

	"github.com/sallyport-mesh/sallyport/coordinator/internal/directory"
	apiv1 "github.com/sallyport-mesh/sallyport/pkg/api/sallyport/v1"
)

// CreateGrant gives a role.
func (s *Server) CreateGrant(ctx context.Context, req *connect.Request[apiv1.CreateGrantRequest]) (*connect.Response[apiv1.Grant], error) {
	m := req.Msg
	scope := s.scope(m.Project)
	if m.Cluster != "" {
		scope = s.clusterScope(m.Cluster)
	}
	what := "role " + m.Role + " to " + cmp.Or(prefixed("user ", m.User), prefixed("group ", m.Group)) +
		" on " + cmp.Or(prefixed("cluster ", m.Cluster), prefixed("project ", m.Project))
	c, err := s.begin(ctx, scope, "grant", "create", describe(what, "", m.Reason))
	if err != nil {
		return nil, err
	}
	var expires time.Time
	if m.ExpiresAt != nil {
		expires = m.ExpiresAt.AsTime()
	}
	g, _, err := s.cfg.Directory.CreateGrant(ctx, directory.GrantSpec{
		Role: m.Role, User: m.User, Group: m.Group, Project: m.Project, Cluster: m.Cluster,
		Namespaces: m.Namespaces, NamespaceSelector: m.NamespaceSelector, ExpiresAt: expires, Reason: m.Reason,
	})
	return answer(c, g, err)
}

// ListGrants lists the grants of the projects that the caller may see.
func (s *Server) ListGrants(ctx context.Context, req *connect.Request[apiv1.ListGrantsRequest]) (*connect.Response[apiv1.ListGrantsResponse], error) {
	c, visible, err := s.beginVisible(ctx, "grant", "grants")
	if err != nil {
		return nil, err
	}
	snap := s.snap()
	want, err := grantFilter(snap, req.Msg)
	if err != nil {
		return answer(c, &apiv1.ListGrantsResponse{}, err)
	}
	res := &apiv1.ListGrantsResponse{}
	for _, g := range snap.Grants {
		if visible(projectOf(snap, g)) && want(g) {
			res.Grants = append(res.Grants, grantView(snap, g))
		}
	}
	sortGrants(res.Grants)
	return answer(c, res, nil)
}

func grantView(snap *directory.Snapshot, g *apiv1.Grant) *apiv1.GrantView {
	return &apiv1.GrantView{
		Grant:   g,
		Subject: cmp.Or(snap.Users[g.UserId].GetName(), snap.Groups[g.GroupId].GetName()),
		Target:  cmp.Or(snap.Clusters[g.ClusterId].GetName(), snap.Projects[g.ProjectId].GetName()),
	}
}

func sortGrants(views []*apiv1.GrantView) {
	slices.SortFunc(views, func(a, b *apiv1.GrantView) int {
		return cmp.Or(cmp.Compare(a.Subject, b.Subject), cmp.Compare(a.Target, b.Target), cmp.Compare(a.Grant.Id, b.Grant.Id))
	})
}

// DeleteGrant ends a grant and streams what the agents did.
func (s *Server) DeleteGrant(ctx context.Context, req *connect.Request[apiv1.DeleteGrantRequest], stream *connect.ServerStream[apiv1.Effect]) error {
	scope := everywhere
	snap := s.snap()
	if g := snap.Grants[req.Msg.Id]; g != nil {
		scope = projectOf(snap, g)
	}
	c, err := s.begin(ctx, scope, "grant", "delete", "grant "+req.Msg.Id)
	if err != nil {
		return err
	}
	_, rev, err := s.cfg.Directory.DeleteGrant(ctx, req.Msg.Id)
	return c.effects(rev, err, stream)
}

func grantFilter(snap *directory.Snapshot, m *apiv1.ListGrantsRequest) (func(*apiv1.Grant) bool, error) {
	var userID, projectID, clusterID, clusterProject string
	var groups []string
	if m.User != "" {
		u, err := snap.User(m.User)
		if err != nil {
			return nil, err
		}
		userID, groups = u.Id, snap.GroupsOf(u.Id)
	}
	if m.Project != "" {
		p, err := snap.Project(m.Project)
		if err != nil {
			return nil, err
		}
		projectID = p.Id
	}
	if m.Cluster != "" {
		cl, err := snap.Cluster(m.Cluster)
		if err != nil {
			return nil, err
		}
		clusterID, clusterProject = cl.Id, cl.ProjectId
	}
	return func(g *apiv1.Grant) bool {
		return (userID == "" || g.UserId == userID || slices.Contains(groups, g.GroupId)) &&
			(projectID == "" || projectOf(snap, g) == projectID) &&
			(clusterID == "" || g.ClusterId == clusterID || g.ProjectId == clusterProject)
	}, nil
}

func projectOf(snap *directory.Snapshot, g *apiv1.Grant) string {
	if g.ProjectId != "" {
		return g.ProjectId
	}
	return snap.Clusters[g.ClusterId].GetProjectId()
}

func prefixed(prefix, s string) string {
	if s == "" {
		return ""
	}
	return prefix + s
}
