package ctl

import (
	"fmt"

	"connectrpc.com/connect"
	"github.com/urfave/cli/v2"

	apiv1 "github.com/sallyport-mesh/sallyport/pkg/api/sallyport/v1"
	"github.com/sallyport-mesh/sallyport/pkg/process"
)

func roles() *cli.Command {
	return noun("role", "what a grant gives", roleList(), roleShow(), roleAdd(), roleChange(), roleRemove())
}

var (
	roleHeader   = []string{"NAME", "DESCRIPTION", "RULES", "BUILT IN"}
	roleFileFlag = &cli.StringFlag{Name: "file", Aliases: []string{"f"}, Usage: "YAML `FILE` with the rules, as of a Kubernetes ClusterRole; - is standard input"}
)

func roleRow(r *apiv1.Role) []string {
	own := "no"
	if r.Builtin {
		own = "yes"
	}
	return []string{r.Name, r.Description, fmt.Sprint(len(r.Rules)), own}
}

func roleList() *cli.Command {
	return verb("list", "list roles", "sallyportctl role list", nil, nil, func(c *cli.Context, s *session) error {
		all, err := allRoles(c, s)
		if err != nil {
			return err
		}
		var rows [][]string
		for _, r := range all.Roles {
			rows = append(rows, roleRow(r))
		}
		return show(c, all, roleHeader, rows)
	})
}

func roleShow() *cli.Command {
	return verb("show", "show a role's rules, as YAML that role change takes", "sallyportctl role show edit", []string{"ROLE"}, nil, func(c *cli.Context, s *session) error {
		all, err := allRoles(c, s)
		if err != nil {
			return err
		}
		for _, r := range all.Roles {
			if r.Name != c.Args().First() {
				continue
			}
			if c.String("output") != "table" {
				return show(c, r, nil, [][]string{{r.Name}})
			}
			raw, err := writeRole(r)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(c.App.Writer, "%s", raw)
			return err
		}
		return process.WithExitCode(process.Hint(fmt.Errorf("no role %q", c.Args().First()), "sallyportctl role list shows what there is"), exitNotFound)
	})
}

func allRoles(c *cli.Context, s *session) (*apiv1.ListRolesResponse, error) {
	res, err := s.admin.ListRoles(c.Context, connect.NewRequest(&apiv1.ListRolesRequest{}))
	if err != nil {
		return nil, err
	}
	return res.Msg, nil
}

func roleAdd() *cli.Command {
	return verb("add", "add a role of your own", "sallyportctl role add web-operator -f web-operator.yaml", []string{"ROLE"},
		[]cli.Flag{roleFileFlag}, func(c *cli.Context, s *session) error {
			r, err := roleFromFile(c)
			if err != nil {
				return err
			}
			res, err := s.admin.CreateRole(c.Context, connect.NewRequest(&apiv1.CreateRoleRequest{Role: r}))
			if err != nil {
				return err
			}
			return show(c, res.Msg, roleHeader, [][]string{roleRow(res.Msg)})
		})
}

func roleChange() *cli.Command {
	return verb("change", "put other rules in place of a role's, and wait for the agents", "sallyportctl role change web-operator -f web-operator.yaml", []string{"ROLE"},
		[]cli.Flag{roleFileFlag}, func(c *cli.Context, s *session) error {
			r, err := roleFromFile(c)
			if err != nil {
				return err
			}
			stream, err := s.admin.ChangeRole(c.Context, connect.NewRequest(&apiv1.ChangeRoleRequest{Role: r}))
			if err != nil {
				return err
			}
			return effects(c, stream)
		})
}

func roleRemove() *cli.Command {
	return remover("role", "remove a role of your own, and wait for the agents",
		func(c *cli.Context, s *session, ref string) error {
			stream, err := s.admin.DeleteRole(c.Context, connect.NewRequest(&apiv1.DeleteRoleRequest{Name: ref, WithGrants: c.Bool("with-grants")}))
			if err != nil {
				return err
			}
			return effects(c, stream)
		}, &cli.BoolFlag{Name: "with-grants", Usage: "end the grants that give it; without, it must not be given"})
}
