package ctl

import (
	"strconv"
	"strings"
	"time"

	"connectrpc.com/connect"
	"github.com/urfave/cli/v2"

	apiv1 "github.com/sallyport-mesh/sallyport/pkg/api/sallyport/v1"
)

func userShow() *cli.Command {
	return verb("show", "show a user with groups, grants, devices and sessions", "sallyportctl user show shivam", []string{"USER"}, nil,
		func(c *cli.Context, s *session) error {
			res, err := s.admin.GetUser(c.Context, connect.NewRequest(&apiv1.GetUserRequest{User: c.Args().First()}))
			if err != nil {
				return err
			}
			m := res.Msg
			var devices [][]string
			for _, d := range m.Devices {
				devices = append(devices, deviceRow(d))
			}
			return detail(c, m, [][2]string{
				{"name", m.User.Name}, {"id", m.User.Id}, {"display name", m.User.DisplayName}, {"state", userRow(m.User)[2]},
				{"suspended in", strings.Join(m.SuspendedIn, ", ")}, {"admin roles", adminRoles(m.User.Admin)},
				{"groups", strings.Join(m.Groups, ", ")}, {"created", when(m.User.CreatedAt)},
			},
				grantSection(m.Grants), section{"devices", deviceHeader, devices}, section{"sessions", sessionHeader, sessionRows(m.Sessions)})
		})
}

func groupShow() *cli.Command {
	return verb("show", "show a group with members and grants", "sallyportctl group show aws-members", []string{"GROUP"}, nil,
		func(c *cli.Context, s *session) error {
			res, err := s.admin.GetGroup(c.Context, connect.NewRequest(&apiv1.GetGroupRequest{Group: c.Args().First()}))
			if err != nil {
				return err
			}
			m := res.Msg
			return detail(c, m, [][2]string{
				{"name", m.Group.Name}, {"id", m.Group.Id}, {"members", strings.Join(m.Members, ", ")}, {"created", when(m.Group.CreatedAt)},
			}, grantSection(m.Grants))
		})
}

func projectShow() *cli.Command {
	return verb("show", "show a project with clusters, people and grants", "sallyportctl project show aws", []string{"PROJECT"}, nil,
		func(c *cli.Context, s *session) error {
			res, err := s.admin.GetProject(c.Context, connect.NewRequest(&apiv1.GetProjectRequest{Project: c.Args().First()}))
			if err != nil {
				return err
			}
			m := res.Msg
			return detail(c, m, [][2]string{
				{"name", m.Project.Name}, {"id", m.Project.Id}, {"clusters", strings.Join(m.Clusters, ", ")},
				{"managers", strings.Join(m.Managers, ", ")}, {"members", strings.Join(m.Members, ", ")},
				{"suspended", strings.Join(m.Suspended, ", ")}, {"created", when(m.Project.CreatedAt)},
			}, grantSection(m.Grants))
		})
}

func clusterShow() *cli.Command {
	return verb("show", "show a cluster with agents, grants and join tokens", "sallyportctl cluster show edge-1", []string{"CLUSTER"}, nil,
		func(c *cli.Context, s *session) error {
			res, err := s.admin.GetCluster(c.Context, connect.NewRequest(&apiv1.GetClusterRequest{Cluster: c.Args().First()}))
			if err != nil {
				return err
			}
			m := res.Msg
			cl := m.Status.Cluster
			var agents [][]string
			for _, a := range m.Status.Agents {
				agents = append(agents, []string{
					a.Agent.Id, agentState(m.Status, a), a.Agent.Version, strings.Join(a.OverlayAddresses, ", "),
					strconv.FormatUint(a.ConfirmedRevision, 10), strconv.FormatUint(a.AuditSize, 10),
				})
			}
			return detail(c, m, [][2]string{
				{"name", cl.Name}, {"id", cl.Id}, {"project", m.Status.Project}, {"ceiling", cl.Ceiling},
				{"kube-system", cl.KubeSystemUid}, {"policy", "revision " + strconv.FormatUint(m.Status.BundleRevision, 10)},
				{"decides alone", "reads " + seconds(cl.Budgets.GetReadSeconds()) + ", writes " + seconds(cl.Budgets.GetWriteSeconds()) +
					", exec " + seconds(cl.Budgets.GetExecSeconds())},
				{"created", when(cl.CreatedAt)},
			},
				section{"agents", []string{"ID", "STATE", "VERSION", "OVERLAY", "CONFIRMED", "RECORDS"}, agents},
				grantSection(m.Grants), section{"join tokens", tokenHeader, tokenRows(m.Tokens)})
		})
}

// seconds prints a duration as people write it: 4h, 15m.
func seconds(n uint32) string {
	s := (time.Duration(n) * time.Second).String()
	if short, ok := strings.CutSuffix(s, "m0s"); ok {
		s = short + "m"
	}
	if short, ok := strings.CutSuffix(s, "h0m"); ok {
		s = short + "h"
	}
	return s
}

func agentState(cl *apiv1.ClusterStatus, a *apiv1.AgentStatus) string {
	switch {
	case !a.Online:
		return "away since " + when(a.LastSeen)
	case a.ConfirmedRevision < cl.BundleRevision:
		return "online, policy behind"
	}
	return "online"
}

func grantShow() *cli.Command {
	return verb("show", "show a grant", "sallyportctl grant show grt-k3v5n2q7a4x6b2zt", []string{"GRANT"}, nil,
		func(c *cli.Context, s *session) error {
			res, err := s.admin.GetGrant(c.Context, connect.NewRequest(&apiv1.GetGrantRequest{Id: c.Args().First()}))
			if err != nil {
				return err
			}
			row := grantRow(res.Msg)
			fields := [][2]string{}
			for i, title := range grantHeader {
				fields = append(fields, [2]string{strings.ToLower(title), row[i]})
			}
			return detail(c, res.Msg, append(fields, [2]string{"reason", res.Msg.Grant.Reason}, [2]string{"created", when(res.Msg.Grant.CreatedAt)}))
		})
}

func grantSection(views []*apiv1.GrantView) section {
	var rows [][]string
	for _, g := range views {
		rows = append(rows, grantRow(g))
	}
	return section{"grants", grantHeader, rows}
}
