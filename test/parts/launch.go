package parts

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"
)

const (
	startTimeout = 5 * time.Minute // of a machine that is busy building the rest
	stopTimeout  = 20 * time.Second
)

// process is a part that runs in the foreground, prints one line of JSON when it is ready, and
// ends when its standard input closes.
type process struct {
	name string
	cmd  *exec.Cmd
	// lifeline is the pipe's end that closes with this process; never written to.
	lifeline io.Closer
	done     chan struct{}
	err      error // set before done is closed
	stop     sync.Once
	asked    chan struct{} // closed when Stop was called or the context ended
	release  func() bool
}

// launch starts a part and reads its ready line into answer.
func launch(ctx context.Context, name string, answer any, path string, args ...string) (*process, error) {
	p := &process{name: name, done: make(chan struct{}), asked: make(chan struct{})}
	p.cmd = exec.Command(path, args...)
	// A group of its own: Ctrl-C in a terminal reaches us alone, and we stop it in order.
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	var err error
	if p.lifeline, err = p.cmd.StdinPipe(); err != nil {
		return nil, fmt.Errorf("starting %s: %w", name, err)
	}
	stdout, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, fmt.Errorf("starting %s: %w", name, err)
	}
	stderr, err := p.cmd.StderrPipe()
	if err != nil {
		return nil, fmt.Errorf("starting %s: %w", name, err)
	}
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("starting %s: %w", name, err)
	}
	line := make(chan []byte, 1)
	go func() {
		raw, _ := bufio.NewReader(stdout).ReadBytes('\n')
		line <- raw
		_, _ = io.Copy(io.Discard, stdout)
	}()
	go func() {
		said := tail(stderr, 20, os.Stderr)
		err := p.cmd.Wait()
		select {
		case <-p.asked:
		default:
			if err == nil {
				err = errors.New("ended by itself")
			}
			p.err = fmt.Errorf("%s: %w\n%s", name, err, said)
		}
		close(p.done)
	}()
	p.release = context.AfterFunc(ctx, p.shutdown)
	timeout := time.NewTimer(startTimeout)
	defer timeout.Stop()
	select {
	case raw := <-line:
		if len(raw) == 0 {
			// It closed its output without an answer: it is about to end and to say why.
			<-p.done
			p.Stop()
			return nil, fmt.Errorf("starting %w", errors.Join(p.err, ctx.Err()))
		}
		if err := json.Unmarshal(raw, answer); err != nil {
			p.Stop()
			return nil, fmt.Errorf("starting %s: reading its answer %q: %w", name, raw, err)
		}
		return p, nil
	case <-timeout.C:
		p.Stop()
		return nil, fmt.Errorf("starting %s: not ready within %v", name, startTimeout)
	}
}

// Stop ends the part and returns when all its processes are gone. Its data stays.
func (p *process) Stop() {
	p.release()
	p.shutdown()
	<-p.done
}

func (p *process) shutdown() {
	p.stop.Do(func() {
		close(p.asked)
		_ = p.cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-p.done:
		case <-time.After(stopTimeout):
			report("%s does not stop, killing it", p.name)
			_ = p.cmd.Process.Signal(os.Kill)
			<-p.done
		}
		_ = p.lifeline.Close()
	})
}

// Done is closed when the part has ended, asked to or not.
func (p *process) Done() <-chan struct{} { return p.done }

// Err tells after Done why the part ended by itself; nil if it was asked to.
func (p *process) Err() error {
	select {
	case <-p.done:
		return p.err
	default:
		return nil
	}
}

// PID is the process id of the part's supervisor, for tests that kill it.
func (p *process) PID() int { return p.cmd.Process.Pid }
