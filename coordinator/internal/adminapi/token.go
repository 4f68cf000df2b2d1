package adminapi

import (
	"cmp"
	"context"
	"slices"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/sallyport-mesh/sallyport/coordinator/internal/directory"
	apiv1 "github.com/sallyport-mesh/sallyport/pkg/api/sallyport/v1"
)

// ListJoinTokens lists the join tokens of the clusters that the caller may see,
// without what would let anybody join.
func (s *Server) ListJoinTokens(ctx context.Context, req *connect.Request[apiv1.ListJoinTokensRequest]) (*connect.Response[apiv1.ListJoinTokensResponse], error) {
	c, visible, err := s.beginVisible(ctx, "cluster", "join tokens")
	if err != nil {
		return nil, err
	}
	clusterID := ""
	if req.Msg.Cluster != "" {
		cl, err := s.snap().Cluster(req.Msg.Cluster)
		if err != nil || !visible(cl.ProjectId) {
			return answer(c, &apiv1.ListJoinTokensResponse{}, &directory.NotFoundError{Kind: "cluster", Ref: req.Msg.Cluster})
		}
		clusterID = cl.Id
	}
	tokens, err := s.joinTokens(ctx, func(cl *apiv1.Cluster) bool {
		return visible(cl.GetProjectId()) && (clusterID == "" || cl.GetId() == clusterID)
	})
	return answer(c, &apiv1.ListJoinTokensResponse{Tokens: tokens}, err)
}

// DeleteJoinToken takes back a token that nobody has used.
func (s *Server) DeleteJoinToken(ctx context.Context, req *connect.Request[apiv1.DeleteJoinTokenRequest]) (*connect.Response[apiv1.JoinTokenView], error) {
	scope := everywhere
	all, err := s.cfg.Directory.JoinTokens(ctx)
	if i := slices.IndexFunc(all, func(t directory.JoinTokenInfo) bool { return t.ID == req.Msg.Id }); err == nil && i >= 0 {
		scope = s.clusterScope(all[i].ClusterID)
	}
	c, err := s.begin(ctx, scope, "cluster", "token", "remove join token "+req.Msg.Id)
	if err != nil {
		return nil, err
	}
	t, _, err := s.cfg.Directory.DeleteJoinToken(ctx, req.Msg.Id)
	return answer(c, s.tokenView(t), err)
}

func (s *Server) joinTokens(ctx context.Context, want func(*apiv1.Cluster) bool) ([]*apiv1.JoinTokenView, error) {
	all, err := s.cfg.Directory.JoinTokens(ctx)
	if err != nil {
		return nil, err
	}
	snap := s.snap()
	var out []*apiv1.JoinTokenView
	for _, t := range all {
		if want(snap.Clusters[t.ClusterID]) {
			out = append(out, s.tokenView(t))
		}
	}
	slices.SortFunc(out, func(a, b *apiv1.JoinTokenView) int {
		return cmp.Or(cmp.Compare(a.Cluster, b.Cluster), a.CreatedAt.AsTime().Compare(b.CreatedAt.AsTime()), cmp.Compare(a.Id, b.Id))
	})
	return out, nil
}

func (s *Server) tokenView(t directory.JoinTokenInfo) *apiv1.JoinTokenView {
	return &apiv1.JoinTokenView{
		Id: t.ID, Cluster: s.snap().Clusters[t.ClusterID].GetName(), AgentId: t.AgentID,
		CreatedAt: moment(t.CreatedAt), ExpiresAt: moment(t.Expires), UsedAt: moment(t.UsedAt),
	}
}

func moment(t time.Time) *timestamppb.Timestamp {
	if t.IsZero() {
		return nil
	}
	return timestamppb.New(t)
}
