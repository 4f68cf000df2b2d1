package adminapi

import (
	"context"

	"connectrpc.com/connect"

	"github.com/sallyport-mesh/sallyport/coordinator/internal/directory"
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

// LinkIdentity lets a user log in as a subject of a provider.
func (s *Server) LinkIdentity(ctx context.Context, req *connect.Request[apiv1.LinkIdentityRequest]) (*connect.Response[apiv1.LinkIdentityResponse], error) {
	m := req.Msg
	c, err := s.begin(ctx, everywhere, "user", "link", describe("user "+m.User+" to subject "+m.Subject+" of "+m.Provider, "", ""))
	if err != nil {
		return nil, err
	}
	issuer, known := s.cfg.Issuers[m.Provider]
	if !known {
		return answer(c, &apiv1.LinkIdentityResponse{}, &directory.NotFoundError{Kind: "provider", Ref: m.Provider})
	}
	user, _, err := s.cfg.Directory.LinkIdentity(ctx, m.User, &apiv1.Identity{Provider: m.Provider, Issuer: issuer, Subject: m.Subject})
	return answer(c, &apiv1.LinkIdentityResponse{User: user}, err)
}

// UnlinkIdentity undoes LinkIdentity.
func (s *Server) UnlinkIdentity(ctx context.Context, req *connect.Request[apiv1.UnlinkIdentityRequest]) (*connect.Response[apiv1.LinkIdentityResponse], error) {
	m := req.Msg
	c, err := s.begin(ctx, everywhere, "user", "unlink", describe("user "+m.User+" from "+m.Provider, "", ""))
	if err != nil {
		return nil, err
	}
	user, _, err := s.cfg.Directory.UnlinkIdentity(ctx, m.User, m.Provider)
	return answer(c, &apiv1.LinkIdentityResponse{User: user}, err)
}
