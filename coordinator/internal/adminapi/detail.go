package adminapi

import (
	"context"
	"slices"
	"time"

	"connectrpc.com/connect"

	"github.com/sallyport-mesh/sallyport/coordinator/internal/directory"
	apiv1 "github.com/sallyport-mesh/sallyport/pkg/api/sallyport/v1"
)

// GetUser shows a user with what hangs on them.
func (s *Server) GetUser(ctx context.Context, req *connect.Request[apiv1.GetUserRequest]) (*connect.Response[apiv1.UserDetail], error) {
	u, missing := s.snap().User(req.Msg.User)
	scope := everywhere
	if missing == nil {
		scope = s.userScope(u.Id, s.mayIn(ctx, "user", "read"))
	}
	c, err := s.begin(ctx, scope, "user", "read", "user "+req.Msg.User)
	if err != nil {
		return nil, err
	}
	if missing != nil {
		return answer(c, &apiv1.UserDetail{}, missing)
	}
	snap, sees := s.snap(), s.mayIn(ctx, "grant", "read")
	groups := snap.GroupsOf(u.Id)
	res := &apiv1.UserDetail{
		User: u, Groups: names(snap.Groups, groups),
		Grants: grantViews(snap, func(g *apiv1.Grant) bool {
			return (g.UserId == u.Id || slices.Contains(groups, g.GroupId)) && sees(projectOf(snap, g))
		}),
		Sessions: sessionViews(snap, func(v *apiv1.SessionView) bool { return v.Running && v.Session.UserId == u.Id }),
	}
	for _, d := range snap.DevicesOf(u.Id) {
		res.Devices = append(res.Devices, s.deviceView(snap, d))
	}
	for _, p := range sorted(snap.Projects, func(p *apiv1.Project) bool {
		return slices.Contains(p.SuspendedUserIds, u.Id) && sees(p.Id)
	}) {
		res.SuspendedIn = append(res.SuspendedIn, p.Name)
	}
	return answer(c, res, nil)
}

// GetGroup shows a group with its members and grants.
func (s *Server) GetGroup(ctx context.Context, req *connect.Request[apiv1.GetGroupRequest]) (*connect.Response[apiv1.GroupDetail], error) {
	g, missing := s.snap().Group(req.Msg.Group)
	scope := everywhere
	if missing == nil {
		may := s.mayIn(ctx, "group", "read")
		for id := range reachOf(s.snap(), time.Now()).groups[g.Id] {
			if may(id) {
				scope = id
			}
		}
	}
	c, err := s.begin(ctx, scope, "group", "read", "group "+req.Msg.Group)
	if err != nil {
		return nil, err
	}
	if missing != nil {
		return answer(c, &apiv1.GroupDetail{}, missing)
	}
	snap, sees := s.snap(), s.mayIn(ctx, "grant", "read")
	return answer(c, &apiv1.GroupDetail{
		Group: g, Members: names(snap.Users, g.MemberIds),
		Grants: grantViews(snap, func(x *apiv1.Grant) bool { return x.GroupId == g.Id && sees(projectOf(snap, x)) }),
	}, nil)
}

// GetProject shows a project with its clusters, grants and people.
func (s *Server) GetProject(ctx context.Context, req *connect.Request[apiv1.GetProjectRequest]) (*connect.Response[apiv1.ProjectDetail], error) {
	c, err := s.begin(ctx, s.scope(req.Msg.Project), "project", "read", "project "+req.Msg.Project)
	if err != nil {
		return nil, err
	}
	snap := s.snap()
	p, err := snap.Project(req.Msg.Project)
	if err != nil {
		return answer(c, &apiv1.ProjectDetail{}, err)
	}
	res := &apiv1.ProjectDetail{Project: p, Suspended: names(snap.Users, p.SuspendedUserIds)}
	for _, cl := range snap.ClustersOf(p.Id) {
		res.Clusters = append(res.Clusters, cl.Name)
	}
	if s.mayIn(ctx, "grant", "read")(p.Id) {
		res.Grants = grantViews(snap, func(g *apiv1.Grant) bool { return projectOf(snap, g) == p.Id })
		who := reachOf(snap, time.Now()).users
		for _, u := range sorted(snap.Users, nil) {
			if who[u.Id][p.Id] {
				res.Members = append(res.Members, u.Name)
			}
			if slices.ContainsFunc(u.Admin, func(b *apiv1.AdminBinding) bool { return b.ProjectId == p.Id }) {
				res.Managers = append(res.Managers, u.Name)
			}
		}
	}
	return answer(c, res, nil)
}

// GetCluster shows a cluster with its agents, grants and join tokens.
func (s *Server) GetCluster(ctx context.Context, req *connect.Request[apiv1.GetClusterRequest]) (*connect.Response[apiv1.ClusterDetail], error) {
	c, err := s.begin(ctx, s.clusterScope(req.Msg.Cluster), "cluster", "read", "cluster "+req.Msg.Cluster)
	if err != nil {
		return nil, err
	}
	snap := s.snap()
	cl, err := snap.Cluster(req.Msg.Cluster)
	if err != nil {
		return answer(c, &apiv1.ClusterDetail{}, err)
	}
	res := &apiv1.ClusterDetail{Status: s.clusterStatus(snap, cl)}
	if s.mayIn(ctx, "grant", "read")(cl.ProjectId) {
		res.Grants = grantViews(snap, func(g *apiv1.Grant) bool { return g.ClusterId == cl.Id || g.ProjectId == cl.ProjectId })
	}
	res.Tokens, err = s.joinTokens(ctx, func(x *apiv1.Cluster) bool { return x.GetId() == cl.Id })
	return answer(c, res, err)
}

// GetGrant shows one grant.
func (s *Server) GetGrant(ctx context.Context, req *connect.Request[apiv1.GetGrantRequest]) (*connect.Response[apiv1.GrantView], error) {
	scope := everywhere
	g, missing := s.snap().Grant(req.Msg.Id)
	if missing == nil {
		scope = projectOf(s.snap(), g)
	}
	c, err := s.begin(ctx, scope, "grant", "read", "grant "+req.Msg.Id)
	if err != nil {
		return nil, err
	}
	if missing != nil {
		return answer(c, &apiv1.GrantView{}, missing)
	}
	return answer(c, grantView(s.snap(), g), nil)
}

// GetDevice shows a device with its logins.
func (s *Server) GetDevice(ctx context.Context, req *connect.Request[apiv1.GetDeviceRequest]) (*connect.Response[apiv1.DeviceDetail], error) {
	scope := everywhere
	d, missing := s.snap().Device(req.Msg.Device)
	if missing == nil {
		scope = s.userScope(d.UserId, s.mayIn(ctx, "device", "read"))
	}
	c, err := s.begin(ctx, scope, "device", "read", "device "+req.Msg.Device)
	if err != nil {
		return nil, err
	}
	if missing != nil {
		return answer(c, &apiv1.DeviceDetail{}, missing)
	}
	snap := s.snap()
	return answer(c, &apiv1.DeviceDetail{
		Device:   s.deviceView(snap, d),
		Sessions: sessionViews(snap, func(v *apiv1.SessionView) bool { return v.Session.DeviceId == d.Id }),
	}, nil)
}

func (s *Server) deviceView(snap *directory.Snapshot, d *apiv1.Device) *apiv1.DeviceView {
	v := &apiv1.DeviceView{Device: d, User: snap.Users[d.UserId].GetName()}
	v.Online, v.OverlayAddresses = s.cfg.Addresses(d.Id)
	for _, session := range snap.SessionsOf(d.UserId) {
		if session.DeviceId == d.Id && !session.Revoked {
			v.SessionExpiresAt = session.ExpiresAt
		}
	}
	return v
}
