package ctl

import (
	"fmt"
	"strings"
	"time"

	"connectrpc.com/connect"
	"github.com/urfave/cli/v2"
	"google.golang.org/protobuf/types/known/timestamppb"

	apiv1 "github.com/sallyport-mesh/sallyport/pkg/api/sallyport/v1"
)

func grants() *cli.Command {
	return noun("grant", "who has which role where", grantAdd(), grantList(), grantShow(), grantRemove())
}

func grantAdd() *cli.Command {
	return verb("add", "grant a role to a user or a group on a project, a cluster, or namespaces of it",
		"sallyportctl grant add --role cluster-admin --group aws-members --project aws", nil,
		[]cli.Flag{
			&cli.StringFlag{Name: "role", Required: true, Usage: "`ROLE`; see sallyportctl role list"},
			&cli.StringFlag{Name: "user", Usage: "to `USER`"},
			&cli.StringFlag{Name: "group", Usage: "to `GROUP`"},
			&cli.StringFlag{Name: "project", Usage: "on every cluster of `PROJECT`"},
			&cli.StringFlag{Name: "cluster", Usage: "on `CLUSTER`"},
			&cli.StringSliceFlag{Name: "namespace", Aliases: []string{"n"}, Usage: "only in `NAMESPACE`; repeat for several"},
			&cli.StringFlag{Name: "namespace-selector", Usage: "only in namespaces whose labels match `SELECTOR`, for example team=a"},
			&cli.DurationFlag{Name: "for", Usage: "ends after `DURATION`, for example 8h"},
			&cli.StringFlag{Name: "reason", Usage: "`WHY`, for the record"},
		},
		func(c *cli.Context, s *session) error {
			req := &apiv1.CreateGrantRequest{
				Role: c.String("role"), User: c.String("user"), Group: c.String("group"), Project: c.String("project"),
				Cluster: c.String("cluster"), Namespaces: c.StringSlice("namespace"), NamespaceSelector: c.String("namespace-selector"), Reason: c.String("reason"),
			}
			if d := c.Duration("for"); c.IsSet("for") {
				if d <= 0 {
					return fmt.Errorf("--for %s is not a time to come", d)
				}
				req.ExpiresAt = timestamppb.New(time.Now().Add(d))
			}
			res, err := s.admin.CreateGrant(c.Context, connect.NewRequest(req))
			if err != nil {
				return err
			}
			view := &apiv1.GrantView{Grant: res.Msg, Subject: req.User + req.Group, Target: req.Project + req.Cluster}
			return show(c, res.Msg, grantHeader, [][]string{grantRow(view)})
		})
}

func grantList() *cli.Command {
	return verb("list", "list grants", "sallyportctl grant list --user shivam", nil,
		[]cli.Flag{
			&cli.StringFlag{Name: "user", Usage: "that `USER` has, also through groups"},
			&cli.StringFlag{Name: "project", Usage: "on `PROJECT` or its clusters"},
			&cli.StringFlag{Name: "cluster", Usage: "that reach `CLUSTER`"},
		},
		func(c *cli.Context, s *session) error {
			res, err := s.admin.ListGrants(c.Context, connect.NewRequest(&apiv1.ListGrantsRequest{
				User: c.String("user"), Project: c.String("project"), Cluster: c.String("cluster"),
			}))
			if err != nil {
				return err
			}
			var rows [][]string
			for _, g := range res.Msg.Grants {
				rows = append(rows, grantRow(g))
			}
			return show(c, res.Msg, grantHeader, rows)
		})
}

func grantRemove() *cli.Command {
	return verb("remove", "end a grant, and wait for the agents", "sallyportctl grant remove grt-k3v5n2q7a4x6b2zt", []string{"GRANT"}, nil,
		func(c *cli.Context, s *session) error {
			stream, err := s.admin.DeleteGrant(c.Context, connect.NewRequest(&apiv1.DeleteGrantRequest{Id: c.Args().First()}))
			if err != nil {
				return err
			}
			return effects(c, stream)
		})
}

var grantHeader = []string{"ID", "SUBJECT", "ROLE", "ON", "NAMESPACES", "UNTIL"}

func grantRow(v *apiv1.GrantView) []string {
	g := v.Grant
	kind, target := "user ", "cluster "
	if g.GroupId != "" {
		kind = "group "
	}
	if g.ProjectId != "" {
		target = "project "
	}
	namespaces := "all"
	if len(g.Namespaces) > 0 {
		namespaces = strings.Join(g.Namespaces, ", ")
	}
	if g.NamespaceSelector != "" {
		namespaces = "labels " + g.NamespaceSelector
	}
	return []string{g.Id, kind + v.Subject, g.Role, target + v.Target, namespaces, when(g.ExpiresAt)}
}
