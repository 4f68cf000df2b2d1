// Package ctl is sallyportctl: the coordinator's admin API from a terminal.
//
// It speaks to the coordinator of the login in SALLYPORT_HOME with that
// session's certificate, from any machine; on the coordinator's own host it can
// use the bootstrap socket instead, which is how the first administrator comes
// to be. What a person may do is decided by the coordinator alone.
package ctl

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"time"

	"connectrpc.com/connect"
	"github.com/urfave/cli/v2"

	"github.com/sallyport-mesh/sallyport/pkg/api/sallyport/v1/apiv1connect"
	"github.com/sallyport-mesh/sallyport/pkg/apiclient"
	"github.com/sallyport-mesh/sallyport/pkg/process"
	"github.com/sallyport-mesh/sallyport/pkg/profile"
)

// App is the command line. Version is shown by --version.
func App(version string, stdout, stderr io.Writer) *cli.App {
	cli.VersionPrinter = func(c *cli.Context) { fmt.Fprintln(c.App.Writer, "sallyportctl", version) }
	return &cli.App{
		Name:                   "sallyportctl",
		Usage:                  "administer a Sallyport coordinator",
		Version:                version,
		Writer:                 stdout,
		ErrWriter:              stderr,
		HideHelpCommand:        true,
		UseShortOptionHandling: true,
		Description: "Works with the login of this SALLYPORT_HOME (see: sallyport login), or on the\n" +
			"coordinator's host through its socket.\n\n" +
			"Example:\n  sallyportctl user suspend shivam --project aws",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "socket", Usage: "use the coordinator's local socket at `PATH`", EnvVars: []string{"SALLYPORT_SOCKET"}},
			&cli.StringFlag{Name: "home", Usage: "client state `DIR` whose login is used", EnvVars: []string{"SALLYPORT_HOME"}},
			&cli.StringFlag{Name: "profile", Usage: "use the login of profile `NAME`", EnvVars: []string{"SALLYPORT_PROFILE"}},
			&cli.StringFlag{Name: "output", Aliases: []string{"o"}, Value: "table", Usage: "`FORMAT`: table, json, yaml or name"},
		},
		Before: func(c *cli.Context) error {
			if slices.Contains(formats, c.String("output")) {
				return nil
			}
			return process.WithExitCode(process.Hint(fmt.Errorf("--output %q is not known", c.String("output")),
				"use table, json, yaml or name"), process.Misused)
		},
		OnUsageError: func(c *cli.Context, err error, _ bool) error { return usage(c, err) },
		Commands: []*cli.Command{
			whoami(), users(), groups(), projects(), clusters(), roles(), grants(), devices(), sessions(), tokens(), authority(), audit(), why(), get(), diff(), apply(), importUsers(), completion(), complete(),
		},
		Action: func(c *cli.Context) error {
			if c.Args().Present() {
				return usage(c, fmt.Errorf("no command %q", c.Args().First()))
			}
			return cli.ShowAppHelp(c)
		},
		ExitErrHandler: func(*cli.Context, error) {},
	}
}

// usage is an error of the person's typing.
func usage(c *cli.Context, err error) error {
	name := "sallyportctl"
	if c.Command != nil && c.Command.HelpName != "" {
		name = c.Command.HelpName
	}
	return process.WithExitCode(process.Hint(err, name+" --help"), process.Misused)
}

// noun is a command that only groups others.
func noun(name, about string, commands ...*cli.Command) *cli.Command {
	return &cli.Command{
		Name: name, Usage: about, Subcommands: commands, HideHelpCommand: true,
		OnUsageError: func(c *cli.Context, err error, _ bool) error { return usage(c, err) },
		Action: func(c *cli.Context) error {
			if c.Args().Present() {
				return usage(c, fmt.Errorf("no command %q under %s", c.Args().First(), name))
			}
			return cli.ShowSubcommandHelp(c)
		},
	}
}

// verb is a command with exactly the arguments that args names, and the flags
// that it cannot do without marked as required.
func verb(name, about, example string, args []string, flags []cli.Flag, run func(*cli.Context, *session) error) *cli.Command {
	argsUsage := ""
	for _, a := range args {
		argsUsage += a + " "
	}
	var required []string
	for _, f := range flags {
		if f, ok := f.(*cli.StringFlag); ok && f.Required {
			f.Required = false // checked below, where the error can say what to do
			required = append(required, f.Name)
		}
	}
	return &cli.Command{
		Name: name, Usage: about, ArgsUsage: argsUsage, Flags: flags, HideHelpCommand: true,
		Description:  "Example:\n  " + example,
		OnUsageError: func(c *cli.Context, err error, _ bool) error { return usage(c, err) },
		Action: func(c *cli.Context) error {
			if c.NArg() < len(args) {
				return usage(c, fmt.Errorf("%s is missing", args[c.NArg()]))
			}
			if c.NArg() > len(args) {
				return usage(c, fmt.Errorf("unexpected argument %q", c.Args().Get(len(args))))
			}
			for _, name := range required {
				if c.String(name) == "" {
					return usage(c, fmt.Errorf("--%s is missing", name))
				}
			}
			s, err := connectTo(c)
			if err == nil {
				err = run(c, s)
			}
			if _, ok := errors.AsType[*connect.Error](err); ok {
				err = apiclient.Explain(s.url, err)
			}
			return process.Otherwise(coded(err), c.Command.HelpName+" --help")
		},
	}
}

// session is a connection to the admin API.
type session struct {
	admin apiv1connect.AdminServiceClient
	url   string
}

func connectTo(c *cli.Context) (*session, error) {
	cfg := apiclient.Config{Agent: "sallyportctl/" + c.App.Version}
	if path := c.String("socket"); path != "" {
		if _, err := os.Stat(path); err != nil {
			return nil, process.Hint(fmt.Errorf("opening the coordinator's socket: %w", err), "is the coordinator running on this host, and may you open its data directory?")
		}
		cfg.Socket = path
	} else {
		home, err := profile.FindProfile(c.String("home"), c.String("profile"))
		if err != nil {
			return nil, err
		}
		p, err := home.LoadSession(time.Now())
		if err != nil {
			if errors.Is(err, profile.ErrNotLoggedIn) {
				err = process.Hint(err, "on the coordinator's host: sallyportctl --socket <data dir>/admin.sock …")
			}
			return nil, err
		}
		cert, err := home.Certificate(p.Session)
		if err != nil {
			return nil, err
		}
		cfg.Link, cfg.RootPEM = p.Link(), p.Trust()
		cfg.Certificate = func() (*tls.Certificate, error) { return cert, nil }
	}
	client, err := apiclient.New(cfg)
	if err != nil {
		return nil, err
	}
	s := &session{admin: client.Admin(), url: client.URL}
	if cfg.Socket != "" {
		s.url = cfg.Socket
	}
	return s, nil
}

// Run runs the command line with args, os.Args without the program's name.
func Run(ctx context.Context, version string, args []string, stdout, stderr io.Writer) error {
	app := App(version, stdout, stderr)
	return app.RunContext(ctx, process.Arrange(app, append([]string{"sallyportctl"}, args...)))
}
