// Command devcluster runs a real Kubernetes control plane and one node on loopback.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/sallyport-mesh/sallyport/test/devcluster/internal/cluster"
	"github.com/sallyport-mesh/sallyport/test/devcluster/internal/component"
)

const usage = `devcluster runs a real Kubernetes control plane and one node on loopback.

usage:
  devcluster up      --dir DIR --name NAME [--node-name NODE]   start detached, return when ready
  devcluster run     --dir DIR --name NAME [--node-name NODE]   the same in the foreground
  devcluster down    --dir DIR                                  stop, keep the data
  devcluster kubectl ARGS...                                    kubectl

example:
  devcluster up --dir /tmp/edge-1 --name edge-1
  kubectl --kubeconfig /tmp/edge-1/admin.kubeconfig get nodes
`

func main() {
	// A link named kubectl to this binary is kubectl.
	if filepath.Base(os.Args[0]) == "kubectl" {
		component.Kubectl(os.Args[1:])
		return
	}
	if err := dispatch(os.Args[1:]); err != nil {
		fmt.Fprintf(os.Stderr, "devcluster: %v\n", err)
		if errors.Is(err, cluster.ErrRunning) {
			fmt.Fprintln(os.Stderr, "hint: stop it with devcluster down, or give another --dir")
		}
		os.Exit(1)
	}
}

func dispatch(args []string) error {
	if len(args) == 0 {
		fmt.Fprint(os.Stderr, usage)
		os.Exit(2)
	}
	verb, args := args[0], args[1:]
	switch verb {
	case "component":
		return runComponent(args)
	case "kubectl":
		component.Kubectl(args)
		return nil
	case "up", "run", "down":
	case "help", "-h", "--help":
		fmt.Print(usage)
		return nil
	default:
		return fmt.Errorf("unknown command %q", verb)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	flags := flag.NewFlagSet("devcluster "+verb, flag.ExitOnError)
	var o cluster.Options
	flags.StringVar(&o.Dir, "dir", "", "`directory` that holds everything of the cluster")
	detached := false
	if verb != "down" {
		flags.StringVar(&o.Name, "name", "", "`name` of the cluster, a DNS label")
		flags.StringVar(&o.NodeName, "node-name", "", "`name` of its node (default NAME-node)")
	}
	if verb == "run" {
		flags.BoolVar(&detached, "detached", false, "outlive the parent process")
	}
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q", flags.Arg(0))
	}
	switch verb {
	case "up":
		_, err := cluster.Up(ctx, o, os.Stderr)
		return err
	case "down":
		return cluster.Down(ctx, o.Dir, os.Stderr)
	}
	if !detached {
		ctx = untilAbandoned(ctx)
	}
	return cluster.Run(ctx, o, os.Stderr, func(i cluster.Info) error {
		return json.NewEncoder(os.Stdout).Encode(i)
	})
}

// untilAbandoned ends when nobody is left to stop this process: its parent is gone, or standard
// input, if it is a pipe, has been closed.
func untilAbandoned(ctx context.Context) context.Context {
	ctx, cancel := context.WithCancel(ctx)
	if info, err := os.Stdin.Stat(); err == nil && info.Mode()&(os.ModeNamedPipe|os.ModeSocket) != 0 {
		go func() {
			_, _ = io.Copy(io.Discard, os.Stdin)
			cancel()
		}()
	}
	parent := os.Getppid()
	go func() {
		t := time.NewTicker(200 * time.Millisecond)
		defer t.Stop()
		for range t.C {
			if os.Getppid() != parent {
				cancel()
				return
			}
		}
	}()
	return ctx
}
