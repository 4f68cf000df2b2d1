package ctl

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"connectrpc.com/connect"
	"github.com/urfave/cli/v2"
	"golang.org/x/term"

	apiv1 "github.com/sallyport-mesh/sallyport/pkg/api/sallyport/v1"
)

func whoami() *cli.Command {
	return verb("whoami", "show who you are to the coordinator and what you may administer", "sallyportctl whoami", nil, nil,
		func(c *cli.Context, s *session) error {
			res, err := s.admin.Whoami(c.Context, connect.NewRequest(&apiv1.WhoamiRequest{}))
			if err != nil {
				return err
			}
			return show(c, res.Msg, []string{"USER", "VIA", "ADMIN ROLES"},
				[][]string{{res.Msg.UserName, res.Msg.Via, adminRoles(res.Msg.Admin)}})
		})
}

func users() *cli.Command {
	return noun("user", "people and what they may administer", userAdd(), userList(), userShow(), userChange(), userRemove(), userPassword(), userSuspend(), userResume(), userResetMFA(), userLink(), userUnlink(), userAdmin())
}

var passwordFlag = &cli.BoolFlag{Name: "password-stdin", Usage: "read the password from standard input"}

func userAdd() *cli.Command {
	return verb("add", "add a local user; without a password, print a one-time link where they set it",
		"sallyportctl user add virat --display-name 'Virat K.'", []string{"NAME"},
		[]cli.Flag{
			&cli.StringFlag{Name: "display-name", Usage: "`NAME` as people write it"},
			&cli.BoolFlag{Name: "admin", Usage: "make them an administrator of everything"},
			passwordFlag,
		},
		func(c *cli.Context, s *session) error {
			password, err := readPassword(c)
			if err != nil {
				return err
			}
			res, err := s.admin.CreateUser(c.Context, connect.NewRequest(&apiv1.CreateUserRequest{
				Name: c.Args().First(), DisplayName: c.String("display-name"), Password: password,
			}))
			if err != nil {
				return err
			}
			if c.Bool("admin") {
				bound, err := s.admin.BindAdmin(c.Context, connect.NewRequest(&apiv1.BindAdminRequest{User: res.Msg.User.Id, Role: "administrator"}))
				if err != nil {
					return fmt.Errorf("user %s was added, but making them administrator failed: %w", res.Msg.User.Name, err)
				}
				res.Msg.User = bound.Msg.User
			}
			if res.Msg.WelcomeUrl != "" && c.String("output") == "table" {
				fmt.Fprintf(c.App.Writer, "user %s added; they choose a password, once, at\n%s\n", res.Msg.User.Name, res.Msg.WelcomeUrl)
				return nil
			}
			return show(c, res.Msg, userHeader, [][]string{userRow(res.Msg.User)})
		})
}

func userList() *cli.Command {
	return verb("list", "list users", "sallyportctl user list", nil, nil, func(c *cli.Context, s *session) error {
		res, err := s.admin.ListUsers(c.Context, connect.NewRequest(&apiv1.ListUsersRequest{}))
		if err != nil {
			return err
		}
		var rows [][]string
		for _, u := range res.Msg.Users {
			rows = append(rows, userRow(u))
		}
		return show(c, res.Msg, userHeader, rows)
	})
}

func userRemove() *cli.Command {
	return remover("user", "remove a user with devices, sessions and grants, and wait for the agents",
		func(c *cli.Context, s *session, ref string) error {
			stream, err := s.admin.DeleteUser(c.Context, connect.NewRequest(&apiv1.DeleteUserRequest{User: ref}))
			if err != nil {
				return err
			}
			return effects(c, stream)
		})
}

func userPassword() *cli.Command {
	return verb("password", "end a user's sessions and set a password, or print a one-time link where they do",
		"sallyportctl user password shivam", []string{"USER"}, []cli.Flag{passwordFlag}, func(c *cli.Context, s *session) error {
			password, err := readPassword(c)
			if err != nil {
				return err
			}
			res, err := s.admin.SetPassword(c.Context, connect.NewRequest(&apiv1.SetPasswordRequest{User: c.Args().First(), Password: password}))
			if err != nil {
				return err
			}
			if res.Msg.WelcomeUrl != "" {
				fmt.Fprintln(c.App.Writer, res.Msg.WelcomeUrl)
			}
			return nil
		})
}

func userSuspend() *cli.Command {
	return verb("suspend", "take all access away now, everywhere or in one project, and wait for the agents",
		"sallyportctl user suspend --project aws shivam", []string{"USER"},
		[]cli.Flag{
			&cli.StringFlag{Name: "project", Usage: "only in `PROJECT`"},
			&cli.StringFlag{Name: "reason", Usage: "`WHY`, for the record"},
		},
		func(c *cli.Context, s *session) error {
			stream, err := s.admin.SuspendUser(c.Context, connect.NewRequest(&apiv1.SuspendUserRequest{
				User: c.Args().First(), Project: c.String("project"), Reason: c.String("reason"),
			}))
			if err != nil {
				return err
			}
			return effects(c, stream)
		})
}

func userResume() *cli.Command {
	return verb("resume", "end a suspension; after one that held everywhere they log in again", "sallyportctl user resume --project aws shivam", []string{"USER"},
		[]cli.Flag{&cli.StringFlag{Name: "project", Usage: "the suspension in `PROJECT`"}},
		func(c *cli.Context, s *session) error {
			_, err := s.admin.ResumeUser(c.Context, connect.NewRequest(&apiv1.ResumeUserRequest{User: c.Args().First(), Project: c.String("project")}))
			return err
		})
}

func userAdmin() *cli.Command {
	return verb("admin", "give or take an admin role: administrator, auditor, project-manager, cluster-operator",
		"sallyportctl user admin --project aws virat project-manager", []string{"USER", "ROLE"},
		[]cli.Flag{
			&cli.StringFlag{Name: "project", Usage: "within `PROJECT`"},
			&cli.BoolFlag{Name: "remove", Usage: "take the role away"},
		},
		func(c *cli.Context, s *session) error {
			req := connect.NewRequest(&apiv1.BindAdminRequest{User: c.Args().Get(0), Role: c.Args().Get(1), Project: c.String("project")})
			call := s.admin.BindAdmin
			if c.Bool("remove") {
				call = s.admin.UnbindAdmin
			}
			res, err := call(c.Context, req)
			if err != nil {
				return err
			}
			return show(c, res.Msg, userHeader, [][]string{userRow(res.Msg.User)})
		})
}

var userHeader = []string{"NAME", "ID", "STATE", "ADMIN ROLES", "CREATED"}

func userRow(u *apiv1.User) []string {
	state := "active"
	switch {
	case u.Suspended:
		state = "suspended"
	case !u.HasPassword && len(u.Identities) == 0:
		state = "no password yet"
	}
	return []string{u.Name, u.Id, state, adminRoles(u.Admin), when(u.CreatedAt)}
}

func adminRoles(bindings []*apiv1.AdminBinding) string {
	var out []string
	for _, b := range bindings {
		role := b.Role
		if b.ProjectId != "" {
			role += " of " + b.ProjectId
		}
		out = append(out, role)
	}
	return strings.Join(out, ", ")
}

// readPassword reads a password where the flag asks for it; "" otherwise.
func readPassword(c *cli.Context) (string, error) {
	if !c.Bool(passwordFlag.Name) {
		return "", nil
	}
	if term.IsTerminal(int(os.Stdin.Fd())) {
		fmt.Fprint(c.App.ErrWriter, "Password: ")
		raw, err := term.ReadPassword(int(os.Stdin.Fd()))
		fmt.Fprintln(c.App.ErrWriter)
		return string(raw), err
	}
	line, err := bufio.NewReader(io.LimitReader(os.Stdin, 4096)).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return "", fmt.Errorf("reading the password: %w", err)
	}
	if line = strings.TrimRight(line, "\r\n"); line == "" {
		return "", errors.New("standard input holds no password")
	}
	return line, nil
}
