package ctl

import (
	"connectrpc.com/connect"
	"github.com/urfave/cli/v2"

	apiv1 "github.com/sallyport-mesh/sallyport/pkg/api/sallyport/v1"
)

func projects() *cli.Command {
	return noun("project", "projects: what clusters belong to", projectAdd(), projectList(), projectShow(), projectRename(), projectRemove())
}

func projectAdd() *cli.Command {
	return verb("add", "add a project", "sallyportctl project add aws", []string{"NAME"}, nil, func(c *cli.Context, s *session) error {
		res, err := s.admin.CreateProject(c.Context, connect.NewRequest(&apiv1.CreateProjectRequest{Name: c.Args().First()}))
		if err != nil {
			return err
		}
		return show(c, res.Msg, projectHeader, [][]string{projectRow(res.Msg)})
	})
}

func projectList() *cli.Command {
	return verb("list", "list projects", "sallyportctl project list", nil, nil, func(c *cli.Context, s *session) error {
		res, err := s.admin.ListProjects(c.Context, connect.NewRequest(&apiv1.ListProjectsRequest{}))
		if err != nil {
			return err
		}
		var rows [][]string
		for _, p := range res.Msg.Projects {
			rows = append(rows, projectRow(p))
		}
		return show(c, res.Msg, projectHeader, rows)
	})
}

func projectRemove() *cli.Command {
	return remover("project", "remove a project that has no clusters, with its grants",
		func(c *cli.Context, s *session, ref string) error {
			_, err := s.admin.DeleteProject(c.Context, connect.NewRequest(&apiv1.DeleteProjectRequest{Project: ref}))
			return err
		})
}

var projectHeader = []string{"NAME", "ID", "CREATED"}

func projectRow(p *apiv1.Project) []string { return []string{p.Name, p.Id, when(p.CreatedAt)} }
