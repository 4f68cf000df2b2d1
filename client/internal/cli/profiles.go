package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"text/tabwriter"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/sallyport-mesh/sallyport/client/internal/daemon"
	"github.com/sallyport-mesh/sallyport/client/internal/localapi"
	"github.com/sallyport-mesh/sallyport/pkg/process"
	"github.com/sallyport-mesh/sallyport/pkg/profile"
)

func profilesCommand() *cli.Command {
	return verb(cli.Command{
		Name:  "profiles",
		Usage: "list your profiles, one for each coordinator",
		Description: "A profile has a login and a daemon of its own, and contexts named sallyport/PROFILE/CLUSTER. It begins with a login.\n\n" +
			"Example: sallyport --profile work login https://sallyport.example.com:8443",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "output", Aliases: []string{"o"}, Value: "table", Usage: "`FORMAT`: table, json or name"},
		},
	}, 0, runProfiles)
}

// profileLine is a profile as programs read it.
type profileLine struct {
	Name        string         `json:"name"`
	Selected    bool           `json:"selected"`
	Home        string         `json:"home"`
	Coordinator string         `json:"coordinator,omitempty"`
	UserName    string         `json:"user,omitempty"`
	Expires     *time.Time     `json:"expires,omitempty"`
	Daemon      localapi.State `json:"daemon"`
	Problem     string         `json:"problem,omitempty"`
}

func runProfiles(c *cli.Context, h *here) error {
	format := c.String("output")
	if format != "table" && format != "json" && format != "name" {
		return process.Usage("there is no output format %q: table, json or name", format)
	}
	homes, err := h.home.All()
	if err != nil {
		return err
	}
	all := []profileLine{}
	for _, home := range homes {
		all = append(all, describe(c, home, home.Dir() == h.home.Dir()))
	}
	switch format {
	case "name":
		for _, l := range all {
			h.say("%s", l.Name)
		}
	case "json":
		enc := json.NewEncoder(h.out)
		enc.SetIndent("", "  ")
		if err := enc.Encode(all); err != nil {
			return fmt.Errorf("printing profiles: %w", err)
		}
	default:
		w := tabwriter.NewWriter(h.out, 0, 0, 3, ' ', 0)
		fmt.Fprintln(w, "  PROFILE\tCOORDINATOR\tUSER\tUNTIL\tDAEMON")
		for _, l := range all {
			mark, until := " ", "-"
			if l.Selected {
				mark = "*"
			}
			if l.Expires != nil {
				until = when(*l.Expires)
			}
			fmt.Fprintf(w, "%s %s\t%s\t%s\t%s\t%s\n", mark, l.Name, orDash(l.Coordinator), orDash(l.UserName), until, orDash(string(l.Daemon)+problemOf(l)))
		}
		_ = w.Flush() // to the terminal
	}
	return nil
}

func describe(c *cli.Context, home profile.Home, selected bool) profileLine {
	l := profileLine{Name: home.Title(), Selected: selected, Home: home.Dir(), Daemon: localapi.Stopped}
	p, err := home.Load()
	switch {
	case errors.Is(err, profile.ErrNotLoggedIn):
		return l
	case err != nil:
		l.Problem = err.Error()
		return l
	}
	l.Coordinator = p.Link().URL
	if p.Session != nil {
		l.UserName, l.Expires = p.Session.UserName, &p.Session.Expires
	}
	st, err := localapi.NewClient(home.Path(daemon.SocketFile)).Status(c.Context)
	switch {
	case err == nil:
		l.Daemon, l.Problem = st.State, st.Problem
	case !errors.Is(err, localapi.ErrNotRunning):
		l.Problem = err.Error()
	}
	return l
}

func problemOf(l profileLine) string {
	if l.Problem == "" {
		return ""
	}
	return ": " + l.Problem
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
