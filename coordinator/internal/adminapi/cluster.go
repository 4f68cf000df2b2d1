package adminapi

import (
	"context"
	"slices"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/sallyport-mesh/sallyport/coordinator/internal/caller"
	"github.com/sallyport-mesh/sallyport/coordinator/internal/directory"
	"github.com/sallyport-mesh/sallyport/coordinator/internal/status"
	apiv1 "github.com/sallyport-mesh/sallyport/pkg/api/sallyport/v1"
)

// CreateProject adds a project.
func (s *Server) CreateProject(ctx context.Context, req *connect.Request[apiv1.CreateProjectRequest]) (*connect.Response[apiv1.Project], error) {
	c, err := s.begin(ctx, everywhere, "project", "create", "project "+req.Msg.Name)
	if err != nil {
		return nil, err
	}
	p, _, err := s.cfg.Directory.CreateProject(ctx, req.Msg.Name)
	return answer(c, p, err)
}

// ListProjects lists the projects that the caller may see.
func (s *Server) ListProjects(ctx context.Context, _ *connect.Request[apiv1.ListProjectsRequest]) (*connect.Response[apiv1.ListProjectsResponse], error) {
	c, visible, err := s.beginVisible(ctx, "project", "projects")
	if err != nil {
		return nil, err
	}
	return answer(c, &apiv1.ListProjectsResponse{
		Projects: sorted(s.snap().Projects, func(p *apiv1.Project) bool { return visible(p.Id) }),
	}, nil)
}

// DeleteProject removes a project that has no clusters.
func (s *Server) DeleteProject(ctx context.Context, req *connect.Request[apiv1.DeleteProjectRequest]) (*connect.Response[apiv1.DeleteProjectResponse], error) {
	c, err := s.begin(ctx, everywhere, "project", "delete", "project "+req.Msg.Project)
	if err != nil {
		return nil, err
	}
	_, _, err = s.cfg.Directory.DeleteProject(ctx, req.Msg.Project)
	return answer(c, &apiv1.DeleteProjectResponse{}, err)
}

// CreateCluster registers a cluster and makes the token that its first agent
// joins with.
func (s *Server) CreateCluster(ctx context.Context, req *connect.Request[apiv1.CreateClusterRequest]) (*connect.Response[apiv1.CreateClusterResponse], error) {
	m := req.Msg
	c, err := s.begin(ctx, s.scope(m.Project), "cluster", "create", describe("cluster "+m.Name, m.Project, ""))
	if err != nil {
		return nil, err
	}
	cluster, token, _, err := s.cfg.Directory.CreateCluster(ctx, directory.ClusterSpec{
		Name: m.Name, Project: m.Project, Ceiling: m.Ceiling, TokenTTL: time.Duration(m.TokenTtlSeconds) * time.Second,
	})
	if err != nil {
		return answer(c, &apiv1.CreateClusterResponse{}, err)
	}
	return answer(c, &apiv1.CreateClusterResponse{
		Cluster: cluster, JoinToken: s.cfg.JoinToken(token.Secret), TokenExpiresAt: timestamppb.New(token.ExpiresAt),
	}, nil)
}

// ListClusters lists the clusters of the projects that the caller may see, with
// how their agents are.
func (s *Server) ListClusters(ctx context.Context, req *connect.Request[apiv1.ListClustersRequest]) (*connect.Response[apiv1.ListClustersResponse], error) {
	c, visible, err := s.beginVisible(ctx, "cluster", "clusters")
	if err != nil {
		return nil, err
	}
	snap, only := s.snap(), ""
	if req.Msg.Project != "" {
		p, err := snap.Project(req.Msg.Project)
		if err != nil || !visible(p.Id) {
			return answer(c, &apiv1.ListClustersResponse{}, &directory.NotFoundError{Kind: "project", Ref: req.Msg.Project})
		}
		only = p.Id
	}
	res := &apiv1.ListClustersResponse{}
	for _, cl := range sorted(snap.Clusters, func(cl *apiv1.Cluster) bool {
		return visible(cl.ProjectId) && (only == "" || cl.ProjectId == only)
	}) {
		res.Clusters = append(res.Clusters, s.clusterStatus(snap, cl))
	}
	return answer(c, res, nil)
}

func (s *Server) clusterStatus(snap *directory.Snapshot, cl *apiv1.Cluster) *apiv1.ClusterStatus {
	out := &apiv1.ClusterStatus{Cluster: cl, Project: snap.Projects[cl.ProjectId].GetName(), BundleRevision: s.cfg.BundleRevision(cl.Id)}
	for _, a := range snap.AgentsOf(cl.Id) {
		as := s.cfg.Agent(a.Id)
		as.Agent = a
		_, as.OverlayAddresses = s.cfg.Addresses(a.Id)
		out.Agents = append(out.Agents, as)
	}
	return out
}

// CreateJoinToken makes a token for another replica.
func (s *Server) CreateJoinToken(ctx context.Context, req *connect.Request[apiv1.CreateJoinTokenRequest]) (*connect.Response[apiv1.CreateJoinTokenResponse], error) {
	c, err := s.begin(ctx, s.clusterScope(req.Msg.Cluster), "cluster", "token", "cluster "+req.Msg.Cluster)
	if err != nil {
		return nil, err
	}
	token, _, err := s.cfg.Directory.CreateJoinToken(ctx, req.Msg.Cluster, time.Duration(req.Msg.TtlSeconds)*time.Second)
	if err != nil {
		return answer(c, &apiv1.CreateJoinTokenResponse{}, err)
	}
	return answer(c, &apiv1.CreateJoinTokenResponse{JoinToken: s.cfg.JoinToken(token.Secret), ExpiresAt: timestamppb.New(token.ExpiresAt)}, nil)
}

// DeleteCluster removes a cluster with its agents and grants. First everybody's
// access ends and the agents take down what they made; the cluster itself goes
// once they have said so. Until then it is listed as being removed, so that one
// that was away hears of it and brings in the rest of its log.
func (s *Server) DeleteCluster(ctx context.Context, req *connect.Request[apiv1.DeleteClusterRequest], stream *connect.ServerStream[apiv1.Effect]) error {
	c, err := s.begin(ctx, s.clusterScope(req.Msg.Cluster), "cluster", "delete", "cluster "+req.Msg.Cluster)
	if err != nil {
		return err
	}
	cluster, rev, err := s.cfg.Directory.RetireCluster(ctx, req.Msg.Cluster)
	if err := c.effects(rev, err, stream); err != nil {
		return err
	}
	if !req.Msg.Force {
		unclean, err := s.cfg.Unclean(ctx, cluster.Id)
		if err != nil || len(unclean) > 0 {
			return status.Of(err)
		}
	}
	_, _, err = s.cfg.Directory.DeleteCluster(ctx, cluster.Id)
	return status.Of(err)
}

// RemoveAgent takes a replica out of service for good.
func (s *Server) RemoveAgent(ctx context.Context, req *connect.Request[apiv1.RemoveAgentRequest]) (*connect.Response[apiv1.RemoveAgentResponse], error) {
	scope := everywhere
	if a, err := s.snap().Agent(req.Msg.Agent); err == nil {
		scope = s.clusterScope(a.ClusterId)
	}
	c, err := s.begin(ctx, scope, "cluster", "remove-agent", "agent "+req.Msg.Agent)
	if err != nil {
		return nil, err
	}
	_, rev, err := s.cfg.Directory.RemoveAgent(ctx, req.Msg.Agent)
	if err == nil {
		err = s.cfg.Forget(ctx, req.Msg.Agent)
	}
	return answer(c, &apiv1.RemoveAgentResponse{Revision: rev}, err)
}

// mayIn says in which projects the caller may do act to obj.
func (s *Server) mayIn(ctx context.Context, obj, act string) func(projectID string) bool {
	var in []string
	if from := caller.From(ctx); from.User != nil {
		var err error
		if in, err = s.authz.projects(from.User.Id, obj, act); err != nil {
			in = nil
		}
	} else if from.Local {
		in = []string{everywhere}
	}
	return func(id string) bool { return len(in) > 0 && (in[0] == everywhere || slices.Contains(in, id)) }
}

// beginVisible begins a list whose entries belong to projects: it is allowed to
// whoever may read some of them, and says which.
func (s *Server) beginVisible(ctx context.Context, obj, object string) (*call, func(projectID string) bool, error) {
	project := everywhere
	var in []string
	if from := caller.From(ctx); from.User != nil {
		var err error
		if in, err = s.authz.projects(from.User.Id, obj, "read"); err != nil {
			return nil, nil, status.Of(err)
		}
		if len(in) > 0 {
			project = in[0]
		}
	} else if from.Local {
		in = []string{everywhere}
	}
	c, err := s.begin(ctx, project, obj, "read", object)
	if err != nil {
		return nil, nil, err
	}
	return c, func(id string) bool { return in[0] == everywhere || slices.Contains(in, id) }, nil
}
