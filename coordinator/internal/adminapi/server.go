package adminapi

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"connectrpc.com/connect"

	"github.com/sallyport-mesh/sallyport/coordinator/internal/caller"
	"github.com/sallyport-mesh/sallyport/coordinator/internal/directory"
	"github.com/sallyport-mesh/sallyport/coordinator/internal/status"
	apiv1 "github.com/sallyport-mesh/sallyport/pkg/api/sallyport/v1"
	"github.com/sallyport-mesh/sallyport/pkg/api/sallyport/v1/apiv1connect"
	"github.com/sallyport-mesh/sallyport/pkg/audit"
)

// Config says what the service works on.
type Config struct {
	Directory *directory.Directory
	// Effects streams what the agents concerned do about a narrowing change, and
	// ends when each has confirmed or is named as not reached.
	Effects func(ctx context.Context, revision uint64, send func(*apiv1.Effect) error) error
	// Unclean lists a cluster's agents that have not confirmed its newest policy in
	// full.
	Unclean func(ctx context.Context, clusterID string) ([]string, error)
	// Agent says how an agent is; Addresses where a member of the overlay is.
	Agent     func(agentID string) *apiv1.AgentStatus
	Addresses func(memberID string) (online bool, addrs []string)
	// Forget frees what the overlay keeps of a member that is gone for good.
	Forget func(ctx context.Context, memberID string) error
	// BundleRevision is the newest bundle of a cluster.
	BundleRevision func(clusterID string) uint64
	// Bundle is the policy of a cluster at a revision of the directory.
	Bundle func(snap *directory.Snapshot, clusterID string) *apiv1.Bundle
	// Search answers an audit search within the given clusters (ids), nil for
	// all of them.
	Search func(ctx context.Context, req *apiv1.SearchAuditRequest, clusters []string, send func(*apiv1.AuditRecord) error) error
	// Find looks a request up by its audit id: the record and the project that its
	// cluster was in, "" for the coordinator's own; nil if there is none.
	Find func(ctx context.Context, auditID string) (rec *apiv1.AuditRecord, projectID string, err error)
	// CA is what everybody may know of the certificate authority.
	CA func() *apiv1.CAInfo
	// Record puts an act of an administrator on record, durably.
	Record func(ctx context.Context, e *audit.Event) error
	// JoinToken makes the text of a join token out of its secret; WelcomeURL the
	// link out of its one.
	JoinToken  func(secret string) string
	WelcomeURL func(secret string) string
	// Issuers are the upstream providers, by name.
	Issuers map[string]string
	Version string
	Log     *slog.Logger
}

// Server serves AdminService.
type Server struct {
	cfg   Config
	authz *authorizer
}

var _ apiv1connect.AdminServiceHandler = (*Server)(nil)

// New makes the service.
func New(cfg Config) *Server {
	return &Server{cfg: cfg, authz: &authorizer{snapshot: cfg.Directory.Snapshot}}
}

func (s *Server) snap() *directory.Snapshot { return s.cfg.Directory.Snapshot() }

// call is an admin call that has been allowed and put on record.
type call struct {
	s     *Server
	event *audit.Event
	ctx   context.Context
	// What was decided, for streams to decide again.
	project, obj, action string
}

// begin decides and records. Project is an id, or everywhere.
func (s *Server) begin(ctx context.Context, project, obj, action, object string) (*call, error) {
	// 1. Who is it?
	from := caller.From(ctx)
	subject := local
	if !from.Local {
		if from.User == nil {
			return nil, s.nobody(ctx, from, "admin."+obj+"."+action, object)
		}
		if why := s.overFor(from); why != nil {
			from = &caller.Caller{Serial: from.Serial, Addr: from.Addr, Refused: why}
			return nil, s.nobody(ctx, from, "admin."+obj+"."+action, object)
		}
		subject = from.User.Id
	}
	// 2. May they?
	allowed, err := s.authz.allowed(subject, project, obj, action)
	if err != nil {
		return nil, status.Of(fmt.Errorf("deciding: %w", err))
	}
	e := from.Event("admin."+obj+"."+action, object, time.Now())
	e.Stage = audit.StageReceived
	if !allowed {
		e.Stage, e.Ext.Decision, e.Ext.Reason = audit.StageComplete, audit.Deny, "no admin role allows this"
	}
	// 3. On record, or not at all.
	if err := s.cfg.Record(ctx, e); err != nil {
		return nil, connect.NewError(connect.CodeUnavailable, fmt.Errorf("not done, since it could not be put on record: %w", err))
	}
	if !allowed {
		return nil, refused(from, obj, action)
	}
	return &call{s: s, event: e, ctx: ctx, project: project, obj: obj, action: action}, nil
}

// overFor says why a caller who was believed when the request came in is not any
// more: a request can take longer than a suspension.
func (s *Server) overFor(from *caller.Caller) error {
	u := s.snap().Users[from.User.Id]
	switch {
	case u == nil, u.Suspended:
		return directory.ErrSuspended
	case u.AuthGeneration != from.User.AuthGeneration, from.Session != nil && s.snap().Sessions[from.Session.Id].GetRevoked():
		return &directory.RefusedError{Reason: "this session was ended", Hint: "log in again: sallyport login"}
	}
	return nil
}

// nobody refuses a caller who is no user. One who came with a certificate that
// is not believed (any more) is put on record; one with none could be anybody.
func (s *Server) nobody(ctx context.Context, from *caller.Caller, kind, object string) error {
	if from.Serial != "" {
		e := from.Event(kind, object, time.Now())
		e.Ext.Decision = audit.Deny
		if e.Ext.Reason = "this call takes a user's certificate"; from.Refused != nil {
			e.Ext.Reason = from.Refused.Error()
		}
		if err := s.cfg.Record(ctx, e); err != nil {
			s.cfg.Log.Error("a refused admin call is not on record", "auditID", e.AuditID, "err", err)
		}
	}
	return unauthenticated(from)
}

// end records how the call went and turns the error into one for the wire.
func (c *call) end(err error) error {
	out := status.Of(err)
	e := *c.event
	e.Stage, e.StageTimestamp = audit.StageComplete, audit.Now()
	e.ResponseStatus = &audit.Status{Reason: "ok"}
	if out != nil {
		e.ResponseStatus = &audit.Status{Reason: connect.CodeOf(out).String(), Message: err.Error()}
	}
	if err := c.s.cfg.Record(context.WithoutCancel(c.ctx), &e); err != nil {
		c.s.cfg.Log.Error("outcome of an admin call is not on record", "auditID", e.AuditID, "err", err)
	}
	return out
}

// answer ends a unary call.
func answer[T any](c *call, msg *T, err error) (*connect.Response[T], error) {
	if err := c.end(err); err != nil {
		return nil, err
	}
	return connect.NewResponse(msg), nil
}

// effects ends a call that narrowed: first that it is committed, then what each
// agent did.
func (c *call) effects(revision uint64, err error, stream *connect.ServerStream[apiv1.Effect]) error {
	if err := c.end(err); err != nil {
		return err
	}
	return status.Of(c.s.cfg.Effects(c.ctx, revision, stream.Send))
}
