package ctl

import (
	"errors"
	"fmt"
	"time"

	"connectrpc.com/connect"
	"github.com/urfave/cli/v2"

	apiv1 "github.com/sallyport-mesh/sallyport/pkg/api/sallyport/v1"
)

func userChange() *cli.Command {
	return verb("change", "change how a user is called; the id and all that hangs on it stay",
		"sallyportctl user change shivam --display-name 'Shivam S.'", []string{"USER"},
		[]cli.Flag{
			&cli.StringFlag{Name: "display-name", Usage: "`NAME` as people write it"},
			&cli.StringFlag{Name: "rename", Usage: "`NAME` to log in with from now on"},
		},
		func(c *cli.Context, s *session) error {
			req := &apiv1.UpdateUserRequest{User: c.Args().First()}
			if c.IsSet("display-name") {
				req.DisplayName = new(c.String("display-name"))
			}
			if c.IsSet("rename") {
				req.Name = new(c.String("rename"))
			}
			if req.DisplayName == nil && req.Name == nil {
				return usage(c, errors.New("nothing to change: give --display-name or --rename"))
			}
			res, err := s.admin.UpdateUser(c.Context, connect.NewRequest(req))
			if err != nil {
				return err
			}
			return show(c, res.Msg, userHeader, [][]string{userRow(res.Msg)})
		})
}

func groupRename() *cli.Command {
	return verb("change", "give a group another name", "sallyportctl group change aws-members --rename cloud-members", []string{"GROUP"},
		[]cli.Flag{&cli.StringFlag{Name: "rename", Required: true, Usage: "`NAME` from now on"}},
		func(c *cli.Context, s *session) error {
			res, err := s.admin.RenameGroup(c.Context, connect.NewRequest(&apiv1.RenameGroupRequest{Group: c.Args().First(), Name: c.String("rename")}))
			return oneGroup(c, res, err)
		})
}

func projectRename() *cli.Command {
	return verb("change", "give a project another name", "sallyportctl project change aws --rename cloud", []string{"PROJECT"},
		[]cli.Flag{&cli.StringFlag{Name: "rename", Required: true, Usage: "`NAME` from now on"}},
		func(c *cli.Context, s *session) error {
			res, err := s.admin.RenameProject(c.Context, connect.NewRequest(&apiv1.RenameProjectRequest{Project: c.Args().First(), Name: c.String("rename")}))
			if err != nil {
				return err
			}
			return show(c, res.Msg, projectHeader, [][]string{projectRow(res.Msg)})
		})
}

func clusterChange() *cli.Command {
	return verb("change", "change for how long a cluster's agents decide alone while the coordinator is away",
		"sallyportctl cluster change edge-1 --budget-read 24h --budget-write 4h --budget-exec 15m", []string{"CLUSTER"},
		[]cli.Flag{
			&cli.DurationFlag{Name: "budget-read", Usage: "for reads, `DURATION`"},
			&cli.DurationFlag{Name: "budget-write", Usage: "for writes, `DURATION`"},
			&cli.DurationFlag{Name: "budget-exec", Usage: "for exec, Secrets and running streams, `DURATION`"},
		},
		func(c *cli.Context, s *session) error {
			b := &apiv1.StalenessBudgets{}
			set := 0
			for flag, into := range map[string]*uint32{"budget-read": &b.ReadSeconds, "budget-write": &b.WriteSeconds, "budget-exec": &b.ExecSeconds} {
				if !c.IsSet(flag) {
					continue
				}
				d := c.Duration(flag)
				if d < time.Second || d > 1<<31*time.Second {
					return usage(c, fmt.Errorf("--%s %s is not a time to decide alone for", flag, d))
				}
				set++
				*into = uint32(d / time.Second)
			}
			if set == 0 {
				return usage(c, errors.New("nothing to change: give --budget-read, --budget-write or --budget-exec"))
			}
			stream, err := s.admin.SetBudgets(c.Context, connect.NewRequest(&apiv1.SetBudgetsRequest{Cluster: c.Args().First(), Budgets: b}))
			if err != nil {
				return err
			}
			return effects(c, stream)
		})
}
