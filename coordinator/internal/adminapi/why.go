package adminapi

import (
	"context"
	"strings"

	"connectrpc.com/connect"

	apiv1 "github.com/sallyport-mesh/sallyport/pkg/api/sallyport/v1"
	"github.com/sallyport-mesh/sallyport/pkg/policy"
)

// Why answers with the decision that the cluster's agents would come to, by the
// code that they decide with and the policy that they are sent.
func (s *Server) Why(ctx context.Context, req *connect.Request[apiv1.WhyRequest]) (*connect.Response[apiv1.WhyResponse], error) {
	m := req.Msg
	c, err := s.begin(ctx, s.clusterScope(m.Cluster), "grant", "read", "why "+m.User+" "+m.Verb+" "+m.Resource+" in cluster "+m.Cluster)
	if err != nil {
		return nil, err
	}
	res, err := s.why(m)
	return answer(c, res, err)
}

func (s *Server) why(m *apiv1.WhyRequest) (*apiv1.WhyResponse, error) {
	snap := s.snap()
	cluster, err := snap.Cluster(m.Cluster)
	if err != nil {
		return nil, err
	}
	user, err := snap.User(m.User)
	if err != nil {
		return nil, err
	}
	var namespaces policy.Namespaces // not known here, but for what the caller says
	if m.Namespace != "" && len(m.NamespaceLabels) > 0 {
		namespaces = policy.Namespaces{m.Namespace: m.NamespaceLabels}
	}
	held, err := policy.Compile(s.cfg.Bundle(snap, cluster.Id), policy.WithNamespaces(namespaces))
	if err != nil {
		return nil, err
	}
	resource, subresource, _ := strings.Cut(m.Resource, "/")
	d := held.Decide(policy.Attributes{
		UserID: user.Id, Generation: user.AuthGeneration, ResourceRequest: true,
		Verb: m.Verb, APIGroup: m.ApiGroup, Resource: resource, Subresource: subresource, Namespace: m.Namespace, Name: m.Name,
	})
	if d.Next != "" {
		d.Reason += "; " + d.Next
	}
	return &apiv1.WhyResponse{Allowed: d.Allowed, Reason: d.Reason, Rule: d.Rule, Grant: d.Grant, Revision: snap.Revision}, nil
}
