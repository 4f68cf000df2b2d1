package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"github.com/gofrs/flock"

	"github.com/sallyport-mesh/sallyport/client/internal/daemon"
	"github.com/sallyport-mesh/sallyport/client/internal/localapi"
	"github.com/sallyport-mesh/sallyport/pkg/process"
	"github.com/sallyport-mesh/sallyport/pkg/profile"
)

// listening is what a daemon writes to the pipe of its starter when it answers
// commands. Anything else is the error that it ends with.
const listening = "listening\n"

// startLockFile is held by the one that starts a daemon.
const startLockFile = "start.lock"

// logLimit is where a log is set aside at the next start, bytes.
const logLimit = 4 << 20

// ensure makes sure that a daemon runs, and remembers that one is wanted. Of all
// that ask at once, one starts it; the others wait until it answers.
func (h *here) ensure(ctx context.Context, w daemon.Wanted) error {
	if err := daemon.Want(h.home, w); err != nil {
		return err
	}
	turn := flock.New(h.home.Path(startLockFile), flock.SetPermissions(0o600))
	if got, err := turn.TryLockContext(ctx, 10*time.Millisecond); err != nil || !got {
		return fmt.Errorf("waiting for somebody else to start the daemon: %w", errors.Join(err, ctx.Err()))
	}
	defer func() { _ = turn.Unlock() }() // the kernel does, at the latest
	if st, err := h.running(ctx); err != nil || st != nil {
		return err
	}
	return h.start(ctx, w.Kubeconfig, w.Verbose)
}

// start starts a daemon in a session of its own and returns when it answers.
func (h *here) start(ctx context.Context, kubeconfig string, verbose bool) error {
	program, err := self()
	if err != nil {
		return err
	}
	log, err := openLog(h.home)
	if err != nil {
		return err
	}
	defer log.Close()
	read, write, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("starting the daemon: %w", err)
	}
	defer read.Close()
	args := []string{"daemon", "--started", "--kubeconfig", kubeconfig}
	if verbose {
		args = append(args, "--verbose")
	}
	cmd := exec.Command(program, args...) // outlives ctx
	cmd.Env = os.Environ()
	for name, value := range h.home.Environment() {
		cmd.Env = append(cmd.Env, name+"="+value)
	}
	cmd.Dir = "/"
	cmd.Stdout, cmd.Stderr = log, log
	cmd.ExtraFiles = []*os.File{write}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	err = cmd.Start()
	write.Close()
	if err != nil {
		return fmt.Errorf("starting the daemon: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { read.Close() })
	defer stop()
	said, err := io.ReadAll(read)
	switch {
	case ctx.Err() != nil:
		return fmt.Errorf("starting the daemon: %w", ctx.Err())
	case string(said) == listening:
		return cmd.Process.Release()
	}
	_ = cmd.Wait() // how it ended is in what it said
	if err == nil && strings.Contains(string(said), daemon.ErrRunning.Error()) {
		return h.answers(ctx) // one in the foreground was faster
	}
	return startError(string(said), h.home.Path(daemon.LogFile))
}

// answers waits until a daemon that holds the home answers.
func (h *here) answers(ctx context.Context) error {
	for {
		st, err := h.running(ctx)
		if err != nil || st != nil {
			return err
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("waiting for the daemon: %w", ctx.Err())
		}
	}
}

// startError is what a daemon said as it ended, made an error again.
func startError(said, log string) error {
	first, rest, _ := strings.Cut(strings.TrimSpace(said), "\n")
	text, ok := strings.CutPrefix(first, "error: ")
	if !ok {
		return process.Hint(errors.New("the daemon ended as soon as it started"), "look into "+log)
	}
	err := errors.New(text)
	if hint, ok := strings.CutPrefix(rest, "hint: "); ok {
		return process.Hint(err, hint)
	}
	return err
}

// stop ends a running daemon and returns when it is gone.
func (h *here) stop(ctx context.Context) error {
	if err := h.daemon.Stop(ctx); err != nil {
		return err
	}
	return h.gone(ctx)
}

// gone waits until no daemon holds the home.
func (h *here) gone(ctx context.Context) error {
	lock := flock.New(h.home.Path(daemon.LockFile), flock.SetPermissions(0o600))
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	if gone, err := lock.TryLockContext(ctx, 20*time.Millisecond); err != nil || !gone {
		return process.Hint(errors.New("the daemon does not end"), "look into "+h.home.Path(daemon.LogFile))
	}
	return lock.Unlock()
}

// running asks for the daemon's status; nil without error when there is none.
func (h *here) running(ctx context.Context) (*localapi.Status, error) {
	st, err := h.daemon.Status(ctx)
	if errors.Is(err, localapi.ErrNotRunning) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return &st, nil
}

func openLog(home profile.Home) (*os.File, error) {
	path := home.Path(daemon.LogFile)
	if info, err := os.Stat(path); err == nil && info.Size() > logLimit {
		if err := os.Rename(path, path+".1"); err != nil {
			return nil, fmt.Errorf("setting the daemon's log aside: %w", err)
		}
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("opening the daemon's log: %w", err)
	}
	return f, nil
}
