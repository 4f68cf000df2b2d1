package adminapi

import (
	"context"

	"connectrpc.com/connect"

	"github.com/sallyport-mesh/sallyport/coordinator/internal/directory"
	apiv1 "github.com/sallyport-mesh/sallyport/pkg/api/sallyport/v1"
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
	return c.end(s.cfg.Search(ctx, m, clusters, stream.Send))
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
