package ctl

import (
	"strconv"

	"connectrpc.com/connect"
	"github.com/urfave/cli/v2"

	apiv1 "github.com/sallyport-mesh/sallyport/pkg/api/sallyport/v1"
)

func groups() *cli.Command {
	return noun("group", "groups of users", groupAdd(), groupList(), groupShow(), groupRename(), groupRemove(), groupJoin(), groupLeave())
}

func groupAdd() *cli.Command {
	return verb("add", "add a group", "sallyportctl group add aws-members", []string{"NAME"}, nil, func(c *cli.Context, s *session) error {
		res, err := s.admin.CreateGroup(c.Context, connect.NewRequest(&apiv1.CreateGroupRequest{Name: c.Args().First()}))
		return oneGroup(c, res, err)
	})
}

func groupList() *cli.Command {
	return verb("list", "list groups", "sallyportctl group list", nil, nil, func(c *cli.Context, s *session) error {
		res, err := s.admin.ListGroups(c.Context, connect.NewRequest(&apiv1.ListGroupsRequest{}))
		if err != nil {
			return err
		}
		var rows [][]string
		for _, g := range res.Msg.Groups {
			rows = append(rows, groupRow(g))
		}
		return show(c, res.Msg, groupHeader, rows)
	})
}

func groupRemove() *cli.Command {
	return remover("group", "remove a group with its grants, and wait for the agents",
		func(c *cli.Context, s *session, ref string) error {
			stream, err := s.admin.DeleteGroup(c.Context, connect.NewRequest(&apiv1.DeleteGroupRequest{Group: ref}))
			if err != nil {
				return err
			}
			return effects(c, stream)
		})
}

func groupJoin() *cli.Command {
	return verb("join", "put a user into a group", "sallyportctl group join aws-members shivam", []string{"GROUP", "USER"}, nil,
		func(c *cli.Context, s *session) error {
			res, err := s.admin.AddMember(c.Context, connect.NewRequest(&apiv1.MemberRequest{Group: c.Args().Get(0), User: c.Args().Get(1)}))
			return oneGroup(c, res, err)
		})
}

func groupLeave() *cli.Command {
	return verb("leave", "take a user out of a group, and wait for the agents", "sallyportctl group leave aws-members shivam",
		[]string{"GROUP", "USER"}, nil, func(c *cli.Context, s *session) error {
			stream, err := s.admin.RemoveMember(c.Context, connect.NewRequest(&apiv1.MemberRequest{Group: c.Args().Get(0), User: c.Args().Get(1)}))
			if err != nil {
				return err
			}
			return effects(c, stream)
		})
}

var groupHeader = []string{"NAME", "ID", "MEMBERS", "CREATED"}

func groupRow(g *apiv1.Group) []string {
	return []string{g.Name, g.Id, strconv.Itoa(len(g.MemberIds)), when(g.CreatedAt)}
}

func oneGroup(c *cli.Context, res *connect.Response[apiv1.Group], err error) error {
	if err != nil {
		return err
	}
	return show(c, res.Msg, groupHeader, [][]string{groupRow(res.Msg)})
}
