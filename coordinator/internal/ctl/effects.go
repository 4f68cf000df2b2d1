package ctl

import (
	"fmt"
	"io"
	"strings"

	"connectrpc.com/connect"
	"github.com/urfave/cli/v2"

	apiv1 "github.com/sallyport-mesh/sallyport/pkg/api/sallyport/v1"
	"github.com/sallyport-mesh/sallyport/pkg/process"
)

// effects prints what a narrowing change did, as the agents answer. It fails if
// one of them was not reached or could not clean up, since access may still
// stand there for a while.
func effects(c *cli.Context, stream *connect.ServerStreamForClient[apiv1.Effect]) error {
	return effectsOf(c, c.App.Writer, stream)
}

// effectStream is effects as they arrive.
type effectStream interface {
	Receive() bool
	Msg() *apiv1.Effect
	Err() error
}

func effectsOf(c *cli.Context, w io.Writer, stream effectStream) error {
	asJSON := forPrograms(c)
	pending := 0
	for stream.Receive() {
		msg := stream.Msg()
		if asJSON {
			if err := printMessage(c, msg); err != nil {
				return err
			}
		}
		switch kind := msg.Kind.(type) {
		case *apiv1.Effect_Committed:
			if !asJSON {
				fmt.Fprintf(w, "committed at revision %d: %s\n", kind.Committed.Revision, agents(kind.Committed.Agents))
			}
		case *apiv1.Effect_Agent:
			a := kind.Agent
			if a.Unreachable || a.Problem != "" {
				pending++
			}
			if !asJSON {
				fmt.Fprintln(w, agentLine(a))
			}
		}
	}
	if err := stream.Err(); err != nil {
		return err
	}
	if pending > 0 {
		return process.WithExitCode(process.Hint(
			fmt.Errorf("the change is committed, but %s did not confirm all of it", agents(uint32(pending))),
			"sallyportctl cluster list shows which agents are away; they refuse by themselves at the times above"), exitUnconfirmed)
	}
	return nil
}

func agents(n uint32) string {
	if n == 1 {
		return "1 agent"
	}
	return fmt.Sprintf("%d agents", n)
}

func agentLine(a *apiv1.AgentEffect) string {
	var b strings.Builder
	fmt.Fprintf(&b, "  %-16s ", clean(a.Cluster))
	if a.Unreachable {
		fmt.Fprintf(&b, "not reached, last heard of %s; by itself it refuses exec from %s, writes from %s, reads from %s",
			when(a.LastSeen), when(a.ExecStaleAt), when(a.WriteStaleAt), when(a.ReadStaleAt))
		return b.String()
	}
	if a.CutMs > 0 {
		fmt.Fprintf(&b, "cut in %.0f ms", a.CutMs)
		if a.CutStreams > 0 {
			fmt.Fprintf(&b, " (%d running)", a.CutStreams)
		}
	}
	if a.CleanMs > 0 {
		fmt.Fprintf(&b, ", clean in %.0f ms", a.CleanMs)
	}
	if a.Problem != "" {
		fmt.Fprintf(&b, " problem: %s", clean(a.Problem))
	}
	return b.String()
}
