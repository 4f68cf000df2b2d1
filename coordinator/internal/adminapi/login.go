package adminapi

import (
	"context"

	"connectrpc.com/connect"

	apiv1 "github.com/sallyport-mesh/sallyport/pkg/api/sallyport/v1"
)

// ResetSecondFactor takes a second factor away from somebody who has lost it.
func (s *Server) ResetSecondFactor(ctx context.Context, req *connect.Request[apiv1.ResetSecondFactorRequest]) (*connect.Response[apiv1.ResetSecondFactorResponse], error) {
	c, err := s.begin(ctx, everywhere, "user", "reset-mfa", describe("user "+req.Msg.User, "", req.Msg.Reason))
	if err != nil {
		return nil, err
	}
	user, _, err := s.cfg.Directory.RemoveSecondFactor(ctx, req.Msg.User, true)
	return answer(c, &apiv1.ResetSecondFactorResponse{User: user}, err)
}
