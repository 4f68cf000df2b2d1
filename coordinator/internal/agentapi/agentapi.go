// Package agentapi serves AgentService: the agents' uplink. Who calls is what
// the certificate says; nothing in a message can name another agent.
package agentapi

import (
	"context"

	"connectrpc.com/connect"

	"github.com/sallyport-mesh/sallyport/coordinator/internal/caller"
	"github.com/sallyport-mesh/sallyport/coordinator/internal/status"
	apiv1 "github.com/sallyport-mesh/sallyport/pkg/api/sallyport/v1"
	"github.com/sallyport-mesh/sallyport/pkg/api/sallyport/v1/apiv1connect"
)

// Config says what the service works on.
type Config struct {
	// Watch sends bundles and heartbeats to an agent until ctx ends.
	Watch func(ctx context.Context, agentID string, req *apiv1.AgentWatchRequest, send func(*apiv1.AgentDirective) error) error
	// Confirm notes how far an agent has put a bundle into effect.
	Confirm func(agentID string, req *apiv1.ConfirmRequest) error
	// Append takes in audit records; its errors are statuses already.
	Append func(ctx context.Context, agent *apiv1.Agent, cluster *apiv1.Cluster, req *apiv1.AppendRequest) (*apiv1.AppendResponse, error)
}

// Server serves AgentService.
type Server struct{ cfg Config }

var _ apiv1connect.AgentServiceHandler = (*Server)(nil)

// New makes the service.
func New(cfg Config) *Server { return &Server{cfg} }

func agentOf(ctx context.Context) (*caller.Caller, error) {
	from := caller.From(ctx)
	if from.Agent == nil {
		return nil, status.Unauthenticated(from, "an agent's certificate")
	}
	return from, nil
}

// Watch streams policy to an agent.
func (s *Server) Watch(ctx context.Context, req *connect.Request[apiv1.AgentWatchRequest], stream *connect.ServerStream[apiv1.AgentDirective]) error {
	from, err := agentOf(ctx)
	if err != nil {
		return err
	}
	return status.Of(s.cfg.Watch(ctx, from.Agent.Id, req.Msg, stream.Send))
}

// Confirm notes what an agent did with a bundle.
func (s *Server) Confirm(ctx context.Context, req *connect.Request[apiv1.ConfirmRequest]) (*connect.Response[apiv1.ConfirmResponse], error) {
	from, err := agentOf(ctx)
	if err != nil {
		return nil, err
	}
	if err := s.cfg.Confirm(from.Agent.Id, req.Msg); err != nil {
		return nil, status.Of(err)
	}
	return connect.NewResponse(&apiv1.ConfirmResponse{}), nil
}

// Append takes in a batch of an agent's audit log.
func (s *Server) Append(ctx context.Context, req *connect.Request[apiv1.AppendRequest]) (*connect.Response[apiv1.AppendResponse], error) {
	from, err := agentOf(ctx)
	if err != nil {
		return nil, err
	}
	res, err := s.cfg.Append(ctx, from.Agent, from.Cluster, req.Msg)
	if err != nil {
		return nil, status.Of(err)
	}
	return connect.NewResponse(res), nil
}
