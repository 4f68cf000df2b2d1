package adminapi

import (
	"cmp"
	"context"
	"slices"
	"time"

	"connectrpc.com/connect"

	"github.com/sallyport-mesh/sallyport/coordinator/internal/directory"
	apiv1 "github.com/sallyport-mesh/sallyport/pkg/api/sallyport/v1"
)

// ListDevices lists the devices of those whom the caller may see.
func (s *Server) ListDevices(ctx context.Context, req *connect.Request[apiv1.ListDevicesRequest]) (*connect.Response[apiv1.ListDevicesResponse], error) {
	c, visible, err := s.beginVisible(ctx, "device", "devices")
	if err != nil {
		return nil, err
	}
	snap, userID := s.snap(), ""
	who := reachOf(snap, time.Now()).users
	if req.Msg.User != "" {
		u, err := snap.User(req.Msg.User)
		if err != nil || !seen(who[u.Id], visible) {
			return answer(c, &apiv1.ListDevicesResponse{}, &directory.NotFoundError{Kind: "user", Ref: req.Msg.User})
		}
		userID = u.Id
	}
	res := &apiv1.ListDevicesResponse{}
	for _, d := range snap.Devices {
		if (userID == "" || d.UserId == userID) && seen(who[d.UserId], visible) {
			res.Devices = append(res.Devices, s.deviceView(snap, d))
		}
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
