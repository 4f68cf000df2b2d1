package ctl

import (
	"connectrpc.com/connect"
	"github.com/urfave/cli/v2"

	apiv1 "github.com/sallyport-mesh/sallyport/pkg/api/sallyport/v1"
)

func authority() *cli.Command {
	return noun("ca", "the certificate authority that everybody trusts",
		verb("show", "show the login URL, the pin, the root and what it signed", "sallyportctl ca show", nil,
			[]cli.Flag{&cli.BoolFlag{Name: "pem", Usage: "print the root certificate only"}},
			func(c *cli.Context, s *session) error {
				res, err := s.admin.GetCA(c.Context, connect.NewRequest(&apiv1.GetCARequest{}))
				if err != nil {
					return err
				}
				if c.Bool("pem") {
					_, err := c.App.Writer.Write([]byte(res.Msg.RootPem))
					return err
				}
				var rows [][]string
				for _, x := range res.Msg.Certificates {
					rows = append(rows, []string{x.Role, x.Subject, when(x.NotAfter), x.Fingerprint})
				}
				return detail(c, res.Msg, [][2]string{
					{"trust domain", res.Msg.TrustDomain}, {"login URL", res.Msg.LoginUrl}, {"pin", res.Msg.Pin},
				}, section{"certificates", []string{"ISSUES FOR", "SUBJECT", "UNTIL", "SHA-256"}, rows})
			}))
}
