package cli

import (
	"encoding/json"
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/sallyport-mesh/sallyport/client/internal/daemon"
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
		w, err := daemon.AsWanted(h.home)
		if err != nil {
			return err
		}
		if w != nil {
			st.Wanted, st.Kubeconfig = true, w.Kubeconfig
		}
	}
	if format == "json" {
		enc := json.NewEncoder(h.out)
		enc.SetIndent("", "  ")
		if err := enc.Encode(st); err != nil {
			return fmt.Errorf("printing status: %w", err)
		}
		return st.Err()
	}
	current, err := h.current(c)
	if err != nil {
		st.Warnings = append(st.Warnings, localapi.Warning{Text: err.Error()})
	}
	h.text(*st, current)
	return st.Err()
}

func (h *here) text(st localapi.Status, current string) {
	w := tabwriter.NewWriter(h.out, 0, 0, 2, ' ', 0)
	if h.home.Name() != "" {
		fmt.Fprintf(w, "profile\t%s\n", h.home.Name())
	}
	fmt.Fprintf(w, "user\t%s\n", st.UserName)
	fmt.Fprintf(w, "until\t%s\n", when(st.Expires))
	fmt.Fprintf(w, "coordinator\t%s\n", st.Coordinator+heard(st))
	fmt.Fprintf(w, "daemon\t%s\n", doing(st))
	if st.Kubeconfig != "" {
		fmt.Fprintf(w, "kubeconfig\t%s\n", st.Kubeconfig)
	}
	_ = w.Flush() // to the terminal
	switch {
	case len(st.Clusters) > 0:
		h.say("")
		h.table(st.Clusters, current, st.State == localapi.Joined)
	case st.State == localapi.Joined:
		h.say("\nNo cluster is open to you.")
	}
	h.problems(st)
}

// heard says whether the coordinator is, where a daemon could know.
func heard(st localapi.Status) string {
	switch {
	case st.Connected:
		return ", connected"
	case st.State == localapi.Joined, st.State == localapi.Joining:
		return ", not heard now"
	}
	return ""
}

func doing(st localapi.Status) string {
	switch {
	case st.State == localapi.Stopped && st.Wanted:
		return "stopped; the next kubectl starts it"
	case st.State == localapi.Ended:
		return "waits for a login"
	}
	return strings.TrimSpace(string(st.State) + " " + strings.Join(st.Addresses, " "))
}

// way is how packets get to a cluster, in a word or two.
func way(c localapi.Cluster) string {
	var ways []string
	for _, p := range c.Paths {
		w := p.Kind
		switch {
		case p.Silent && !c.Online:
			w = "agent offline"
		case p.Silent:
			w = "no answer"
		case p.Latency > 0:
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
	for _, w := range st.Warnings {
		h.say("\nwarning: %s", w.Text)
		if w.Hint != "" {
			h.say("hint: %s", h.command(w.Hint))
		}
	}
	for _, name := range st.Blocked {
		h.say("\nwarning: %s holds an entry %s that is not ours, so the cluster is not there\nhint: rename or remove it, then: %s",
			st.Kubeconfig, name, h.command("sallyport kubeconfig write"))
	}
}
