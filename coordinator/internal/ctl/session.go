package ctl

import (
	"connectrpc.com/connect"
	"github.com/urfave/cli/v2"

	apiv1 "github.com/sallyport-mesh/sallyport/pkg/api/sallyport/v1"
)

func sessions() *cli.Command {
	return noun("session", "logins: who is logged in, on what, until when", sessionList(), sessionShow(), sessionEnd())
}

func sessionList() *cli.Command {
	return verb("list", "list the sessions that are running", "sallyportctl session list --user shivam", nil,
		[]cli.Flag{
			&cli.StringFlag{Name: "user", Usage: "of `USER`"},
			&cli.StringFlag{Name: "device", Usage: "on `DEVICE`"},
			&cli.BoolFlag{Name: "all", Usage: "those that are over too, as long as they are kept"},
		},
		func(c *cli.Context, s *session) error {
			res, err := s.admin.ListSessions(c.Context, connect.NewRequest(&apiv1.ListSessionsRequest{
				User: c.String("user"), Device: c.String("device"), All: c.Bool("all"),
			}))
			if err != nil {
				return err
			}
			return show(c, res.Msg, sessionHeader, sessionRows(res.Msg.Sessions))
		})
}

func sessionShow() *cli.Command {
	return verb("show", "show a session", "sallyportctl session show ses-k3v5n2q7a4x6b2zt", []string{"SESSION"}, nil,
		func(c *cli.Context, s *session) error {
			res, err := s.admin.GetSession(c.Context, connect.NewRequest(&apiv1.GetSessionRequest{Id: c.Args().First()}))
			if err != nil {
				return err
			}
			x := res.Msg.Session
			return detail(c, res.Msg, [][2]string{
				{"id", x.Id}, {"user", res.Msg.User}, {"device", res.Msg.Device + " " + x.DeviceId}, {"state", sessionState(res.Msg)},
				{"began", when(x.CreatedAt)}, {"until", when(x.ExpiresAt)}, {"certificate", x.CertificateSerial},
			})
		})
}

func sessionEnd() *cli.Command {
	return verb("end", "end a session, and wait for the agents; the person may log in again", "sallyportctl session end ses-k3v5n2q7a4x6b2zt",
		[]string{"SESSION"}, nil, func(c *cli.Context, s *session) error {
			stream, err := s.admin.EndSession(c.Context, connect.NewRequest(&apiv1.EndSessionRequest{Id: c.Args().First()}))
			if err != nil {
				return err
			}
			return effects(c, stream)
		})
}

var sessionHeader = []string{"ID", "USER", "DEVICE", "STATE", "BEGAN", "UNTIL"}

func sessionRows(views []*apiv1.SessionView) [][]string {
	var rows [][]string
	for _, v := range views {
		rows = append(rows, []string{v.Session.Id, v.User, v.Device, sessionState(v), when(v.Session.CreatedAt), when(v.Session.ExpiresAt)})
	}
	return rows
}

func sessionState(v *apiv1.SessionView) string {
	switch {
	case v.Running:
		return "running"
	case v.Session.Revoked:
		return "ended"
	}
	return "over"
}
