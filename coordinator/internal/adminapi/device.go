package adminapi

import (
	"cmp"
	"context"
	"slices"

	"connectrpc.com/connect"

	apiv1 "github.com/sallyport-mesh/sallyport/pkg/api/sallyport/v1"
)

// ListDevices lists devices, a user's or all.
func (s *Server) ListDevices(ctx context.Context, req *connect.Request[apiv1.ListDevicesRequest]) (*connect.Response[apiv1.ListDevicesResponse], error) {
	c, err := s.begin(ctx, everywhere, "device", "read", "devices")
	if err != nil {
		return nil, err
	}
	snap, userID := s.snap(), ""
	if req.Msg.User != "" {
		u, err := snap.User(req.Msg.User)
		if err != nil {
			return answer(c, &apiv1.ListDevicesResponse{}, err)
		}
		userID = u.Id
	}
	res := &apiv1.ListDevicesResponse{}
	for _, d := range snap.Devices {
		if userID != "" && d.UserId != userID {
			continue
		}
		v := &apiv1.DeviceView{Device: d, User: snap.Users[d.UserId].GetName()}
		v.Online, v.OverlayAddresses = s.cfg.Addresses(d.Id)
		for _, session := range snap.SessionsOf(d.UserId) {
			if session.DeviceId == d.Id && !session.Revoked {
				v.SessionExpiresAt = session.ExpiresAt
			}
		}
		res.Devices = append(res.Devices, v)
	}
	slices.SortFunc(res.Devices, func(a, b *apiv1.DeviceView) int {
		return cmp.Or(cmp.Compare(a.User, b.User), cmp.Compare(a.Device.Id, b.Device.Id))
	})
	return answer(c, res, nil)
}

// RevokeDevice refuses a device for good and streams what the agents did.
func (s *Server) RevokeDevice(ctx context.Context, req *connect.Request[apiv1.RevokeDeviceRequest], stream *connect.ServerStream[apiv1.Effect]) error {
	c, err := s.begin(ctx, everywhere, "device", "revoke", "device "+req.Msg.Device)
	if err != nil {
		return err
	}
	_, rev, err := s.cfg.Directory.RevokeDevice(ctx, req.Msg.Device)
	return c.effects(rev, err, stream)
}
