package ctl

import (
	"fmt"
	"strings"

	"connectrpc.com/connect"
	"github.com/urfave/cli/v2"

	apiv1 "github.com/sallyport-mesh/sallyport/pkg/api/sallyport/v1"
)

func devices() *cli.Command {
	return noun("device", "devices that people logged in on", deviceList(), deviceShow(), deviceRevoke())
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
				rows = append(rows, deviceRow(d))
			}
			return show(c, res.Msg, deviceHeader, rows)
		})
}

var deviceHeader = []string{"ID", "NAME", "USER", "STATE", "SESSION UNTIL", "OVERLAY"}

func deviceRow(d *apiv1.DeviceView) []string {
	return []string{d.Device.Id, d.Device.Name, d.User, deviceState(d), when(d.SessionExpiresAt), strings.Join(d.OverlayAddresses, ", ")}
}

func deviceState(d *apiv1.DeviceView) string {
	switch {
	case d.Device.Revoked:
		return "revoked"
	case d.Online:
		return "online"
	}
	return "away"
}

func deviceShow() *cli.Command {
	return verb("show", "show a device and its logins", "sallyportctl device show dev-k3v5n2q7a4x6b2zt", []string{"DEVICE"}, nil,
		func(c *cli.Context, s *session) error {
			res, err := s.admin.GetDevice(c.Context, connect.NewRequest(&apiv1.GetDeviceRequest{Device: c.Args().First()}))
			if err != nil {
				return err
			}
			d := res.Msg.Device
			return detail(c, res.Msg, [][2]string{
				{"id", d.Device.Id}, {"name", d.Device.Name}, {"user", d.User}, {"system", d.Device.Os}, {"state", deviceState(d)},
				{"added", when(d.Device.CreatedAt)}, {"last login", when(d.Device.LastLoginAt)}, {"overlay", strings.Join(d.OverlayAddresses, ", ")},
				{"key", fmt.Sprintf("SHA-256 %x", d.Device.KeySha256)},
			}, section{"sessions", sessionHeader, sessionRows(res.Msg.Sessions)})
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
