package adminapi

import (
	"context"

	"connectrpc.com/connect"

	apiv1 "github.com/sallyport-mesh/sallyport/pkg/api/sallyport/v1"
)

// GetCA shows the authority's certificates and the login URL.
func (s *Server) GetCA(ctx context.Context, _ *connect.Request[apiv1.GetCARequest]) (*connect.Response[apiv1.CAInfo], error) {
	c, err := s.begin(ctx, everywhere, "ca", "read", "certificate authority")
	if err != nil {
		return nil, err
	}
	return answer(c, s.cfg.CA(), nil)
}
