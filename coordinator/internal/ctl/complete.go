package ctl

import (
	"fmt"
	"slices"
	"strings"

	"connectrpc.com/connect"
	"github.com/urfave/cli/v2"

	apiv1 "github.com/sallyport-mesh/sallyport/pkg/api/sallyport/v1"
	"github.com/sallyport-mesh/sallyport/pkg/process"
)

// The scripts ask "sallyportctl __complete WORD…", where the last word is the one
// that is being typed, and take each line of the answer for a candidate.
var completionScripts = map[string]string{
	"bash": `_sallyportctl() {
  local IFS=$'\n'
  COMPREPLY=($(compgen -W "$("${COMP_WORDS[0]}" __complete -- "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null)" -- "${COMP_WORDS[COMP_CWORD]}"))
}
complete -o default -F _sallyportctl sallyportctl
`,
	"zsh": `#compdef sallyportctl
_sallyportctl() {
  local -a found
  found=("${(@f)$("${words[1]}" __complete -- "${(@)words[2,CURRENT]}" 2>/dev/null)}")
  compadd -a found || _files
}
compdef _sallyportctl sallyportctl
`,
	"fish": `function __sallyportctl_complete
  set -l words (commandline -opc) (commandline -ct)
  $words[1] __complete -- $words[2..-1] 2>/dev/null
end
complete -c sallyportctl -a '(__sallyportctl_complete)'
`,
}

func completion() *cli.Command {
	return &cli.Command{
		Name: "completion", Usage: "print a script that completes commands, flags and names: bash, zsh or fish", ArgsUsage: "SHELL", HideHelpCommand: true,
		Description:  "Example:\n  source <(sallyportctl completion bash)",
		OnUsageError: func(c *cli.Context, err error, _ bool) error { return usage(c, err) },
		Action: func(c *cli.Context) error {
			script, ok := completionScripts[c.Args().First()]
			if !ok || c.NArg() != 1 {
				return process.WithExitCode(process.Hint(fmt.Errorf("no script for shell %q", c.Args().First()), "one of bash, zsh, fish"), process.Misused)
			}
			_, err := fmt.Fprint(c.App.Writer, script)
			return err
		},
	}
}

func complete() *cli.Command {
	return &cli.Command{
		Name: "__complete", Hidden: true, HideHelpCommand: true, SkipFlagParsing: true,
		Action: func(c *cli.Context) error {
			words := c.Args().Slice()
			if len(words) > 0 && words[0] == "--" {
				words = words[1:]
			}
			for _, candidate := range candidates(c, words) {
				fmt.Fprintln(c.App.Writer, candidate)
			}
			return nil
		},
	}
}

// candidates are what may stand in place of the last word.
func candidates(c *cli.Context, words []string) []string {
	if len(words) == 0 {
		words = []string{""}
	}
	last := words[len(words)-1]
	commands, flags := c.App.Commands, c.App.Flags
	args, given, valueOf := []string{}, 0, ""
	for _, w := range words[:len(words)-1] {
		switch {
		case valueOf != "":
			if valueOf == "socket" || valueOf == "home" || valueOf == "profile" {
				_ = c.Set(valueOf, w) // names come from there; one that cannot be set gives none
			}
			valueOf = ""
		case strings.HasPrefix(w, "-"):
			valueOf = takesValue(append(slices.Clone(flags), c.App.Flags...), w)
		default:
			i := slices.IndexFunc(commands, func(x *cli.Command) bool { return x.HasName(w) })
			if i < 0 {
				given++
				continue
			}
			x := commands[i]
			commands, flags, args = x.Subcommands, x.Flags, strings.Fields(x.ArgsUsage)
		}
	}
	switch {
	case valueOf != "":
		return names(c, valueOf)
	case strings.HasPrefix(last, "-"):
		var out []string
		for _, f := range append(slices.Clone(flags), c.App.Flags...) {
			out = append(out, "--"+f.Names()[0])
		}
		return out
	case len(commands) > 0:
		var out []string
		for _, x := range commands {
			if !x.Hidden {
				out = append(out, x.Name)
			}
		}
		return out
	case given < len(args):
		return names(c, strings.ToLower(args[given]))
	}
	return nil
}

// takesValue is the flag whose value the next word is, "" for none.
func takesValue(flags []cli.Flag, word string) string {
	name, _, has := strings.Cut(strings.TrimLeft(word, "-"), "=")
	for _, f := range flags {
		if _, isBool := f.(*cli.BoolFlag); !isBool && !has && slices.Contains(f.Names(), name) {
			return f.Names()[0]
		}
	}
	return ""
}

// names asks the coordinator what there is of a kind; without one, there is
// nothing to offer.
func names(c *cli.Context, kind string) []string {
	switch kind {
	case "output":
		return formats
	case "shell":
		return []string{"bash", "zsh", "fish"}
	case "kind":
		return []string{"all", "projects", "users", "groups", "roles", "clusters", "grants"}
	case "user", "group", "project", "cluster", "role", "grant", "device", "session", "token", "agent":
	default:
		return nil
	}
	s, err := connectTo(c)
	if err != nil {
		return nil
	}
	var out []string
	switch kind {
	case "user":
		if res, err := s.admin.ListUsers(c.Context, connect.NewRequest(&apiv1.ListUsersRequest{})); err == nil {
			for _, x := range res.Msg.Users {
				out = append(out, x.Name)
			}
		}
	case "group":
		if res, err := s.admin.ListGroups(c.Context, connect.NewRequest(&apiv1.ListGroupsRequest{})); err == nil {
			for _, x := range res.Msg.Groups {
				out = append(out, x.Name)
			}
		}
	case "project":
		if res, err := s.admin.ListProjects(c.Context, connect.NewRequest(&apiv1.ListProjectsRequest{})); err == nil {
			for _, x := range res.Msg.Projects {
				out = append(out, x.Name)
			}
		}
	case "cluster", "agent":
		if res, err := s.admin.ListClusters(c.Context, connect.NewRequest(&apiv1.ListClustersRequest{})); err == nil {
			for _, x := range res.Msg.Clusters {
				if kind == "cluster" {
					out = append(out, x.Cluster.Name)
					continue
				}
				for _, a := range x.Agents {
					out = append(out, a.Agent.Id)
				}
			}
		}
	case "role":
		if res, err := s.admin.ListRoles(c.Context, connect.NewRequest(&apiv1.ListRolesRequest{})); err == nil {
			for _, x := range res.Msg.Roles {
				out = append(out, x.Name)
			}
		}
	default:
		out = idsOf(c, s, kind)
	}
	return out
}

func idsOf(c *cli.Context, s *session, kind string) (out []string) {
	switch kind {
	case "grant":
		if res, err := s.admin.ListGrants(c.Context, connect.NewRequest(&apiv1.ListGrantsRequest{})); err == nil {
			for _, x := range res.Msg.Grants {
				out = append(out, x.Grant.Id)
			}
		}
	case "device":
		if res, err := s.admin.ListDevices(c.Context, connect.NewRequest(&apiv1.ListDevicesRequest{})); err == nil {
			for _, x := range res.Msg.Devices {
				out = append(out, x.Device.Id)
			}
		}
	case "session":
		if res, err := s.admin.ListSessions(c.Context, connect.NewRequest(&apiv1.ListSessionsRequest{})); err == nil {
			for _, x := range res.Msg.Sessions {
				out = append(out, x.Session.Id)
			}
		}
	case "token":
		if res, err := s.admin.ListJoinTokens(c.Context, connect.NewRequest(&apiv1.ListJoinTokensRequest{})); err == nil {
			for _, x := range res.Msg.Tokens {
				out = append(out, x.Id)
			}
		}
	}
	return out
}
