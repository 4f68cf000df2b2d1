// Command hydra-dev runs a real Ory Hydra on loopback, with a database of its own.
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
	"syscall"
	"time"

	hydra "github.com/ory/hydra/v2/cmd"

	"github.com/sallyport-mesh/sallyport/test/hydra/internal/dev"
)

const usage = `hydra-dev runs a real Ory Hydra on loopback, with a database of its own.

usage:
  hydra-dev run --dir DIR --issuer URL --login-url URL --consent-url URL --logout-url URL
                [--refresh-hook URL] [--public-port N] [--admin-socket PATH] [--database auto|postgresql|sqlite]
  hydra-dev hydra ARGS...    Hydra's own command line

It stays in the foreground and prints one line of JSON when it is ready. It ends on SIGTERM, when
its parent ends, and when its standard input, if that is a pipe, is closed. Data stays in DIR.

example:
  hydra-dev run --dir /tmp/hydra --issuer https://127.0.0.1:8443/ --login-url https://127.0.0.1:8443/login \
    --consent-url https://127.0.0.1:8443/consent --logout-url https://127.0.0.1:8443/logout
`

func main() {
	err := dispatch(os.Args[1:])
	if err == nil {
		return
	}
	fmt.Fprintf(os.Stderr, "hydra-dev: %v\n", err)
	if hint := dev.Hint(err); hint != "" {
		fmt.Fprintf(os.Stderr, "hint: %s\n", hint)
	}
	os.Exit(1)
}

func dispatch(args []string) error {
	if len(args) == 0 {
		fmt.Fprint(os.Stderr, usage)
		os.Exit(2)
	}
	verb, args := args[0], args[1:]
	switch verb {
	case "run":
		return run(args)
	case "hydra":
		return runHydra(args)
	case dev.ServeVerb:
		dev.EndWithSupervisor()
		return runHydra(args)
	case "help", "-h", "--help":
		fmt.Print(usage)
		return nil
	}
	return fmt.Errorf("unknown command %q", verb)
}

// runHydra is Hydra's own main; it exits by itself when the command fails.
func runHydra(args []string) error {
	os.Args = append([]string{"hydra"}, args...)
	hydra.Execute()
	return nil
}

func run(args []string) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	flags := flag.NewFlagSet("hydra-dev run", flag.ExitOnError)
	var c dev.Config
	flags.StringVar(&c.Dir, "dir", "", "`directory` that holds database, secrets and sockets")
	flags.StringVar(&c.Issuer, "issuer", "", "issuer `URL`, https: the coordinator's own, which stands in front")
	flags.StringVar(&c.LoginURL, "login-url", "", "`URL` of the login app")
	flags.StringVar(&c.ConsentURL, "consent-url", "", "`URL` of the consent app")
	flags.StringVar(&c.LogoutURL, "logout-url", "", "`URL` of the logout app")
	flags.StringVar(&c.RefreshHook, "refresh-hook", "", "`URL` asked before a token is refreshed")
	flags.IntVar(&c.PublicPort, "public-port", 0, "`port` of the public API on 127.0.0.1 (default: the last one, or a free one)")
	flags.StringVar(&c.AdminSocket, "admin-socket", "", "unix socket of the admin API (default DIR/run/admin.sock)")
	flags.StringVar(&c.Database, "database", "auto", "auto, postgresql or sqlite")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q", flags.Arg(0))
	}
	return dev.Run(untilAbandoned(ctx), c, os.Stderr, func(e dev.Endpoints) error {
		return json.NewEncoder(os.Stdout).Encode(e)
	})
}

var errAbandoned = errors.New("nobody is left to stop this")

// untilAbandoned ends when nobody is left to stop this process: its parent is gone, or standard
// input, if it is a pipe, has been closed.
func untilAbandoned(ctx context.Context) context.Context {
	ctx, cancel := context.WithCancelCause(ctx)
	if info, err := os.Stdin.Stat(); err == nil && info.Mode()&(os.ModeNamedPipe|os.ModeSocket) != 0 {
		go func() {
			_, _ = io.Copy(io.Discard, os.Stdin)
			cancel(errAbandoned)
		}()
	}
	parent := os.Getppid()
	go func() {
		t := time.NewTicker(200 * time.Millisecond)
		defer t.Stop()
		for range t.C {
			if os.Getppid() != parent {
				cancel(errAbandoned)
				return
			}
		}
	}()
	return ctx
}
