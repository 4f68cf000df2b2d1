package adminapi

import (
	"cmp"
	"context"
	"slices"
	"time"

	"connectrpc.com/connect"

	"github.com/sallyport-mesh/sallyport/coordinator/internal/caller"
	"github.com/sallyport-mesh/sallyport/coordinator/internal/directory"
	apiv1 "github.com/sallyport-mesh/sallyport/pkg/api/sallyport/v1"
)

// Whoami is for everyone who is somebody: it shows only the caller.
func (s *Server) Whoami(ctx context.Context, _ *connect.Request[apiv1.WhoamiRequest]) (*connect.Response[apiv1.WhoamiResponse], error) {
	from := caller.From(ctx)
	res := &apiv1.WhoamiResponse{Revision: s.snap().Revision, Version: s.cfg.Version}
	switch {
	case from.Local:
		res.Via, res.Admin = local, []*apiv1.AdminBinding{{Role: "administrator"}}
	case from.User != nil:
		res.Via, res.UserId, res.UserName, res.Admin = "user", from.User.Id, from.User.Name, from.User.Admin
	default:
		return nil, unauthenticated(from)
	}
	return connect.NewResponse(res), nil
}

// CreateUser adds a local user.
func (s *Server) CreateUser(ctx context.Context, req *connect.Request[apiv1.CreateUserRequest]) (*connect.Response[apiv1.CreateUserResponse], error) {
	c, err := s.begin(ctx, everywhere, "user", "create", "user "+req.Msg.Name)
	if err != nil {
		return nil, err
	}
	res := &apiv1.CreateUserResponse{}
	res.User, _, err = s.cfg.Directory.CreateUser(ctx, directory.UserSpec{
		Name: req.Msg.Name, DisplayName: req.Msg.DisplayName, Password: req.Msg.Password,
	})
	if err == nil && req.Msg.Password == "" {
		res.WelcomeUrl, err = s.welcome(ctx, res.User.Id)
	}
	return answer(c, res, err)
}

func (s *Server) welcome(ctx context.Context, userID string) (string, error) {
	w, _, err := s.cfg.Directory.CreateWelcome(ctx, userID, 0)
	if err != nil {
		return "", err
	}
	return s.cfg.WelcomeURL(w.Secret), nil
}

// ListUsers lists the users whom the caller may see, by name.
func (s *Server) ListUsers(ctx context.Context, _ *connect.Request[apiv1.ListUsersRequest]) (*connect.Response[apiv1.ListUsersResponse], error) {
	c, visible, err := s.beginVisible(ctx, "user", "users")
	if err != nil {
		return nil, err
	}
	snap := s.snap()
	who := reachOf(snap, time.Now()).users
	return answer(c, &apiv1.ListUsersResponse{
		Users: sorted(snap.Users, func(u *apiv1.User) bool { return seen(who[u.Id], visible) }),
	}, nil)
}

// DeleteUser removes a user and what hangs on them.
func (s *Server) DeleteUser(ctx context.Context, req *connect.Request[apiv1.DeleteUserRequest], stream *connect.ServerStream[apiv1.Effect]) error {
	c, err := s.begin(ctx, everywhere, "user", "delete", "user "+req.Msg.User)
	if err != nil {
		return err
	}
	_, rev, err := s.cfg.Directory.DeleteUser(ctx, req.Msg.User)
	return c.effects(rev, err, stream)
}

// SetPassword sets a password or makes a link where the user does. Either way
// what was logged in before is logged out. The old password works until the link
// is used.
func (s *Server) SetPassword(ctx context.Context, req *connect.Request[apiv1.SetPasswordRequest]) (*connect.Response[apiv1.SetPasswordResponse], error) {
	c, err := s.begin(ctx, everywhere, "user", "password", "user "+req.Msg.User)
	if err != nil {
		return nil, err
	}
	res := &apiv1.SetPasswordResponse{}
	if req.Msg.Password != "" {
		_, _, err = s.cfg.Directory.SetPassword(ctx, req.Msg.User, req.Msg.Password)
		return answer(c, res, err)
	}
	user, _, err := s.cfg.Directory.EndSessions(ctx, req.Msg.User)
	if err == nil {
		res.WelcomeUrl, err = s.welcome(ctx, user.Id)
	}
	return answer(c, res, err)
}

// SuspendUser takes access away, everywhere or in one project, and streams what
// the agents did.
func (s *Server) SuspendUser(ctx context.Context, req *connect.Request[apiv1.SuspendUserRequest], stream *connect.ServerStream[apiv1.Effect]) error {
	project, obj := s.scope(req.Msg.Project), "access"
	if req.Msg.Project == "" {
		obj = "user"
	}
	c, err := s.begin(ctx, project, obj, "suspend", describe("user "+req.Msg.User, req.Msg.Project, req.Msg.Reason))
	if err != nil {
		return err
	}
	_, rev, err := s.cfg.Directory.SuspendUser(ctx, req.Msg.User, req.Msg.Project)
	return c.effects(rev, err, stream)
}

// ResumeUser ends a suspension.
func (s *Server) ResumeUser(ctx context.Context, req *connect.Request[apiv1.ResumeUserRequest]) (*connect.Response[apiv1.ResumeUserResponse], error) {
	project, obj := s.scope(req.Msg.Project), "access"
	if req.Msg.Project == "" {
		obj = "user"
	}
	c, err := s.begin(ctx, project, obj, "resume", describe("user "+req.Msg.User, req.Msg.Project, ""))
	if err != nil {
		return nil, err
	}
	_, rev, err := s.cfg.Directory.ResumeUser(ctx, req.Msg.User, req.Msg.Project)
	return answer(c, &apiv1.ResumeUserResponse{Revision: rev}, err)
}

// BindAdmin gives an admin role.
func (s *Server) BindAdmin(ctx context.Context, req *connect.Request[apiv1.BindAdminRequest]) (*connect.Response[apiv1.BindAdminResponse], error) {
	return s.bind(ctx, req.Msg, "bind-admin", s.cfg.Directory.BindAdmin)
}

// UnbindAdmin takes it away.
func (s *Server) UnbindAdmin(ctx context.Context, req *connect.Request[apiv1.BindAdminRequest]) (*connect.Response[apiv1.BindAdminResponse], error) {
	return s.bind(ctx, req.Msg, "unbind-admin", s.cfg.Directory.UnbindAdmin)
}

func (s *Server) bind(ctx context.Context, msg *apiv1.BindAdminRequest, action string,
	change func(ctx context.Context, user, role, project string) (*apiv1.User, uint64, error),
) (*connect.Response[apiv1.BindAdminResponse], error) {
	c, err := s.begin(ctx, everywhere, "user", action, describe("user "+msg.User+" role "+msg.Role, msg.Project, ""))
	if err != nil {
		return nil, err
	}
	user, _, err := change(ctx, msg.User, msg.Role, msg.Project)
	return answer(c, &apiv1.BindAdminResponse{User: user}, err)
}

// scope is the domain that a call about a project is decided in. A project that
// does not exist is one in which only those who may do it anywhere may do it, so
// that nobody else learns whether it exists.
func (s *Server) scope(ref string) string {
	if ref == "" {
		return everywhere
	}
	if p, err := s.snap().Project(ref); err == nil {
		return p.Id
	}
	return everywhere
}

// clusterScope is scope for what belongs to a cluster's project.
func (s *Server) clusterScope(ref string) string {
	if c, err := s.snap().Cluster(ref); err == nil {
		return c.ProjectId
	}
	return everywhere
}

func describe(what, project, reason string) string {
	if project != "" {
		what += " in project " + project
	}
	if reason != "" {
		what += ": " + reason
	}
	return what
}

// sorted lists the objects that keep accepts (nil: all) by name.
func sorted[T any, P interface {
	*T
	GetName() string
}](m map[string]*T, keep func(*T) bool) []*T {
	out := make([]*T, 0, len(m))
	for _, v := range m {
		if keep == nil || keep(v) {
			out = append(out, v)
		}
	}
	slices.SortFunc(out, func(a, b *T) int { return cmp.Compare(P(a).GetName(), P(b).GetName()) })
	return out
}
