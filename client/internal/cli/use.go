package cli

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/sallyport-mesh/sallyport/client/internal/kubeconfig"
	"github.com/sallyport-mesh/sallyport/client/internal/localapi"
	"github.com/sallyport-mesh/sallyport/pkg/process"
)

func useCommand() *cli.Command {
	return verb(cli.Command{
		Name:      "use",
		Usage:     "make a cluster the one that kubectl uses when it is told nothing",
		ArgsUsage: "CLUSTER",
		Description: "Sets current-context in the kubeconfig that the daemon keeps, and with -n the context's namespace.\n\n" +
			"Example: sallyport use edge-1 -n web",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "namespace", Aliases: []string{"n"}, Usage: "work in namespace `NAME` from now on"},
			&cli.StringFlag{Name: "kubeconfig", Usage: "`FILE` to work on (default: the one that the daemon keeps)"},
		},
	}, 1, runUse)
}

var namespacePattern = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)

func runUse(c *cli.Context, h *here) error {
	name, namespace := c.Args().First(), c.String("namespace")
	switch {
	case name == "":
		return process.Hint(process.Usage("the name of the cluster is missing"), "sallyport clusters shows those that are open to you")
	case c.IsSet("namespace") && !namespacePattern.MatchString(namespace):
		return process.Usage("%q is not the name of a namespace", namespace)
	}
	clusters, _, err := h.openClusters(c)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(clusters, func(cl localapi.Cluster) bool { return cl.Name == name || cl.Context == name })
	if i < 0 {
		return process.Hint(fmt.Errorf("no cluster %q is open to you", name), "sallyport clusters shows those that are")
	}
	path, err := h.kept(c)
	if err != nil {
		return err
	}
	context := clusters[i].Context
	err = kubeconfig.File{Path: path, Owner: h.home.Dir()}.Use(c.Context, context, namespace)
	if errors.Is(err, kubeconfig.ErrNoContext) {
		return process.Hint(fmt.Errorf("%s holds no context %s of ours", path, context), "sallyport kubeconfig write")
	}
	if err != nil {
		return err
	}
	where := ""
	if namespace != "" {
		where = ", in namespace " + namespace
	}
	h.say("kubectl uses %s now%s.", context, where)
	return h.shadowed(context, path)
}

// shadowed warns where another file of $KUBECONFIG decides about the current
// context: the first that names one does.
func (h *here) shadowed(context, path string) error {
	for _, p := range kubeconfig.Paths() {
		if p == path {
			return nil
		}
		current, err := kubeconfig.File{Path: p}.Current()
		if err == nil && current != "" && current != context {
			return process.Hint(fmt.Errorf("%s comes first in $KUBECONFIG and says %s", p, current),
				"kubectl config use-context "+strings.TrimSpace(context))
		}
	}
	return nil
}
