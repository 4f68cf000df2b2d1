package ctl

import (
	"fmt"
	"strings"

	"connectrpc.com/connect"
	"github.com/urfave/cli/v2"

	apiv1 "github.com/sallyport-mesh/sallyport/pkg/api/sallyport/v1"
)

func why() *cli.Command {
	return verb("why", "say whether somebody may do something in a cluster, and by which grant and rule",
		"sallyportctl why shivam delete deployments --api-group apps -n default --cluster edge-1", []string{"USER", "VERB", "RESOURCE"},
		[]cli.Flag{
			&cli.StringFlag{Name: "cluster", Required: true, Usage: "in `CLUSTER`"},
			&cli.StringFlag{Name: "namespace", Aliases: []string{"n"}, Usage: "in `NAMESPACE`; without it, in the whole cluster"},
			&cli.StringFlag{Name: "api-group", Usage: "of the API `GROUP`, for example apps; without it, the core group"},
			&cli.StringSliceFlag{Name: "namespace-label", Usage: "the namespace has label `KEY=VALUE`; repeat for several"},
			&cli.StringFlag{Name: "name", Usage: "to the object called `NAME`"},
		},
		func(c *cli.Context, s *session) error {
			labels := map[string]string{}
			for _, l := range c.StringSlice("namespace-label") {
				key, value, ok := strings.Cut(l, "=")
				if !ok {
					return usage(c, fmt.Errorf("--namespace-label %q is not KEY=VALUE", l))
				}
				labels[key] = value
			}
			res, err := s.admin.Why(c.Context, connect.NewRequest(&apiv1.WhyRequest{
				User: c.Args().Get(0), Verb: c.Args().Get(1), Resource: c.Args().Get(2), Cluster: c.String("cluster"),
				Namespace: c.String("namespace"), ApiGroup: c.String("api-group"), Name: c.String("name"),
				NamespaceLabels: labels,
			}))
			if err != nil {
				return err
			}
			if forPrograms(c) {
				return printMessage(c, res.Msg)
			}
			answer := "no"
			if res.Msg.Allowed {
				answer = "yes"
			}
			_, err = fmt.Fprintf(c.App.Writer, "%s: %s\n", answer, clean(res.Msg.Reason))
			return err
		})
}
