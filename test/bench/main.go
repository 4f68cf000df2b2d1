// Command bench measures whole paths side by side in one run: a small GET to a
// real apiserver (a) directly with a client certificate, (b) through a tsnet node
// that asks for TLS client certificates and only reverse-proxies, (c) through the
// agent with everything on: identity, decision, durable record, service account.
//
// The load generator is a process of its own, so that it and what it measures
// do not share a scheduler. The three are taken in turns, round by round, since
// these machines' speed drifts; the table shows medians over the rounds, and
// ratios of figures of the same round.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/sallyport-mesh/sallyport/pkg/process"
	"github.com/sallyport-mesh/sallyport/test/play"
)

func main() {
	app := &cli.App{
		Name: "bench", Usage: "measure whole paths side by side", HideHelpCommand: true,
		ExitErrHandler: func(*cli.Context, error) {},
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "bin", Value: "bin", Usage: "`DIR` of the built binaries"},
			&cli.StringFlag{Name: "out", Value: "bench.json", Usage: "`FILE` for the figures"},
			&cli.DurationFlag{Name: "each", Value: 3 * time.Second, Usage: "`TIME` of one measurement"},
			&cli.IntFlag{Name: "rounds", Value: 5, Usage: "`N` measurements of each"},
		},
		Action: measure,
		Commands: []*cli.Command{
			{Name: "load", Hidden: true, Action: load, Flags: []cli.Flag{&cli.StringFlag{Name: "home"}, &cli.StringFlag{Name: "kubeconfig"}}},
			{Name: "plain", Hidden: true, Action: plain, Flags: []cli.Flag{
				&cli.StringFlag{Name: "dir"}, &cli.StringFlag{Name: "kubeconfig"}, &cli.StringFlag{Name: "join-token-file"},
			}},
		},
	}
	process.Main("bench", func(ctx context.Context) error { return app.RunContext(ctx, os.Args) })
}

// path is one way to the apiserver.
type path string

const (
	direct path = "direct"
	relay  path = "plain"
	agent  path = "agent"
)

var (
	paths   = []path{direct, relay, agent}
	callers = []int{1, 16, 64}
)

// order is what the load generator is told to do.
type order struct {
	Path    path
	Callers int
	// Each is how long to go on. 0 means one request on a new connection.
	Each time.Duration
}

// Figure is what one order came to.
type Figure struct {
	Path     path    `json:"path"`
	Callers  int     `json:"callers"`
	Round    int     `json:"round"`
	PerSec   float64 `json:"per_second,omitempty"`
	P50      float64 `json:"p50_ms"`
	P99      float64 `json:"p99_ms,omitempty"`
	Requests int     `json:"requests"`
	Error    string  `json:"error,omitempty"`
}

func measure(c *cli.Context) error {
	dir, err := os.MkdirTemp("", "spb-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	w, err := play.New(c.Context, play.Config{Dir: dir, Bin: c.String("bin"), Progress: say})
	if err != nil {
		return err
	}
	defer w.Stop()
	s, err := stage(c.Context, w)
	if err != nil {
		return err
	}
	defer s.Close()

	var figures []Figure
	for round := range c.Int("rounds") {
		say(fmt.Sprintf("round %d of %d", round+1, c.Int("rounds")))
		for _, n := range callers {
			for _, p := range paths {
				f, err := s.do(order{p, n, c.Duration("each")})
				if err != nil {
					return err
				}
				f.Round = round
				figures = append(figures, f)
			}
		}
		for _, p := range paths {
			if p == agent {
				if err := s.forget(c.Context); err != nil {
					return err
				}
			}
			f, err := s.do(order{Path: p})
			if err != nil {
				return err
			}
			f.Round = round
			figures = append(figures, f)
		}
	}
	if err := table(os.Stdout, figures); err != nil {
		return err
	}
	raw, err := json.MarshalIndent(figures, "", " ")
	if err != nil {
		return err
	}
	return os.WriteFile(c.String("out"), append(raw, '\n'), 0o644)
}

func say(what string) { fmt.Fprintln(os.Stderr, what) }

// staging is what runs while we measure.
type staging struct {
	w      *play.World
	person *play.Person
	plain  *play.Process
	load   *loader
}

// name of the person who makes the load, and of the two clusters: edge-1 is
// real, plain is the same apiserver behind a node that only reverse-proxies.
const name = "bencher"

func stage(ctx context.Context, w *play.World) (*staging, error) {
	s := &staging{w: w}
	say("starting a cluster and its agent")
	for _, args := range [][]string{{"project", "add", "bench"}} {
		if _, err := w.Admin(ctx, "", args...); err != nil {
			return nil, err
		}
	}
	cluster, err := w.StartCluster(ctx, "edge-1", "bench")
	if err != nil {
		return nil, err
	}
	if err := w.Import(ctx, cluster); err != nil {
		return nil, err
	}
	if err := w.StartAgent(ctx, cluster); err != nil {
		return nil, err
	}
	if s.person, err = w.NewUser(ctx, name); err != nil {
		return nil, err
	}
	if _, err := w.Admin(ctx, "", "grant", "add", "--role", "cluster-admin", "--user", name, "--project", "bench"); err != nil {
		return nil, err
	}
	say("starting the node that only reverse-proxies")
	token := filepath.Join(w.Dir, "plain-token")
	if _, err := w.Admin(ctx, "", "cluster", "add", "plain", "--project", "bench", "--beside", token); err != nil {
		return nil, err
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	s.plain, err = play.Start("plain", filepath.Join(w.Dir, "logs", "plain.log"), w.OverlayEnv(), self, "plain",
		"--dir", filepath.Join(w.Dir, "plain"), "--kubeconfig", cluster.Kubeconfig, "--join-token-file", token)
	if err != nil {
		return nil, err
	}
	say("logging in and joining")
	if err := s.person.Login(ctx); err != nil {
		return nil, err
	}
	s.load, err = startLoader(ctx, self, s.person, cluster.Kubeconfig)
	if err != nil {
		return nil, errors.Join(err, s.plain.Stop())
	}
	// Warm up all three, which waits for both ways through the overlay.
	for _, p := range paths {
		if _, err := s.do(order{p, 4, time.Second}); err != nil {
			return nil, err
		}
	}
	return s, nil
}

func (s *staging) Close() {
	s.load.Close()
	s.plain.Kill()
}

// do has the load generator carry out an order.
func (s *staging) do(o order) (Figure, error) {
	f, err := s.load.do(o)
	if err == nil && f.Error != "" {
		err = fmt.Errorf("%s with %d callers: %s", o.Path, o.Callers, f.Error)
	}
	return f, err
}

// forget takes the person's account out of the cluster, by taking the access
// away and giving it back, so that the next request is a first one.
func (s *staging) forget(ctx context.Context) error {
	if _, err := s.w.Admin(ctx, "", "user", "suspend", name, "--project", "bench"); err != nil {
		return err
	}
	_, err := s.w.Admin(ctx, "", "user", "resume", name, "--project", "bench")
	return err
}
