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

var providerFlag = func() cli.Flag {
	return &cli.StringFlag{Name: "provider", Required: true, Usage: "`NAME` of the upstream provider in the coordinator's configuration"}
}

func userLink() *cli.Command {
	return verb("link", "let a user log in through an upstream provider, as a subject of it",
		"sallyportctl user link shivam --provider corp --subject 00u1a2b3", []string{"USER"},
		[]cli.Flag{providerFlag(), &cli.StringFlag{Name: "subject", Required: true, Usage: "the user's `ID` there (the claim sub), not an address"}},
		func(c *cli.Context, s *session) error {
			res, err := s.admin.LinkIdentity(c.Context, connect.NewRequest(&apiv1.LinkIdentityRequest{
				User: c.Args().First(), Provider: c.String("provider"), Subject: c.String("subject"),
			}))
			if err != nil {
				return err
			}
			return show(c, res.Msg, userHeader, [][]string{userRow(res.Msg.User)})
		})
}

func userUnlink() *cli.Command {
	return verb("unlink", "undo link, and end what the user was logged in with",
		"sallyportctl user unlink shivam --provider corp", []string{"USER"}, []cli.Flag{providerFlag()},
		func(c *cli.Context, s *session) error {
			res, err := s.admin.UnlinkIdentity(c.Context, connect.NewRequest(&apiv1.UnlinkIdentityRequest{
				User: c.Args().First(), Provider: c.String("provider"),
			}))
			if err != nil {
				return err
			}
			return show(c, res.Msg, userHeader, [][]string{userRow(res.Msg.User)})
		})
}
