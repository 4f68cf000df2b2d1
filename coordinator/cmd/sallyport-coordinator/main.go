// Command sallyport-coordinator runs a Sallyport coordinator.
package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"

	"github.com/urfave/cli/v2"

	"github.com/sallyport-mesh/sallyport/coordinator/internal/config"
	"github.com/sallyport-mesh/sallyport/coordinator/internal/server"
	"github.com/sallyport-mesh/sallyport/pkg/process"
)

// version is set by the build.
var version = "dev"

func main() {
	app := &cli.App{
		Name:    "sallyport-coordinator",
		Usage:   "login, CA, overlay control, directory, policy and audit for Sallyport",
		Version: version,
		Description: "Runs with a configuration file or with none; flags override the file.\n\n" +
			"Example:\n  sallyport-coordinator --data-dir /var/lib/sallyport --public-url https://sallyport.example.com --listen :443",
		HideHelpCommand: true,
		ExitErrHandler:  func(*cli.Context, error) {},
		OnUsageError:    func(_ *cli.Context, err error, _ bool) error { return misused(err) },
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "config", Usage: "read `FILE` (docs/coordinator.md)", EnvVars: []string{"SALLYPORT_CONFIG"}},
			&cli.StringFlag{Name: "listen", Usage: "`ADDRESS` of the TLS port (default 127.0.0.1:8443)"},
			&cli.StringFlag{Name: "public-url", Usage: "`URL` by which others reach that port"},
			&cli.StringFlag{Name: "data-dir", Usage: "`DIR` for state, audit log and keys"},
			&cli.StringFlag{Name: "hydra-admin", Usage: "Hydra's admin API at `URL` (default http://127.0.0.1:4445)"},
			&cli.StringFlag{Name: "hydra-public", Usage: "Hydra's public API at `URL` (default http://127.0.0.1:4444)"},
			&cli.StringFlag{Name: "log-level", Usage: "`LEVEL`: debug, info, warn or error"},
		},
		Action: func(c *cli.Context) error {
			if c.Args().Present() {
				return misused(fmt.Errorf("unexpected argument %q", c.Args().First()))
			}
			return run(c)
		},
	}
	process.Main("sallyport-coordinator", func(ctx context.Context) error { return app.RunContext(ctx, os.Args) })
}

func run(c *cli.Context) error {
	cfg, err := config.Read(c.String("config"))
	if err != nil {
		return process.Hint(err, "docs/coordinator.md lists every key")
	}
	for flag, value := range map[string]*string{
		"listen": &cfg.Listen, "public-url": &cfg.PublicURL, "data-dir": &cfg.DataDir, "hydra-admin": &cfg.Hydra.AdminURL,
		"hydra-public": &cfg.Hydra.PublicURL, "log-level": &cfg.Log.Level,
	} {
		if c.IsSet(flag) {
			*value = c.String(flag)
		}
	}
	if err := cfg.Complete(); err != nil {
		return process.Hint(err, "docs/coordinator.md lists every key")
	}
	log := logger(cfg.Log)
	slog.SetDefault(log)
	if err := server.Run(c.Context, cfg, version, log); err != nil && !errors.Is(err, context.Canceled) {
		return process.Otherwise(err, "docs/coordinator.md says what it needs to start")
	}
	return nil
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
	return process.WithExitCode(process.Hint(err, "sallyport-coordinator --help"), process.Misused)
}
