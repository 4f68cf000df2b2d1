package ctl

import (
	"strings"

	"connectrpc.com/connect"
	"github.com/urfave/cli/v2"

	apiv1 "github.com/sallyport-mesh/sallyport/pkg/api/sallyport/v1"
)

func devices() *cli.Command {
	return noun("device", "devices that people logged in on", deviceList(), deviceRevoke())
}

func deviceList() *cli.Command {
	return verb("list", "list devices", "sallyportctl device list --user shivam", nil,
		[]cli.Flag{&cli.StringFlag{Name: "user", Usage: "of `USER`"}},
		func(c *cli.Context, s *session) error {
			res, err := s.admin.ListDevices(c.Context, connect.NewRequest(&apiv1.ListDevicesRequest{User: c.String("user")}))
			if err != nil {
				return err
			}
			var rows [][]string
			for _, d := range res.Msg.Devices {
				state := "away"
				switch {
				case d.Device.Revoked:
					state = "revoked"
				case d.Online:
					state = "online"
				}
				rows = append(rows, []string{
					d.Device.Id, d.Device.Name, d.User, state, when(d.SessionExpiresAt), strings.Join(d.OverlayAddresses, ", "),
				})
			}
			return show(c, res.Msg, []string{"ID", "NAME", "USER", "STATE", "SESSION UNTIL", "OVERLAY"}, rows)
		})
}

func deviceRevoke() *cli.Command {
	return verb("revoke", "refuse a device from now on, and wait for the agents", "sallyportctl device revoke dev-k3v5n2q7a4x6b2zt",
		[]string{"DEVICE"}, nil, func(c *cli.Context, s *session) error {
			stream, err := s.admin.RevokeDevice(c.Context, connect.NewRequest(&apiv1.RevokeDeviceRequest{Device: c.Args().First()}))
			if err != nil {
				return err
			}
			return effects(c, stream)
		})
}
