// Command sallyport-agent runs a Sallyport agent in a cluster, or beside one.
package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"

	"github.com/urfave/cli/v2"
	"k8s.io/klog/v2"

	"github.com/sallyport-mesh/sallyport/node-agent/internal/agent"
	"github.com/sallyport-mesh/sallyport/node-agent/internal/config"
	"github.com/sallyport-mesh/sallyport/pkg/process"
)

// version is set by the build.
var version = "dev"

func main() {
	app := &cli.App{
		Name:    "sallyport-agent",
		Usage:   "let people into this Kubernetes cluster through Sallyport",
		Version: version,
		Description: "Runs in the cluster, as the manifest of `sallyportctl cluster add` sets it up, or beside it with a kubeconfig.\n" +
			"Flags override the environment, and that the configuration file.\n\n" +
			"Example:\n  sallyport-agent --kubeconfig agent.kubeconfig --join-token-file token --data-dir /var/lib/sallyport-agent",
		HideHelpCommand: true,
		ExitErrHandler:  func(*cli.Context, error) {},
		OnUsageError:    func(_ *cli.Context, err error, _ bool) error { return misused(err) },
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "config", Usage: "read `FILE` (docs/agent.md)", EnvVars: []string{"SALLYPORT_AGENT_CONFIG"}},
			&cli.StringFlag{Name: "data-dir", Usage: "`DIR` for the agent's key, audit log and overlay state (default /var/lib/sallyport-agent)", EnvVars: []string{"SALLYPORT_AGENT_DATA_DIR"}},
			&cli.StringFlag{Name: "kubeconfig", Usage: "reach the cluster with `FILE`, for an agent beside it", EnvVars: []string{"SALLYPORT_AGENT_KUBECONFIG"}},
			&cli.StringFlag{Name: "join-token-file", Usage: "read the join token for the first start from `FILE`", EnvVars: []string{"SALLYPORT_AGENT_JOIN_TOKEN_FILE"}},
			&cli.StringFlag{Name: "log-level", Usage: "`LEVEL`: debug, info, warn or error (default info)", EnvVars: []string{"SALLYPORT_AGENT_LOG_LEVEL"}},
			&cli.StringFlag{Name: "log-format", Usage: "`FORMAT`: text or json (default text)", EnvVars: []string{"SALLYPORT_AGENT_LOG_FORMAT"}},
		},
		Action: func(c *cli.Context) error {
			if c.Args().Present() {
				return misused(fmt.Errorf("unexpected argument %q", c.Args().First()))
			}
			return run(c)
		},
	}
	process.Main("sallyport-agent", func(ctx context.Context) error { return app.RunContext(ctx, os.Args) })
}

func run(c *cli.Context) error {
	cfg, err := config.Read(c.String("config"))
	if err != nil {
		return process.Hint(err, "docs/agent.md lists every key")
	}
	for flag, value := range map[string]*string{
		"data-dir": &cfg.DataDir, "kubeconfig": &cfg.Kubeconfig, "join-token-file": &cfg.JoinTokenFile,
		"log-level": &cfg.Log.Level, "log-format": &cfg.Log.Format,
	} {
		if c.IsSet(flag) {
			*value = c.String(flag)
		}
	}
	// No flag: a command line is everybody's to read.
	if token := os.Getenv("SALLYPORT_AGENT_JOIN_TOKEN"); token != "" && cfg.JoinTokenFile == "" {
		cfg.JoinToken = token
	}
	if err := cfg.Complete(); err != nil {
		return process.Hint(err, "docs/agent.md lists every key")
	}
	log := logger(cfg.Log)
	slog.SetDefault(log)
	klog.SetSlogLogger(log.With("from", "client-go"))
	return process.Otherwise(agent.Run(c.Context, cfg, version, log), "docs/agent.md says what it needs to start")
}

func logger(cfg config.Log) *slog.Logger {
	var level slog.Level
	_ = level.UnmarshalText([]byte(cfg.Level)) // Complete has checked it
	options := &slog.HandlerOptions{Level: level}
	if cfg.Format == "json" {
		return slog.New(slog.NewJSONHandler(os.Stderr, options))
	}
	return slog.New(slog.NewTextHandler(os.Stderr, options))
}

func misused(err error) error {
	return process.WithExitCode(process.Hint(err, "sallyport-agent --help"), process.Misused)
}
