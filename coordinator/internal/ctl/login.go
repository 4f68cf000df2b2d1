package ctl

import (
	"connectrpc.com/connect"
	"github.com/urfave/cli/v2"

	apiv1 "github.com/sallyport-mesh/sallyport/pkg/api/sallyport/v1"
)

func userResetMFA() *cli.Command {
	return verb("reset-mfa", "take a second factor away from somebody who has lost it, and end their sessions",
		"sallyportctl user reset-mfa shivam --reason 'lost telephone'", []string{"USER"},
		[]cli.Flag{&cli.StringFlag{Name: "reason", Usage: "`WHY`, for the record"}},
		func(c *cli.Context, s *session) error {
			res, err := s.admin.ResetSecondFactor(c.Context, connect.NewRequest(&apiv1.ResetSecondFactorRequest{
				User: c.Args().First(), Reason: c.String("reason"),
			}))
			if err != nil {
				return err
			}
			return show(c, res.Msg, userHeader, [][]string{userRow(res.Msg.User)})
		})
}
