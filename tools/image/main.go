// Command image packs our programs into container images, without a container
// engine: a static binary on nothing, run as user 65532.
//
//	go -C tools run ./image -root .. -out ../bin/images sallyport-agent
//
// Each archive is an OCI image layout that also carries what `docker save`
// writes, so `docker load`, `podman load`, `ctr image import` and `crane push`
// all take it. The same commit, built at the same path, gives the same digest.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"time"
)

// program is one that can be packed.
type program struct {
	name string
	pkg  string
	what string
	// home belongs to the user that the program runs as, and is where it keeps
	// its data unless told otherwise.
	home string
}

var programs = []program{
	{"sallyport-agent", "./node-agent/cmd/sallyport-agent", "Sallyport's agent in a Kubernetes cluster", "/var/lib/sallyport-agent"},
	{"sallyport-coordinator", "./coordinator/cmd/sallyport-coordinator", "Sallyport's coordinator", "/var/lib/sallyport"},
	{"sallyportctl", "./coordinator/cmd/sallyportctl", "Sallyport's administration from a terminal", "/home/nonroot"},
	{"sallyport", "./client/cmd/sallyport", "Sallyport's client", "/home/nonroot"},
}

// build says what goes into every image of one run.
type build struct {
	root, out     string
	arch, version string
	created       time.Time
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	var b build
	flags := flag.NewFlagSet("image", flag.ExitOnError)
	flags.StringVar(&b.root, "root", "..", "the repository's root")
	flags.StringVar(&b.out, "out", "", "directory of the archives (default ROOT/bin/images)")
	flags.StringVar(&b.arch, "arch", runtime.GOARCH, "Go's name of the processor: amd64, arm64")
	flags.StringVar(&b.version, "version", "dev", "version of the programs")
	_ = flags.Parse(args) // it exits by itself
	var err error
	if b.created, err = sourceDate(); err != nil {
		return err
	}
	if b.root, err = filepath.Abs(b.root); err != nil {
		return err
	}
	if b.out == "" {
		b.out = filepath.Join(b.root, "bin", "images")
	}
	chosen, err := choose(flags.Args())
	if err != nil {
		return err
	}
	if err := os.MkdirAll(b.out, 0o755); err != nil {
		return err
	}
	for _, p := range chosen {
		if err := b.pack(ctx, p); err != nil {
			return fmt.Errorf("packing %s: %w", p.name, err)
		}
	}
	return nil
}

// choose is the programs of these names, or all.
func choose(names []string) ([]program, error) {
	if len(names) == 0 {
		return programs, nil
	}
	var chosen []program
	for _, name := range names {
		found := false
		for _, p := range programs {
			if p.name == name {
				chosen, found = append(chosen, p), true
			}
		}
		if !found {
			return nil, fmt.Errorf("there is no program %q", name)
		}
	}
	return chosen, nil
}

// sourceDate is the date of everything in an image: SOURCE_DATE_EPOCH, in
// seconds, or the beginning of Unix time. Never now, which would give every
// build another digest.
func sourceDate() (time.Time, error) {
	text := os.Getenv("SOURCE_DATE_EPOCH")
	if text == "" {
		return time.Unix(0, 0).UTC(), nil
	}
	seconds, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return time.Time{}, errors.New("SOURCE_DATE_EPOCH is not a number of seconds")
	}
	return time.Unix(seconds, 0).UTC(), nil
}

// pack builds one program and writes its archive, which appears whole or not at
// all.
func (b build) pack(ctx context.Context, p program) error {
	tmp, err := os.MkdirTemp(b.out, ".tmp-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	binary := filepath.Join(tmp, p.name)
	compile := exec.CommandContext(ctx, "go", "build", "-ldflags", "-s -w -X main.version="+b.version, "-o", binary, p.pkg)
	compile.Dir = b.root
	// Without cgo the binary is static: there is no libc in the image.
	compile.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+b.arch, "GOFLAGS=")
	compile.Stdout, compile.Stderr = os.Stderr, os.Stderr
	if err := compile.Run(); err != nil {
		return fmt.Errorf("compiling: %w", err)
	}
	img, err := b.image(p, binary)
	if err != nil {
		return err
	}
	archive := filepath.Join(tmp, p.name+".tar")
	digest, err := b.write(img, p, archive)
	if err != nil {
		return err
	}
	target := filepath.Join(b.out, p.name+".tar")
	if err := os.Rename(archive, target); err != nil {
		return err
	}
	fmt.Printf("%s\t%s\t%s\n", target, tag(p), digest)
	return nil
}

// tag is the name under which an engine knows the image once it is loaded, and
// the one that the agent's manifest asks for.
func tag(p program) string { return p.name + ":latest" }
