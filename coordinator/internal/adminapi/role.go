package adminapi

import (
	"context"

	"connectrpc.com/connect"

	apiv1 "github.com/sallyport-mesh/sallyport/pkg/api/sallyport/v1"
)

// ListRoles lists roles by name.
func (s *Server) ListRoles(ctx context.Context, _ *connect.Request[apiv1.ListRolesRequest]) (*connect.Response[apiv1.ListRolesResponse], error) {
	c, _, err := s.beginVisible(ctx, "role", "roles")
	if err != nil {
		return nil, err
	}
	return answer(c, &apiv1.ListRolesResponse{Roles: sorted(s.snap().Roles, nil)}, nil)
}

// CreateRole adds a role of one's own. Roles hold in every project, so only who
// administers everything makes them.
func (s *Server) CreateRole(ctx context.Context, req *connect.Request[apiv1.CreateRoleRequest]) (*connect.Response[apiv1.Role], error) {
	c, err := s.begin(ctx, everywhere, "role", "create", "role "+req.Msg.Role.GetName())
	if err != nil {
		return nil, err
	}
	r, _, err := s.cfg.Directory.CreateRole(ctx, req.Msg.Role)
	return answer(c, r, err)
}

// ChangeRole changes what a role gives, and streams what the agents did.
func (s *Server) ChangeRole(ctx context.Context, req *connect.Request[apiv1.ChangeRoleRequest], stream *connect.ServerStream[apiv1.Effect]) error {
	c, err := s.begin(ctx, everywhere, "role", "change", "role "+req.Msg.Role.GetName())
	if err != nil {
		return err
	}
	_, rev, err := s.cfg.Directory.ChangeRole(ctx, req.Msg.Role)
	return c.effects(rev, err, stream)
}

// DeleteRole removes a role, with the grants that give it if so asked, and
// streams what the agents did.
func (s *Server) DeleteRole(ctx context.Context, req *connect.Request[apiv1.DeleteRoleRequest], stream *connect.ServerStream[apiv1.Effect]) error {
	what := "role " + req.Msg.Name
	if req.Msg.WithGrants {
		what += " with its grants"
	}
	c, err := s.begin(ctx, everywhere, "role", "delete", what)
	if err != nil {
		return err
	}
	_, rev, err := s.cfg.Directory.DeleteRole(ctx, req.Msg.Name, req.Msg.WithGrants)
	return c.effects(rev, err, stream)
}
