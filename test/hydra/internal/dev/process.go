package dev

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"time"
)

// ServeVerb is the hidden subcommand that serves Hydra under a supervisor.
const ServeVerb = "supervised-hydra"

// EndWithSupervisor ends this process when its standard input closes: the supervisor holds the
// other end, and never writes to it.
func EndWithSupervisor() {
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		os.Exit(1)
	}()
}

// process is PostgreSQL or Hydra.
type process struct {
	name, logPath string
	pid           int
	done          chan struct{}
	err           error // set before done is closed
}

func (c Config) start(name string, cmd *exec.Cmd, components *os.File) (*process, error) {
	p := &process{name: name, logPath: c.path("logs", name+".log"), done: make(chan struct{})}
	logFile, err := os.OpenFile(p.logPath, os.O_CREATE|os.O_WRONLY|os.O_TRUNC|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("opening log of %s: %w", name, err)
	}
	defer logFile.Close()
	cmd.Stdout, cmd.Stderr = logFile, logFile
	cmd.ExtraFiles = []*os.File{components}
	if _, err := cmd.StdinPipe(); err != nil {
		return nil, fmt.Errorf("making pipe for %s: %w", name, err)
	}
	started := make(chan error, 1)
	go func() {
		// The kernel sends the parent-death signal when this thread ends.
		runtime.LockOSThread()
		err := cmd.Start()
		if err == nil {
			p.pid = cmd.Process.Pid
		}
		started <- err
		if err != nil {
			return
		}
		p.err = cmd.Wait()
		close(p.done)
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("starting %s: %w", name, err)
	}
	return p, nil
}

func (p *process) failure() error {
	cause := p.err
	if cause == nil {
		cause = errors.New("exit status 0")
	}
	return fmt.Errorf("%s ended: %w; last lines of %s:\n%s", p.name, cause, p.logPath, lastLines(p.logPath, 8))
}

// stop sends the signal, and kills the process if it has not ended within grace.
func (p *process) stop(s syscall.Signal, grace time.Duration) {
	if p == nil {
		return
	}
	p.signal(s)
	select {
	case <-p.done:
	case <-time.After(grace):
		p.signal(syscall.SIGKILL)
		<-p.done
	}
}

func (p *process) signal(s syscall.Signal) {
	select {
	case <-p.done: // its number may be another's by now
	default:
		_ = syscall.Kill(p.pid, s)
	}
}

func lastLines(path string, n int) string {
	raw, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	if len(raw) > 8192 {
		raw = raw[len(raw)-8192:]
	}
	lines := strings.Split(strings.TrimSpace(string(raw)), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}
