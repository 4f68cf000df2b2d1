package ctl

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"connectrpc.com/connect"
	"github.com/urfave/cli/v2"
	"google.golang.org/protobuf/proto"

	"github.com/sallyport-mesh/sallyport/deploy/manifest"
	apiv1 "github.com/sallyport-mesh/sallyport/pkg/api/sallyport/v1"
	"github.com/sallyport-mesh/sallyport/pkg/pki"
	"github.com/sallyport-mesh/sallyport/pkg/process"
)

func clusters() *cli.Command {
	return noun("cluster", "clusters and the agents in them", clusterAdd(), clusterManifest(), clusterList(), clusterShow(), clusterChange(), clusterToken(), clusterRemove(), clusterRemoveAgent())
}

func clusterAdd() *cli.Command {
	return verb("add", "add a cluster and print the manifest that puts an agent into it",
		"sallyportctl cluster add --project aws edge-1 | kubectl apply -f -", []string{"NAME"},
		append([]cli.Flag{
			&cli.StringFlag{Name: "project", Required: true, Usage: "`PROJECT` it belongs to"},
			&cli.StringFlag{Name: "ceiling", Value: manifest.Admin, Usage: "the most that anyone can be granted there: view, edit or admin"},
		}, manifestFlags()...),
		func(c *cli.Context, s *session) error {
			params, err := manifestParams(c, c.Args().First(), c.String("ceiling"))
			if err != nil {
				return err
			}
			res, err := s.admin.CreateCluster(c.Context, connect.NewRequest(&apiv1.CreateClusterRequest{
				Name: params.Cluster, Project: c.String("project"), Ceiling: params.Ceiling,
				TokenTtlSeconds: uint32(c.Duration("token-ttl") / time.Second),
			}))
			if err != nil {
				return err
			}
			return printManifest(c, params, res.Msg.JoinToken, res.Msg)
		})
}

// clusterManifest is for a cluster that is there already: one that came from a
// file, or whose manifest was lost.
func clusterManifest() *cli.Command {
	return verb("manifest", "print a cluster's manifest again, with a new join token",
		"sallyportctl cluster manifest edge-1 | kubectl apply -f -", []string{"CLUSTER"}, manifestFlags(),
		func(c *cli.Context, s *session) error {
			ref := c.Args().First()
			all, err := s.admin.ListClusters(c.Context, connect.NewRequest(&apiv1.ListClustersRequest{}))
			if err != nil {
				return err
			}
			i := slices.IndexFunc(all.Msg.Clusters, func(x *apiv1.ClusterStatus) bool { return x.Cluster.Name == ref || x.Cluster.Id == ref })
			if i < 0 {
				return process.WithExitCode(process.Hint(fmt.Errorf("no cluster %q", ref), "sallyportctl cluster list shows what there is"), exitNotFound)
			}
			cluster := all.Msg.Clusters[i].Cluster
			params, err := manifestParams(c, cluster.Name, cluster.Ceiling)
			if err != nil {
				return err
			}
			res, err := s.admin.CreateJoinToken(c.Context, connect.NewRequest(&apiv1.CreateJoinTokenRequest{
				Cluster: cluster.Id, TtlSeconds: uint32(c.Duration("token-ttl") / time.Second),
			}))
			if err != nil {
				return err
			}
			return printManifest(c, params, res.Msg.JoinToken, res.Msg)
		})
}

// manifestFlags say how the agent is put into its cluster.
func manifestFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringSliceFlag{Name: "api-group", Usage: "API `GROUP` of custom resources to put under the ceiling; repeat for several"},
		&cli.StringFlag{Name: "image", Value: "sallyport-agent:latest", Usage: "agent `IMAGE`"},
		&cli.BoolFlag{Name: "empty-dir", Usage: "keep the agent's data with its pod, for clusters without storage"},
		&cli.StringFlag{Name: "beside", Usage: "the agent runs outside of the cluster: leave it out of the manifest and write its join token to `FILE`"},
		&cli.DurationFlag{Name: "token-ttl", Value: time.Hour, Usage: "how long the join token waits to be used"},
	}
}

// manifestParams checks everything that can be refused before a cluster or a
// token exists.
func manifestParams(c *cli.Context, cluster, ceiling string) (manifest.Params, error) {
	params := manifest.Params{
		Cluster: cluster, Image: c.String("image"), Ceiling: ceiling,
		ExtraGroups: c.StringSlice("api-group"), Beside: c.IsSet("beside"), EmptyDir: c.Bool("empty-dir"),
	}
	if params.Beside {
		params.Image = ""
	}
	if err := params.Check(); err != nil {
		return params, err
	}
	if file := c.String("beside"); params.Beside {
		if _, err := os.Stat(file); !errors.Is(err, fs.ErrNotExist) {
			return params, process.Hint(fmt.Errorf("--beside: %s is there already", file), "name a file that does not exist")
		}
	}
	return params, nil
}

// printManifest prints it with the token in it, or leaves the token in its file.
func printManifest(c *cli.Context, params manifest.Params, token string, answer proto.Message) error {
	params.JoinToken = token
	if params.Beside {
		if err := pki.WriteFile(c.String("beside"), []byte(token+"\n")); err != nil {
			return process.Hint(fmt.Errorf("cluster %s is there, but its token was not saved: %w", params.Cluster, err),
				"make another one: sallyportctl cluster token "+params.Cluster)
		}
	}
	if forPrograms(c) {
		return printMessage(c, answer)
	}
	text, err := manifest.Render(params)
	if err != nil {
		return err
	}
	_, err = c.App.Writer.Write(text)
	return err
}

func clusterList() *cli.Command {
	return verb("list", "list clusters and how their agents are", "sallyportctl cluster list --project aws", nil,
		[]cli.Flag{&cli.StringFlag{Name: "project", Usage: "only of `PROJECT`"}},
		func(c *cli.Context, s *session) error {
			res, err := s.admin.ListClusters(c.Context, connect.NewRequest(&apiv1.ListClustersRequest{Project: c.String("project")}))
			if err != nil {
				return err
			}
			var rows [][]string
			for _, cl := range res.Msg.Clusters {
				name := cl.Cluster.Name
				if cl.Cluster.Retired {
					name += " (being removed)"
				}
				row := []string{name, cl.Project, "no agent yet", "-", "-", "-"}
				for i, a := range cl.Agents {
					if i > 0 {
						row = []string{cl.Cluster.Name, cl.Project, "", "", "", ""}
					}
					row[2] = "away since " + when(a.LastSeen)
					if a.Online {
						row[2] = "online"
						if a.ConfirmedRevision < cl.BundleRevision {
							row[2] = "online, policy behind"
						}
					}
					row[3], row[4], row[5] = a.Agent.Id, strings.Join(a.OverlayAddresses, ", "), strconv.FormatUint(a.AuditSize, 10)
					rows = append(rows, row)
				}
				if len(cl.Agents) == 0 {
					rows = append(rows, row)
				}
			}
			return show(c, res.Msg, []string{"NAME", "PROJECT", "AGENT", "ID", "OVERLAY", "RECORDS"}, rows)
		})
}

func clusterToken() *cli.Command {
	return verb("token", "make a join token for another replica, or in place of one that ran out",
		"sallyportctl cluster token edge-1", []string{"CLUSTER"},
		[]cli.Flag{&cli.DurationFlag{Name: "ttl", Value: time.Hour, Usage: "how long it waits to be used"}},
		func(c *cli.Context, s *session) error {
			res, err := s.admin.CreateJoinToken(c.Context, connect.NewRequest(&apiv1.CreateJoinTokenRequest{
				Cluster: c.Args().First(), TtlSeconds: uint32(c.Duration("ttl") / time.Second),
			}))
			if err != nil {
				return err
			}
			if forPrograms(c) {
				return printMessage(c, res.Msg)
			}
			fmt.Fprintln(c.App.Writer, res.Msg.JoinToken)
			return nil
		})
}

func clusterRemove() *cli.Command {
	return remover("cluster", "remove a cluster with its agents and grants, once the agents have taken down what they made",
		func(c *cli.Context, s *session, ref string) error {
			stream, err := s.admin.DeleteCluster(c.Context, connect.NewRequest(&apiv1.DeleteClusterRequest{Cluster: ref, Force: c.Bool("force")}))
			if err != nil {
				return err
			}
			return retired(effects(c, stream), c)
		}, &cli.BoolFlag{Name: "force", Usage: "do not insist on the agents: one that is away is never heard again"})
}

// retired says what becomes of a cluster that some agent has not left yet.
func retired(err error, c *cli.Context) error {
	if process.ExitCode(err) != exitUnconfirmed || c.Bool("force") {
		return err
	}
	name := c.Args().First()
	return process.WithExitCode(process.Hint(fmt.Errorf("nobody has access to %s any more, but it stays until its agents have cleaned up", name),
		"when they were heard, or with --force for good: sallyportctl cluster remove "+name), exitUnconfirmed)
}

func clusterRemoveAgent() *cli.Command {
	return verb("remove-agent", "take one replica out of service for good: a stolen or dead one",
		"sallyportctl cluster remove-agent agt-k3v5n2q7a4x6b2zt", []string{"AGENT"}, nil,
		func(c *cli.Context, s *session) error {
			_, err := s.admin.RemoveAgent(c.Context, connect.NewRequest(&apiv1.RemoveAgentRequest{Agent: c.Args().First()}))
			return err
		})
}
