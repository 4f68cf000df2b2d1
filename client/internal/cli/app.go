package cli

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/sallyport-mesh/sallyport/client/internal/daemon"
	"github.com/sallyport-mesh/sallyport/client/internal/localapi"
	"github.com/sallyport-mesh/sallyport/pkg/process"
	"github.com/sallyport-mesh/sallyport/pkg/profile"
)

// Run runs one command line. Version is this program's, "0.1.0".
func Run(ctx context.Context, version string, args []string) error {
	app := newApp(version, os.Stdout, os.Stderr)
	return app.RunContext(ctx, process.Arrange(app, args))
}

func newApp(version string, stdout, stderr io.Writer) *cli.App {
	return &cli.App{
		Name:    "sallyport",
		Usage:   "reach your Kubernetes clusters through Sallyport",
		Version: version,
		Description: "sallyport login https://coordinator.example.com   once a day\n" +
			"sallyport up                                      then kubectl works as always:\n" +
			"kubectl --context sallyport/edge-1 get pods\n\n" +
			profile.Variable + " names the directory for all of its state (default ~/.sallyport).",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "profile", Usage: "work with the coordinator of profile `NAME` (default: $" + profile.NameVariable + ")"},
		},
		Commands: []*cli.Command{
			loginCommand(), upCommand(), statusCommand(), clustersCommand(), useCommand(), kubeconfigCommand(), profilesCommand(),
			downCommand(), logoutCommand(), versionCommand(), credentialCommand(), daemonCommand(),
		},
		Action:          unknown,
		HideVersion:     true,
		HideHelpCommand: true,
		Writer:          stdout,
		ErrWriter:       stderr,
		ExitErrHandler:  func(*cli.Context, error) {}, // process prints it
		OnUsageError:    usage,
	}
}

// unknown is what runs when no command matches.
func unknown(c *cli.Context) error {
	if c.Args().Len() == 0 && nested(c) {
		return cli.ShowSubcommandHelp(c)
	}
	if c.Args().Len() == 0 {
		return cli.ShowAppHelp(c)
	}
	return process.Hint(process.Usage("there is no command %q", c.Args().First()), line(c)+" --help")
}

func usage(c *cli.Context, err error, _ bool) error {
	return process.Hint(process.WithExitCode(err, process.Misused), line(c)+" --help")
}

func nested(c *cli.Context) bool {
	return c.Command != nil && c.Command.Name != "" && c.Command.Name != "sallyport"
}

// line is what was typed to get to the command.
func line(c *cli.Context) string {
	if nested(c) {
		return "sallyport " + c.Command.Name
	}
	return "sallyport"
}

// verb makes a command of ours: its example is in its help, and arguments that
// it does not know are refused.
func verb(c cli.Command, args int, run func(*cli.Context, *here) error) *cli.Command {
	c.HideHelpCommand = true
	c.OnUsageError = usage
	c.Action = func(ctx *cli.Context) error {
		if n := ctx.Args().Len(); n > args {
			return process.Hint(process.Usage("%q is one argument too many", ctx.Args().Get(args)), "sallyport "+c.Name+" --help")
		}
		h, err := locate(ctx)
		if err != nil {
			return process.Otherwise(err, "sallyport "+c.Name+" --help")
		}
		return process.MapHints(process.Otherwise(run(ctx, h), "sallyport "+c.Name+" --help"), h.command)
	}
	return &c
}

// here is the home that a command works on.
type here struct {
	home    profile.Home
	daemon  *localapi.Client
	version string
	out     io.Writer
	err     io.Writer
}

func locate(c *cli.Context) (*here, error) {
	h, err := hereIn("", c.String("profile"))
	if err != nil {
		return nil, err
	}
	h.version, h.out, h.err = c.App.Version, c.App.Writer, c.App.ErrWriter
	return h, nil
}

func hereIn(dir, name string) (*here, error) {
	home, err := profile.FindProfile(dir, name)
	if err != nil {
		return nil, err
	}
	return &here{home: home, daemon: localapi.NewClient(home.Path(daemon.SocketFile))}, nil
}

func (h *here) say(format string, args ...any) {
	fmt.Fprintf(h.out, format+"\n", args...)
}

// command is a command line of ours as it has to be typed in this profile.
func (h *here) command(line string) string {
	if rest, ours := strings.CutPrefix(line, "sallyport "); ours && h.home.Name() != "" {
		return "sallyport --profile " + h.home.Name() + " " + rest
	}
	return line
}

// self is this program's path, for those that start it again.
func self() (string, error) {
	path, err := os.Executable()
	if err != nil {
		return "", fmt.Errorf("finding this program: %w", err)
	}
	return path, nil
}
