// Command play is what `make up`, `make env` and `make down` call: it runs the
// quickstart in the background and tells a shell how to be one of its people.
package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/gofrs/flock"
	"github.com/urfave/cli/v2"

	"github.com/sallyport-mesh/sallyport/pkg/process"
	"github.com/sallyport-mesh/sallyport/test/parts"
	"github.com/sallyport-mesh/sallyport/test/play"
)

func main() {
	dir := &cli.StringFlag{Name: "dir", Value: ".play", Usage: "`DIR` that holds everything"}
	bin := &cli.StringFlag{Name: "bin", Value: "bin", Usage: "`DIR` of the built binaries"}
	app := &cli.App{
		Name: "play", Usage: "a place to play with Sallyport", HideHelpCommand: true,
		ExitErrHandler: func(*cli.Context, error) {},
		Commands: []*cli.Command{
			{Name: "up", Usage: "start it, or start it again with what is there", Flags: []cli.Flag{dir, bin}, Action: up},
			{Name: "run", Hidden: true, Flags: []cli.Flag{dir, bin}, Action: supervise},
			{Name: "down", Usage: "stop and remove it", Flags: []cli.Flag{dir}, Action: down},
			{
				Name: "env", Usage: "print a person's shell environment", Action: env,
				Flags: []cli.Flag{dir, bin, &cli.StringFlag{Name: "as", Value: "virat", Usage: "`PERSON`: alice, virat or shivam"}},
			},
		},
	}
	process.Main("play", func(ctx context.Context) error { return app.RunContext(ctx, os.Args) })
}

// The files that `up`, `down` and the supervisor share in the directory.
const (
	lockFile     = "supervisor.lock" // held while it runs
	pidFile      = "supervisor.pid"
	progressFile = "progress" // a line each, the last is "ready" or "error: …"
)

func up(c *cli.Context) error {
	dir, err := filepath.Abs(c.String("dir"))
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	// 1. What takes long the first time, with its own progress.
	for _, part := range parts.All {
		if _, err := parts.Binary(c.Context, part); err != nil {
			return err
		}
	}
	// 2. The supervisor. One that runs is started again, on the same data: with
	// the binaries as they are now, and everyone freshly logged in.
	running, err := held(dir)
	if err != nil {
		return err
	}
	if running {
		fmt.Fprintln(os.Stderr, "it runs already: starting it again with what is there")
		if err := stop(c.Context, dir); err != nil {
			return err
		}
	}
	if err := launch(c, dir); err != nil {
		return err
	}
	// 3. Until it is ready.
	if err := follow(c.Context, dir); err != nil {
		return err
	}
	fmt.Print(welcome)
	return nil
}

const welcome = `
Sallyport is up: clusters edge-1 and edge-2 in project aws, edge-3 in gcp.
alice administers, virat manages aws, shivam is a trainee with cluster admin by mistake.

Be the trainee, and do what should not have been possible:
  eval "$(make -s env AS=shivam)"
  kubectl --context sallyport/edge-1 get pods
  kubectl --context sallyport/edge-1 delete deployment nginx

Be the manager, find it, and take the access away while the trainee watches pods
(kubectl --context sallyport/edge-2 get pods -w in another terminal):
  eval "$(make -s env AS=virat)"
  sallyportctl audit search --project aws --verb delete --since 1h
  sallyportctl user suspend --project aws shivam

make down removes all of it.
`

// launch starts the supervisor in the background, in a session of its own.
func launch(c *cli.Context, dir string) error {
	if err := os.WriteFile(filepath.Join(dir, progressFile), nil, 0o600); err != nil {
		return err
	}
	log, err := os.OpenFile(filepath.Join(dir, "supervisor.log"), os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	self, err := os.Executable()
	if err != nil {
		return err
	}
	// `go run` removes its binary when it ends, so the supervisor is a copy.
	copied := filepath.Join(dir, "supervisor")
	raw, err := os.ReadFile(self)
	if err != nil {
		return err
	}
	if err := os.WriteFile(copied+".new", raw, 0o700); err != nil {
		return err
	}
	if err := os.Rename(copied+".new", copied); err != nil {
		return err
	}
	cmd := exec.Command(copied, "run", "--dir", dir, "--bin", c.String("bin"))
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("starting the supervisor: %w", err)
	}
	return cmd.Process.Release()
}

// follow prints the supervisor's progress until it is ready or has failed.
func follow(ctx context.Context, dir string) error {
	began := time.Now()
	f, err := os.Open(filepath.Join(dir, progressFile))
	if err != nil {
		return err
	}
	defer f.Close()
	r := bufio.NewReader(f)
	line := ""
	for {
		part, err := r.ReadString('\n')
		line += part
		if err == nil {
			what, done := strings.CutPrefix(strings.TrimSpace(line), "ready")
			if done {
				fmt.Fprintf(os.Stderr, "ready after %.0f s%s\n", time.Since(began).Seconds(), what)
				return nil
			}
			if problem, failed := strings.CutPrefix(what, "error: "); failed {
				return process.Hint(errors.New(problem), "the logs are in "+filepath.Join(dir, "logs")+"; make down starts over")
			}
			fmt.Fprintf(os.Stderr, "%4.0f s  %s\n", time.Since(began).Seconds(), what)
			line = ""
			continue
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(50 * time.Millisecond):
		}
		if running, err := held(dir); err == nil && !running && time.Since(began) > 5*time.Second {
			return process.Hint(errors.New("the supervisor ended"), "see "+filepath.Join(dir, "supervisor.log"))
		}
	}
}

// supervise runs the world until it is told to stop.
func supervise(c *cli.Context) error {
	dir := c.String("dir")
	lock := flock.New(filepath.Join(dir, lockFile))
	if ok, err := lock.TryLock(); err != nil || !ok {
		return errors.Join(err, errors.New("another supervisor runs in "+dir))
	}
	defer func() { _ = lock.Unlock() }()
	if err := os.WriteFile(filepath.Join(dir, pidFile), []byte(strconv.Itoa(os.Getpid())), 0o600); err != nil {
		return err
	}
	progress, err := os.OpenFile(filepath.Join(dir, progressFile), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer progress.Close()
	say := func(what string) {
		fmt.Fprintln(progress, strings.ReplaceAll(what, "\n", " "))
		fmt.Println(what)
	}
	w, err := play.New(c.Context, play.Config{Dir: dir, Bin: c.String("bin"), Progress: say})
	if err == nil {
		defer w.Stop()
		ctx, cancel := context.WithTimeout(c.Context, 5*time.Minute)
		defer cancel()
		err = w.Quickstart(ctx)
	}
	if err != nil {
		say("error: " + err.Error())
		return err
	}
	say("ready")
	<-c.Context.Done()
	return nil
}

// held says whether a supervisor runs in dir.
func held(dir string) (bool, error) {
	lock := flock.New(filepath.Join(dir, lockFile))
	ok, err := lock.TryLock()
	if err != nil {
		return false, err
	}
	if ok {
		return false, lock.Unlock()
	}
	return true, nil
}

func down(c *cli.Context) error {
	dir, err := filepath.Abs(c.String("dir"))
	if err != nil {
		return err
	}
	if _, err := os.Stat(dir); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	// Only a directory that this command made is removed.
	if _, err := os.Stat(filepath.Join(dir, progressFile)); err != nil {
		return process.Hint(fmt.Errorf("%s does not look like a place that play made", dir), "remove it by hand if you are sure")
	}
	running, err := held(dir)
	if err != nil {
		return err
	}
	if running {
		if err := stop(c.Context, dir); err != nil {
			return err
		}
	}
	return os.RemoveAll(dir)
}

func stop(ctx context.Context, dir string) error {
	raw, err := os.ReadFile(filepath.Join(dir, pidFile))
	if err != nil {
		return err
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(raw)))
	if err != nil {
		return fmt.Errorf("reading %s: %w", pidFile, err)
	}
	if err := syscall.Kill(pid, syscall.SIGTERM); err != nil {
		return fmt.Errorf("stopping the supervisor: %w", err)
	}
	deadline := time.Now().Add(30 * time.Second)
	for {
		running, err := held(dir)
		if err != nil || !running {
			return err
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("the supervisor (process %d) does not end", pid)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(100 * time.Millisecond):
		}
	}
}

func env(c *cli.Context) error {
	dir, err := filepath.Abs(c.String("dir"))
	if err != nil {
		return err
	}
	bin, err := filepath.Abs(c.String("bin"))
	if err != nil {
		return err
	}
	kubectl, err := parts.Binary(c.Context, parts.Kubectl)
	if err != nil {
		return err
	}
	home := filepath.Join(dir, "people", c.String("as"))
	if _, err := os.Stat(home); err != nil {
		return process.Hint(fmt.Errorf("there is no %q here", c.String("as")), "make up, then AS=alice, virat or shivam")
	}
	fmt.Printf("export SALLYPORT_HOME=%s\n", quote(home))
	fmt.Printf("export KUBECONFIG=%s\n", quote(filepath.Join(home, "kubeconfig")))
	fmt.Printf("export PATH=%s:%s:\"$PATH\"\n", quote(bin), quote(filepath.Dir(kubectl)))
	return nil
}

// quote is for a shell.
func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }
