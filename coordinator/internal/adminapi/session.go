package adminapi

import (
	"cmp"
	"context"
	"slices"
	"time"

	"connectrpc.com/connect"

	"github.com/sallyport-mesh/sallyport/coordinator/internal/directory"
	apiv1 "github.com/sallyport-mesh/sallyport/pkg/api/sallyport/v1"
	"github.com/sallyport-mesh/sallyport/pkg/identity"
)

// ListSessions lists the logins of those whom the caller may see.
func (s *Server) ListSessions(ctx context.Context, req *connect.Request[apiv1.ListSessionsRequest]) (*connect.Response[apiv1.ListSessionsResponse], error) {
	c, visible, err := s.beginVisible(ctx, "session", "sessions")
	if err != nil {
		return nil, err
	}
	snap, userID, deviceID := s.snap(), "", ""
	who := reachOf(snap, time.Now())
	if req.Msg.User != "" {
		u, err := snap.User(req.Msg.User)
		if err != nil || !seen(who.users[u.Id], visible) {
			return answer(c, &apiv1.ListSessionsResponse{}, &directory.NotFoundError{Kind: "user", Ref: req.Msg.User})
		}
		userID = u.Id
	}
	if req.Msg.Device != "" {
		d, err := snap.Device(req.Msg.Device)
		if err != nil || !seen(who.users[d.UserId], visible) {
			return answer(c, &apiv1.ListSessionsResponse{}, &directory.NotFoundError{Kind: "device", Ref: req.Msg.Device})
		}
		deviceID = d.Id
	}
	return answer(c, &apiv1.ListSessionsResponse{Sessions: sessionViews(snap, func(v *apiv1.SessionView) bool {
		return (userID == "" || v.Session.UserId == userID) && (deviceID == "" || v.Session.DeviceId == deviceID) &&
			(v.Running || req.Msg.All) && seen(who.users[v.Session.UserId], visible)
	})}, nil)
}

// GetSession shows one login.
func (s *Server) GetSession(ctx context.Context, req *connect.Request[apiv1.GetSessionRequest]) (*connect.Response[apiv1.SessionView], error) {
	scope := everywhere
	session, missing := s.snap().Session(req.Msg.Id)
	if missing == nil {
		scope = s.userScope(session.UserId, s.mayIn(ctx, "session", "read"))
	}
	c, err := s.begin(ctx, scope, "session", "read", "session "+req.Msg.Id)
	if err != nil {
		return nil, err
	}
	if missing != nil {
		return answer(c, &apiv1.SessionView{}, missing)
	}
	return answer(c, sessionView(s.snap(), session), nil)
}

// EndSession ends one login and streams what the agents did. A session reaches
// every project of its user, so a project's manager ends only those of people
// who are in that project alone; for others there is the suspension in the
// project.
func (s *Server) EndSession(ctx context.Context, req *connect.Request[apiv1.EndSessionRequest], stream *connect.ServerStream[apiv1.Effect]) error {
	scope := everywhere
	if session, err := s.snap().Session(req.Msg.Id); err == nil {
		scope = s.onlyProject(session.UserId)
	}
	c, err := s.begin(ctx, scope, "session", "end", "session "+req.Msg.Id)
	if err != nil {
		return err
	}
	_, rev, err := s.cfg.Directory.RevokeSession(ctx, req.Msg.Id)
	return c.effects(rev, err, stream)
}

func sessionViews(snap *directory.Snapshot, want func(*apiv1.SessionView) bool) []*apiv1.SessionView {
	var out []*apiv1.SessionView
	for _, session := range snap.Sessions {
		if v := sessionView(snap, session); want(v) {
			out = append(out, v)
		}
	}
	slices.SortFunc(out, func(a, b *apiv1.SessionView) int {
		return cmp.Or(cmp.Compare(a.User, b.User), a.Session.CreatedAt.AsTime().Compare(b.Session.CreatedAt.AsTime()), cmp.Compare(a.Session.Id, b.Session.Id))
	})
	return out
}

func sessionView(snap *directory.Snapshot, session *apiv1.Session) *apiv1.SessionView {
	_, err := snap.Authenticate(identity.UserCert{
		UserID: session.UserId, DeviceID: session.DeviceId, SessionID: session.Id, Generation: session.AuthGeneration,
	}, time.Now())
	return &apiv1.SessionView{
		Session: session, User: snap.Users[session.UserId].GetName(), Device: snap.Devices[session.DeviceId].GetName(), Running: err == nil,
	}
}
