package cluster

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

// process is one running component.
type process struct {
	name     string
	logPath  string
	pid      int
	lifeline io.Closer
	done     chan struct{} // closed when it has ended
	err      error         // set before done is closed
}

// startProcess starts a component of this very binary in the cluster's directory.
func (o Options) startProcess(s spec, components, listener *os.File) (*process, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("finding own binary: %w", err)
	}
	p := &process{name: s.name, logPath: o.path(logDir, s.name+".log"), done: make(chan struct{})}
	logFile, err := os.OpenFile(p.logPath, os.O_CREATE|os.O_WRONLY|os.O_TRUNC|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("opening log of %s: %w", s.name, err)
	}
	defer logFile.Close()
	cmd := exec.Command(self, append([]string{"component", s.name}, s.args...)...)
	cmd.Dir = o.Dir
	cmd.Env = append(os.Environ(), s.env...)
	cmd.Stdout, cmd.Stderr = logFile, logFile
	// component.ListenerFD is the first; without a listener the place is kept by the lock.
	cmd.ExtraFiles = []*os.File{components, components}
	if listener != nil {
		cmd.ExtraFiles[0] = listener
	}
	cmd.SysProcAttr = processAttributes()
	lifeline, err := cmd.StdinPipe()
	if err != nil {
		return nil, fmt.Errorf("making lifeline of %s: %w", s.name, err)
	}
	p.lifeline = lifeline
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
		return nil, fmt.Errorf("starting %s: %w", s.name, err)
	}
	return p, nil
}

// failure describes an end that nobody asked for.
func (p *process) failure() error {
	cause := p.err
	if cause == nil {
		cause = errors.New("exit status 0")
	}
	return fmt.Errorf("%s ended: %w; last lines of %s:\n%s", p.name, cause, p.logPath, lastLines(p.logPath, 8))
}

// stop asks the processes to end, and after grace kills those that have not.
func stop(grace time.Duration, ps ...*process) {
	for _, p := range ps {
		p.signal(syscall.SIGTERM)
	}
	deadline := time.After(grace)
	for _, p := range ps {
		select {
		case <-p.done:
			continue
		case <-deadline:
		}
		for _, q := range ps {
			q.signal(syscall.SIGKILL)
		}
		for _, q := range ps {
			<-q.done
		}
		return
	}
}

// signal does nothing to a process that has been waited for: its number may be another's.
func (p *process) signal(s syscall.Signal) {
	select {
	case <-p.done:
	default:
		_ = syscall.Kill(p.pid, s)
	}
}

func lastLines(path string, n int) string {
	f, err := os.Open(path)
	if err != nil {
		return err.Error()
	}
	defer f.Close()
	if info, err := f.Stat(); err == nil && info.Size() > 8192 {
		_, _ = f.Seek(-8192, io.SeekEnd)
	}
	raw, _ := io.ReadAll(f)
	lines := strings.Split(strings.TrimSpace(string(raw)), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}
