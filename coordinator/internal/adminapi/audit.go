package adminapi

import (
	"context"
	"errors"
	"time"

	"connectrpc.com/connect"

	"github.com/sallyport-mesh/sallyport/coordinator/internal/caller"
	"github.com/sallyport-mesh/sallyport/coordinator/internal/directory"
	"github.com/sallyport-mesh/sallyport/coordinator/internal/status"
	apiv1 "github.com/sallyport-mesh/sallyport/pkg/api/sallyport/v1"
	"github.com/sallyport-mesh/sallyport/pkg/identity"
)

// SearchAudit streams records, newest first, of the projects whose audit the
// caller may read. The coordinator's own log belongs to no project and takes a
// role that holds everywhere.
func (s *Server) SearchAudit(ctx context.Context, req *connect.Request[apiv1.SearchAuditRequest], stream *connect.ServerStream[apiv1.AuditRecord]) error {
	m := req.Msg
	var (
		c       *call
		visible = func(string) bool { return true }
		err     error
	)
	switch {
	case m.Log == "coordinator" || m.Log == "all":
		c, err = s.begin(ctx, everywhere, "audit", "read", "audit of the coordinator")
	case m.Cluster != "":
		c, err = s.begin(ctx, s.clusterScope(m.Cluster), "audit", "read", "audit of cluster "+m.Cluster)
	case m.Project != "":
		c, err = s.begin(ctx, s.scope(m.Project), "audit", "read", "audit of project "+m.Project)
	default:
		c, visible, err = s.beginVisible(ctx, "audit", "audit")
	}
	if err != nil {
		return err
	}
	clusters, err := s.searched(m, visible)
	if err != nil {
		return c.end(err)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	if m.Follow {
		go s.whileAllowed(ctx, c, cancel)
	}
	err = s.cfg.Search(ctx, m, clusters, stream.Send)
	if cause := context.Cause(ctx); cause != nil {
		err = cause // the reason rather than that it was cancelled
	}
	return c.end(err)
}

// GetAuditRecord finds one request by its id.
func (s *Server) GetAuditRecord(ctx context.Context, req *connect.Request[apiv1.GetAuditRecordRequest]) (*connect.Response[apiv1.AuditRecord], error) {
	rec, projectID, findErr := s.cfg.Find(ctx, req.Msg.RequestId)
	scope := everywhere
	if _, there := s.snap().Projects[projectID]; there {
		scope = projectID
	}
	c, err := s.begin(ctx, scope, "audit", "read", "audit of request "+req.Msg.RequestId)
	if err != nil {
		return nil, err
	}
	if findErr == nil && rec == nil {
		findErr = &directory.NotFoundError{Kind: "request", Ref: req.Msg.RequestId}
	}
	return answer(c, rec, findErr)
}

// whileAllowed ends a stream when the caller's session does, or when a change of
// the directory takes the right to it away: what was decided at its beginning
// must go on to hold.
func (s *Server) whileAllowed(ctx context.Context, c *call, cancel context.CancelCauseFunc) {
	from := caller.From(ctx)
	if from.Local {
		return
	}
	over := time.NewTimer(time.Until(from.Session.GetExpiresAt().AsTime()))
	defer over.Stop()
	changed := s.cfg.Directory.Subscribe(ctx)
	for {
		select {
		case <-ctx.Done():
			return
		case <-over.C:
			cancel(connect.NewError(connect.CodeUnauthenticated, errors.New("this session is over: log in again")))
			return
		case snap, ok := <-changed:
			if !ok {
				return
			}
			if err := s.still(snap, from, c); err != nil {
				cancel(err)
				return
			}
		}
	}
}

// still says why a caller may no longer do what was allowed to them, or nil.
func (s *Server) still(snap *directory.Snapshot, from *caller.Caller, c *call) error {
	_, err := snap.Authenticate(identity.UserCert{
		UserID: from.User.Id, DeviceID: from.Device.GetId(), SessionID: from.Session.GetId(), Generation: from.Session.GetAuthGeneration(),
	}, time.Now())
	if err != nil {
		return status.Unauthenticated(&caller.Caller{Refused: err}, "")
	}
	if allowed, err := s.authz.allowed(from.User.Id, c.project, c.obj, c.action); err != nil || !allowed {
		return errors.Join(refused(from, c.obj, c.action), err)
	}
	return nil
}

// searched lists the ids of the clusters to search, nil for all there ever were,
// and puts ids in place of the names in the request where records hold ids. A
// cluster that was removed and added again under its old name has another id:
// its predecessor's records may belong to another project.
func (s *Server) searched(m *apiv1.SearchAuditRequest, visible func(string) bool) ([]string, error) {
	snap := s.snap()
	if m.User != "" {
		// A user who is gone is still found, by name.
		if u, err := snap.User(m.User); err == nil {
			m.User = u.Id
		}
	}
	if m.Device != "" {
		d, err := snap.Device(m.Device)
		if err != nil {
			return nil, err
		}
		m.Device = d.Id
	}
	if m.Cluster != "" {
		cl, err := snap.Cluster(m.Cluster)
		if err != nil {
			return nil, err
		}
		return []string{cl.Id}, nil
	}
	projectID := ""
	if m.Project != "" {
		p, err := snap.Project(m.Project)
		if err != nil {
			return nil, err
		}
		projectID = p.Id
	} else if visible(everywhere) {
		return nil, nil
	}
	ids := []string{}
	for _, cl := range sorted(snap.Clusters, func(cl *apiv1.Cluster) bool {
		return visible(cl.ProjectId) && (projectID == "" || cl.ProjectId == projectID)
	}) {
		ids = append(ids, cl.Id)
	}
	if len(ids) == 0 {
		return nil, &directory.InvalidError{Field: "project", Reason: "no cluster whose audit you may read"}
	}
	return ids, nil
}
