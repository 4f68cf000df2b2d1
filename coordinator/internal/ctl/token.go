package ctl

import (
	"time"

	"connectrpc.com/connect"
	"github.com/urfave/cli/v2"

	apiv1 "github.com/sallyport-mesh/sallyport/pkg/api/sallyport/v1"
)

func tokens() *cli.Command {
	return noun("token", "join tokens: what lets an agent into a cluster, once", tokenAdd(), tokenList(), tokenRemove())
}

func tokenAdd() *cli.Command {
	add := clusterToken()
	add.Name, add.Description = "add", "Example:\n  sallyportctl token add edge-1"
	return add
}

func tokenList() *cli.Command {
	return verb("list", "list join tokens, never their secrets", "sallyportctl token list --cluster edge-1", nil,
		[]cli.Flag{&cli.StringFlag{Name: "cluster", Usage: "for `CLUSTER`"}},
		func(c *cli.Context, s *session) error {
			res, err := s.admin.ListJoinTokens(c.Context, connect.NewRequest(&apiv1.ListJoinTokensRequest{Cluster: c.String("cluster")}))
			if err != nil {
				return err
			}
			return show(c, res.Msg, tokenHeader, tokenRows(res.Msg.Tokens))
		})
}

func tokenRemove() *cli.Command {
	return verb("remove", "take back a join token that nobody has used", "sallyportctl token remove tok-9f86d081884c7d65", []string{"TOKEN"}, nil,
		func(c *cli.Context, s *session) error {
			_, err := s.admin.DeleteJoinToken(c.Context, connect.NewRequest(&apiv1.DeleteJoinTokenRequest{Id: c.Args().First()}))
			return err
		})
}

var tokenHeader = []string{"ID", "CLUSTER", "STATE", "CREATED", "UNTIL", "AGENT"}

func tokenRows(views []*apiv1.JoinTokenView) [][]string {
	var rows [][]string
	for _, t := range views {
		state := "waiting"
		switch {
		case t.UsedAt != nil:
			state = "used"
		case !time.Now().Before(t.ExpiresAt.AsTime()):
			state = "run out"
		}
		rows = append(rows, []string{t.Id, t.Cluster, state, when(t.CreatedAt), when(t.ExpiresAt), t.AgentId})
	}
	return rows
}
