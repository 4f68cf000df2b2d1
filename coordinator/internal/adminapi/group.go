package adminapi

import (
	"context"
	"time"

	"connectrpc.com/connect"

	apiv1 "github.com/sallyport-mesh/sallyport/pkg/api/sallyport/v1"
)

// CreateGroup adds a group.
func (s *Server) CreateGroup(ctx context.Context, req *connect.Request[apiv1.CreateGroupRequest]) (*connect.Response[apiv1.Group], error) {
	c, err := s.begin(ctx, everywhere, "group", "create", "group "+req.Msg.Name)
	if err != nil {
		return nil, err
	}
	g, _, err := s.cfg.Directory.CreateGroup(ctx, req.Msg.Name)
	return answer(c, g, err)
}

// ListGroups lists the groups that the caller may see, by name.
func (s *Server) ListGroups(ctx context.Context, _ *connect.Request[apiv1.ListGroupsRequest]) (*connect.Response[apiv1.ListGroupsResponse], error) {
	c, visible, err := s.beginVisible(ctx, "group", "groups")
	if err != nil {
		return nil, err
	}
	snap := s.snap()
	who := reachOf(snap, time.Now()).groups
	return answer(c, &apiv1.ListGroupsResponse{
		Groups: sorted(snap.Groups, func(g *apiv1.Group) bool { return seen(who[g.Id], visible) }),
	}, nil)
}

// AddMember puts a user into a group.
func (s *Server) AddMember(ctx context.Context, req *connect.Request[apiv1.MemberRequest]) (*connect.Response[apiv1.Group], error) {
	c, err := s.begin(ctx, everywhere, "group", "add-member", "user "+req.Msg.User+" to group "+req.Msg.Group)
	if err != nil {
		return nil, err
	}
	g, _, err := s.cfg.Directory.AddMember(ctx, req.Msg.Group, req.Msg.User)
	return answer(c, g, err)
}

// RemoveMember takes a user out of a group and streams what the agents did.
func (s *Server) RemoveMember(ctx context.Context, req *connect.Request[apiv1.MemberRequest], stream *connect.ServerStream[apiv1.Effect]) error {
	c, err := s.begin(ctx, everywhere, "group", "remove-member", "user "+req.Msg.User+" from group "+req.Msg.Group)
	if err != nil {
		return err
	}
	_, rev, err := s.cfg.Directory.RemoveMember(ctx, req.Msg.Group, req.Msg.User)
	return c.effects(rev, err, stream)
}

// DeleteGroup removes a group with its grants.
func (s *Server) DeleteGroup(ctx context.Context, req *connect.Request[apiv1.DeleteGroupRequest], stream *connect.ServerStream[apiv1.Effect]) error {
	c, err := s.begin(ctx, everywhere, "group", "delete", "group "+req.Msg.Group)
	if err != nil {
		return err
	}
	_, rev, err := s.cfg.Directory.DeleteGroup(ctx, req.Msg.Group)
	return c.effects(rev, err, stream)
}
