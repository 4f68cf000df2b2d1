// Command parts builds the real parts that tests and the quickstart run against.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"syscall"

	"github.com/sallyport-mesh/sallyport/test/parts"
)

const usage = `parts builds the real parts that tests and the quickstart run against.

usage:
  parts build [all|devcluster|hydra|kubectl|helm]... build what is not cached, print the paths

Binaries are kept in $SALLYPORT_CACHE, or sallyport in the user's cache directory.

example:
  $(go run ./test/parts/cmd/parts build devcluster) up --dir /tmp/edge-1 --name edge-1
`

func main() {
	if len(os.Args) < 2 || os.Args[1] != "build" {
		fmt.Fprint(os.Stderr, usage)
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := build(ctx, os.Args[2:]); err != nil {
		fmt.Fprintf(os.Stderr, "parts: %v\n", err)
		os.Exit(1)
	}
}

func build(ctx context.Context, names []string) error {
	wanted := make([]parts.Part, 0, len(names))
	for _, name := range names {
		if name == "all" {
			wanted = append(wanted, parts.All...)
			continue
		}
		if !slices.Contains(parts.All, parts.Part(name)) {
			return fmt.Errorf("unknown part %q\nhint: all, devcluster, hydra, kubectl or helm", name)
		}
		wanted = append(wanted, parts.Part(name))
	}
	if len(wanted) == 0 {
		wanted = parts.All
	}
	for _, p := range wanted {
		path, err := parts.Binary(ctx, p)
		if err != nil {
			return err
		}
		fmt.Println(path)
	}
	return nil
}
