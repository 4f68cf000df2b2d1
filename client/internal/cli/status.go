package cli

import (
	"encoding/json"
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/sallyport-mesh/sallyport/client/internal/daemon"
	"github.com/sallyport-mesh/sallyport/client/internal/kubeconfig"
	"github.com/sallyport-mesh/sallyport/client/internal/localapi"
	"github.com/sallyport-mesh/sallyport/pkg/process"
)

func statusCommand() *cli.Command {
	return verb(cli.Command{
		Name:  "status",
		Usage: "show who you are, which clusters are open, and what is wrong",
		Description: "Ends with an error when kubectl cannot work: not logged in, no daemon, not joined.\n\n" +
			"Example: sallyport status -o json",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "output", Aliases: []string{"o"}, Value: "text", Usage: "`FORMAT`: text or json"},
		},
	}, 0, runStatus)
}

func runStatus(c *cli.Context, h *here) error {
	format := c.String("output")
	if format != "text" && format != "json" {
		return process.Usage("there is no output format %q: text or json", format)
	}
	p, err := h.home.LoadSession(time.Now())
	if err != nil {
		return err
	}
	st, err := h.running(c.Context)
	if err != nil {
		return err
	}
	if st == nil {
		st = &localapi.Status{
			State: localapi.Stopped, Problem: localapi.ErrNotRunning.Error(), Coordinator: p.Link().URL,
			UserName: p.Session.UserName, UserID: p.Session.UserID, DeviceID: p.Session.DeviceID,
			SessionID: p.Session.ID, Expires: p.Session.Expires, Clusters: daemon.Remembered(h.home, p),
		}
	}
	if format == "json" {
		enc := json.NewEncoder(h.out)
		enc.SetIndent("", "  ")
		if err := enc.Encode(st); err != nil {
			return fmt.Errorf("printing status: %w", err)
		}
	} else {
		h.text(*st)
	}
	return st.Err()
}

func (h *here) text(st localapi.Status) {
	heard := "not heard now"
	if st.Connected {
		heard = "connected"
	}
	w := tabwriter.NewWriter(h.out, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "user\t%s\n", st.UserName)
	fmt.Fprintf(w, "until\t%s\n", when(st.Expires))
	fmt.Fprintf(w, "coordinator\t%s, %s\n", st.Coordinator, heard)
	fmt.Fprintf(w, "daemon\t%s\n", strings.TrimSpace(string(st.State)+" "+strings.Join(st.Addresses, " ")))
	_ = w.Flush() // to the terminal
	if len(st.Clusters) > 0 {
		h.say("")
		h.clusters(st)
	}
	h.problems(st)
}

func (h *here) clusters(st localapi.Status) {
	w := tabwriter.NewWriter(h.out, 0, 0, 3, ' ', 0)
	fmt.Fprintln(w, "CONTEXT\tPROJECT\tROLES\tPATH")
	for _, c := range st.Clusters {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", c.Context, c.Project, strings.Join(c.Roles, ", "), way(c))
	}
	_ = w.Flush() // to the terminal
}

// way is how packets get to a cluster, in a word or two.
func way(c localapi.Cluster) string {
	var ways []string
	for _, p := range c.Paths {
		w := p.Kind
		if p.Latency > 0 {
			w += fmt.Sprintf(", %.1f ms", float64(p.Latency.Microseconds())/1000)
		}
		ways = append(ways, w)
	}
	switch {
	case len(ways) > 0:
		return strings.Join(ways, "; ")
	case !c.Online:
		return "agent offline"
	}
	return "-"
}

func (h *here) problems(st localapi.Status) {
	if st.Problem != "" && st.State != localapi.Stopped && st.State != localapi.Ended {
		fmt.Fprintf(h.out, "\nproblem: %s\n", st.Problem)
	}
	for _, name := range st.Blocked {
		fmt.Fprintf(h.out, "\nproblem: %s holds an entry %s that is not ours; rename or remove it, then: sallyport %s\n",
			st.Kubeconfig, strings.TrimPrefix(name, kubeconfig.Prefix), "kubeconfig write")
	}
}
