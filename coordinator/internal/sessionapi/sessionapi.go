// Package sessionapi serves SessionService: what a logged-in device may ask.
package sessionapi

import (
	"context"
	"time"

	"connectrpc.com/connect"

	"github.com/sallyport-mesh/sallyport/coordinator/internal/caller"
	"github.com/sallyport-mesh/sallyport/coordinator/internal/directory"
	"github.com/sallyport-mesh/sallyport/coordinator/internal/status"
	apiv1 "github.com/sallyport-mesh/sallyport/pkg/api/sallyport/v1"
	"github.com/sallyport-mesh/sallyport/pkg/api/sallyport/v1/apiv1connect"
	"github.com/sallyport-mesh/sallyport/pkg/audit"
	"github.com/sallyport-mesh/sallyport/pkg/identity"
)

// Config says what the service works on.
type Config struct {
	TrustDomain string
	Directory   *directory.Directory
	// Clusters lists what is open to a user, and gives a channel that is closed
	// when the answer may have changed.
	Clusters func(userID string) ([]*apiv1.ReachableCluster, <-chan struct{})
	Record   func(ctx context.Context, e *audit.Event) error
	Now      func() time.Time
}

// Server serves SessionService.
type Server struct{ cfg Config }

var _ apiv1connect.SessionServiceHandler = (*Server)(nil)

// New makes the service.
func New(cfg Config) *Server {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	return &Server{cfg}
}

// Watch sends what is open to the caller until the session ends.
func (s *Server) Watch(ctx context.Context, _ *connect.Request[apiv1.SessionWatchRequest], stream *connect.ServerStream[apiv1.SessionState]) error {
	from := caller.From(ctx)
	if from.Session == nil {
		return status.Unauthenticated(from, "a user's certificate")
	}
	ctx, cancel := context.WithDeadline(ctx, from.Session.ExpiresAt.AsTime())
	defer cancel()
	id := identity.UserCert{
		TrustDomain: s.cfg.TrustDomain, UserID: from.User.Id, DeviceID: from.Device.Id,
		SessionID: from.Session.Id, Generation: from.Session.AuthGeneration,
	}
	changed := s.cfg.Directory.Subscribe(ctx)
	for {
		// 1. Is there still a session?
		snap := s.cfg.Directory.Snapshot()
		user, err := snap.Authenticate(id, s.cfg.Now())
		if err != nil {
			return status.Unauthenticated(&caller.Caller{Refused: err}, "")
		}
		// 2. What is open to it now?
		clusters, moved := s.cfg.Clusters(user.Id)
		if err := stream.Send(&apiv1.SessionState{
			Revision: snap.Revision, UserId: user.Id, UserName: user.Name,
			SessionId: from.Session.Id, ExpiresAt: from.Session.ExpiresAt, Clusters: clusters,
		}); err != nil {
			return err
		}
		// 3. Wait for anything that could change either.
		if err := wait(ctx, changed, moved); err != nil {
			if s.cfg.Now().Before(from.Session.ExpiresAt.AsTime()) {
				return status.Of(err)
			}
		}
	}
}

func wait(ctx context.Context, changed <-chan *directory.Snapshot, moved <-chan struct{}) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case _, ok := <-changed:
		if !ok {
			<-ctx.Done()
			return ctx.Err()
		}
	case <-moved:
	}
	return nil
}

// Logout ends the caller's session everywhere.
func (s *Server) Logout(ctx context.Context, _ *connect.Request[apiv1.LogoutRequest]) (*connect.Response[apiv1.LogoutResponse], error) {
	from := caller.From(ctx)
	if from.Session == nil {
		return nil, status.Unauthenticated(from, "a user's certificate")
	}
	if _, _, err := s.cfg.Directory.RevokeSession(ctx, from.Session.Id); err != nil {
		return nil, status.Of(err)
	}
	err := s.cfg.Record(context.WithoutCancel(ctx), from.Event("logout", "session "+from.Session.Id, s.cfg.Now()))
	return connect.NewResponse(&apiv1.LogoutResponse{}), status.Of(err)
}
