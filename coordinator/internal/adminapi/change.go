package adminapi

import (
	"context"

	"connectrpc.com/connect"

	"github.com/sallyport-mesh/sallyport/coordinator/internal/directory"
	apiv1 "github.com/sallyport-mesh/sallyport/pkg/api/sallyport/v1"
)

// UpdateUser changes how a user is called.
func (s *Server) UpdateUser(ctx context.Context, req *connect.Request[apiv1.UpdateUserRequest]) (*connect.Response[apiv1.User], error) {
	m, what := req.Msg, "user "+req.Msg.User
	if m.Name != nil {
		what += " renamed to " + *m.Name
	}
	c, err := s.begin(ctx, everywhere, "user", "change", what)
	if err != nil {
		return nil, err
	}
	u, _, err := s.cfg.Directory.UpdateUser(ctx, m.User, directory.UserChange{Name: m.Name, DisplayName: m.DisplayName})
	return answer(c, u, err)
}

// RenameGroup gives a group another name.
func (s *Server) RenameGroup(ctx context.Context, req *connect.Request[apiv1.RenameGroupRequest]) (*connect.Response[apiv1.Group], error) {
	c, err := s.begin(ctx, everywhere, "group", "change", "group "+req.Msg.Group+" renamed to "+req.Msg.Name)
	if err != nil {
		return nil, err
	}
	g, _, err := s.cfg.Directory.RenameGroup(ctx, req.Msg.Group, req.Msg.Name)
	return answer(c, g, err)
}

// RenameProject gives a project another name.
func (s *Server) RenameProject(ctx context.Context, req *connect.Request[apiv1.RenameProjectRequest]) (*connect.Response[apiv1.Project], error) {
	c, err := s.begin(ctx, everywhere, "project", "change", "project "+req.Msg.Project+" renamed to "+req.Msg.Name)
	if err != nil {
		return nil, err
	}
	p, _, err := s.cfg.Directory.RenameProject(ctx, req.Msg.Project, req.Msg.Name)
	return answer(c, p, err)
}

// SetBudgets changes for how long a cluster's agents decide alone. It narrows
// what an agent that is cut off still does, so it waits for the agents.
func (s *Server) SetBudgets(ctx context.Context, req *connect.Request[apiv1.SetBudgetsRequest], stream *connect.ServerStream[apiv1.Effect]) error {
	c, err := s.begin(ctx, s.clusterScope(req.Msg.Cluster), "cluster", "change", "budgets of cluster "+req.Msg.Cluster)
	if err != nil {
		return err
	}
	_, rev, err := s.cfg.Directory.SetBudgets(ctx, req.Msg.Cluster, req.Msg.Budgets)
	return c.effects(rev, err, stream)
}
