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
	"github.com/sallyport-mesh/sallyport/pkg/process"
)

// remover makes the verb that removes something people name. What goes with it
// is shown first; it is removed once somebody at a terminal has said yes, or with
// --yes.
func remover(kind, about string, run func(c *cli.Context, s *session, ref string) error, flags ...cli.Flag) *cli.Command {
	return verb("remove", about, "sallyportctl "+kind+" remove "+exampleName[kind], []string{strings.ToUpper(kind)},
		append(flags,
			&cli.BoolFlag{Name: "yes", Aliases: []string{"y"}, Usage: "do not ask"},
			&cli.BoolFlag{Name: "dry-run", Usage: "show what would go, and remove nothing"}),
		func(c *cli.Context, s *session) error {
			ref := c.Args().First()
			if c.Bool("yes") && !c.Bool("dry-run") {
				return run(c, s, ref)
			}
			res, err := s.admin.PreviewRemoval(c.Context, connect.NewRequest(&apiv1.PreviewRemovalRequest{
				Kind: kind, Ref: ref, WithGrants: c.Bool("with-grants"),
			}))
			if err != nil {
				return err
			}
			if c.Bool("dry-run") {
				return showConsequences(c, res.Msg)
			}
			w := c.App.ErrWriter
			fmt.Fprintf(w, "removing %s %s takes along:\n", kind, clean(ref))
			if err := table(w, consequenceHeader, consequenceRows(res.Msg)); err != nil {
				return err
			}
			stdin, ok := c.App.Reader.(*os.File)
			if !ok || !term.IsTerminal(int(stdin.Fd())) {
				return process.WithExitCode(process.Hint(errors.New("nothing was removed: there is no terminal to ask on"),
					fmt.Sprintf("sallyportctl %s remove %s --yes", kind, ref)), process.Misused)
			}
			fmt.Fprintf(w, "remove %s %s? [y/N] ", kind, clean(ref))
			answer, err := bufio.NewReader(io.LimitReader(stdin, 64)).ReadString('\n')
			if err != nil && !errors.Is(err, io.EOF) {
				return fmt.Errorf("reading the answer: %w", err)
			}
			if a := strings.ToLower(strings.TrimSpace(answer)); a != "y" && a != "yes" {
				return process.Hint(errors.New("nothing was removed"), "answer y, or give --yes")
			}
			return run(c, s, ref)
		})
}

var exampleName = map[string]string{
	"user": "shivam", "group": "aws-members", "project": "aws", "cluster": "edge-1", "role": "web-operator",
}

var consequenceHeader = []string{"KIND", "WHAT", "NAME", "ID"}

func showConsequences(c *cli.Context, res *apiv1.PreviewRemovalResponse) error {
	return show(c, res, consequenceHeader, consequenceRows(res))
}

func consequenceRows(res *apiv1.PreviewRemovalResponse) [][]string {
	var rows [][]string
	for _, x := range res.Consequences {
		rows = append(rows, []string{x.Kind, x.What, x.Name, x.Id})
	}
	return rows
}
