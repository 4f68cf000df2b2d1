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

func clustersCommand() *cli.Command {
	return verb(cli.Command{
		Name:  "clusters",
		Usage: "list the clusters that are open to you",
		Description: "The one that kubectl uses when it is told nothing has a star. Without a daemon these are the clusters\n" +
			"as last heard.\n\n" +
			"Example: sallyport clusters -o name",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "output", Aliases: []string{"o"}, Value: "table", Usage: "`FORMAT`: table, json or name"},
		},
	}, 0, runClusters)
}

// listed is a cluster as programs read it.
type listed struct {
	localapi.Cluster
	Current bool `json:"current"`
}

func runClusters(c *cli.Context, h *here) error {
	format := c.String("output")
	if format != "table" && format != "json" && format != "name" {
		return process.Usage("there is no output format %q: table, json or name", format)
	}
	clusters, live, err := h.openClusters(c)
	if err != nil {
		return err
	}
	current, err := h.current(c)
	if err != nil {
		return err
	}
	switch format {
	case "name":
		for _, cl := range clusters {
			h.say("%s", cl.Name)
		}
		return nil
	case "json":
		all := []listed{}
		for _, cl := range clusters {
			all = append(all, listed{cl, cl.Context == current})
		}
		enc := json.NewEncoder(h.out)
		enc.SetIndent("", "  ")
		if err := enc.Encode(all); err != nil {
			return fmt.Errorf("printing clusters: %w", err)
		}
		return nil
	}
	if len(clusters) == 0 {
		h.say("No cluster is open to you.")
		return nil
	}
	h.table(clusters, current, live)
	return nil
}

// openClusters asks the daemon; without one they are as last heard, and not live.
func (h *here) openClusters(c *cli.Context) (clusters []localapi.Cluster, live bool, err error) {
	p, err := h.home.LoadSession(time.Now())
	if err != nil {
		return nil, false, err
	}
	st, err := h.running(c.Context)
	switch {
	case err != nil:
		return nil, false, err
	case st == nil:
		return daemon.Remembered(h.home, p), false, nil
	case st.State == localapi.Ended:
		return nil, false, st.Err()
	}
	return st.Clusters, st.State == localapi.Joined, nil
}

// current is kubectl's current context in the kubeconfig that is kept.
func (h *here) current(c *cli.Context) (string, error) {
	path, err := h.kept(c)
	if err != nil {
		return "", err
	}
	return kubeconfig.File{Path: path, Owner: h.home.Dir()}.Current()
}

func (h *here) table(clusters []localapi.Cluster, current string, live bool) {
	w := tabwriter.NewWriter(h.out, 0, 0, 3, ' ', 0)
	fmt.Fprintln(w, "  CONTEXT\tPROJECT\tROLES\tPATH")
	for _, cl := range clusters {
		mark, path := " ", "-"
		if cl.Context == current {
			mark = "*"
		}
		if live {
			path = way(cl)
		}
		fmt.Fprintf(w, "%s %s\t%s\t%s\t%s\n", mark, cl.Context, cl.Project, strings.Join(cl.Roles, ", "), path)
	}
	_ = w.Flush() // to the terminal
}
