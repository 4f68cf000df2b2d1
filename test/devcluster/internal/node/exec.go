package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"time"

	"github.com/creack/pty"
	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
	utilexec "k8s.io/utils/exec"
)

// ExecInContainer runs a local command in the container's directory. As in a real cluster it is
// not killed when its client goes away: it loses its streams, and dies of that or not.
func (c *container) ExecInContainer(ctx context.Context, _, _, _ string, command []string, in io.Reader, out, errOut io.WriteCloser, tty bool, resize <-chan remotecommand.TerminalSize, _ time.Duration) error {
	if len(command) == 0 {
		return errors.New("no command")
	}
	c.running.Add(1)
	defer c.running.Done()
	// The kernel sends the parent-death signal when the thread that started the process ends,
	// so that thread is kept for as long as the process runs.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()

	cmd := exec.CommandContext(c.ctx, command[0], command[1:]...)
	cmd.Dir = c.dir
	cmd.Env = []string{
		"PATH=" + os.Getenv("PATH"),
		"HOME=" + c.dir,
		"PWD=" + c.dir,
		"HOSTNAME=" + c.pod,
		"POD_NAMESPACE=" + c.namespace,
		"POD_NAME=" + c.pod,
	}
	cmd.SysProcAttr = processAttributes(tty)
	cmd.Cancel = func() error {
		err := syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		if errors.Is(err, syscall.ESRCH) {
			return os.ErrProcessDone
		}
		return err
	}
	var err error
	if tty {
		err = runOnTerminal(cmd, in, out, resize)
	} else {
		err = runOnPipes(cmd, in, out, errOut)
	}
	// What it left in the background goes with it. A real container would keep that, but its
	// group's number may be somebody else's by the time the container ends.
	if cmd.Process != nil {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
	}
	return exitStatus(err)
}

func runOnPipes(cmd *exec.Cmd, in io.Reader, out, errOut io.WriteCloser) error {
	if out != nil {
		cmd.Stdout = out
	}
	if errOut != nil {
		cmd.Stderr = errOut
	}
	if in != nil {
		// Not cmd.Stdin: Wait would then wait for the client to close its side.
		w, err := cmd.StdinPipe()
		if err != nil {
			return fmt.Errorf("making pipe: %w", err)
		}
		go func() {
			_, _ = io.Copy(w, in)
			_ = w.Close()
		}()
	}
	return cmd.Run()
}

func runOnTerminal(cmd *exec.Cmd, in io.Reader, out io.Writer, resize <-chan remotecommand.TerminalSize) error {
	cmd.Env = append(cmd.Env, "TERM=xterm")
	terminal, err := pty.Start(cmd)
	if err != nil {
		return err
	}
	defer terminal.Close()
	go func() {
		for size := range resize {
			_ = pty.Setsize(terminal, &pty.Winsize{Rows: size.Height, Cols: size.Width})
		}
	}()
	if in != nil {
		go func() {
			_, _ = io.Copy(terminal, in)
			_, _ = terminal.Write([]byte{4}) // end of transmission: the client closed its input
		}()
	}
	copied := make(chan struct{})
	go func() {
		defer close(copied)
		if out != nil {
			_, _ = io.Copy(out, terminal) // ends with EIO when the last holder of the terminal is gone
		}
	}()
	err = cmd.Wait()
	select {
	case <-copied:
	case <-time.After(time.Second): // a background process still holds the terminal
	}
	return err
}

// exitStatus turns a command's end into what remotecommand sends as the exit code. A shell
// reports a command that cannot be started as 126 or 127; so do container runtimes.
func exitStatus(err error) error {
	var exit *exec.ExitError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &exit):
		code := exit.ExitCode()
		if ws, ok := exit.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
			code = 128 + int(ws.Signal())
		}
		return utilexec.CodeExitError{Err: err, Code: code}
	case errors.Is(err, exec.ErrNotFound), errors.Is(err, os.ErrNotExist):
		return utilexec.CodeExitError{Err: err, Code: 127}
	case errors.Is(err, os.ErrPermission):
		return utilexec.CodeExitError{Err: err, Code: 126}
	}
	return err
}
