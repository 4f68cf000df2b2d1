package cluster

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"syscall"
	"time"
)

// Up starts the cluster detached and returns when it is ready. One that runs already is fine.
func Up(ctx context.Context, o Options, progress io.Writer) (Info, error) {
	if err := o.check(); err != nil {
		return Info{}, err
	}
	if err := os.MkdirAll(o.path(logDir), 0o700); err != nil {
		return Info{}, fmt.Errorf("making log directory: %w", err)
	}
	if s, ok, err := o.open(); err != nil {
		return Info{}, err
	} else if ok {
		idle, err := free(o.path(supervisorLock))
		if err != nil {
			return Info{}, err
		}
		if !idle {
			return o.running(ctx, s, progress)
		}
	}
	self, err := os.Executable()
	if err != nil {
		return Info{}, fmt.Errorf("finding own binary: %w", err)
	}
	logPath := o.path(logDir, "supervisor.log")
	logFile, err := os.OpenFile(logPath, os.O_CREATE|os.O_WRONLY|os.O_TRUNC|os.O_APPEND, 0o600)
	if err != nil {
		return Info{}, fmt.Errorf("opening supervisor's log: %w", err)
	}
	defer logFile.Close()
	began := time.Now()
	fmt.Fprintf(progress, "%s: starting in %s\n", o.Name, o.Dir)
	cmd := exec.Command(self, "run", "--detached", "--dir", o.Dir, "--name", o.Name, "--node-name", o.NodeName)
	cmd.Stderr = logFile
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return Info{}, fmt.Errorf("making pipe: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return Info{}, fmt.Errorf("starting supervisor: %w", err)
	}
	// An Up that is interrupted takes the half-started cluster with it.
	defer context.AfterFunc(ctx, func() { _ = cmd.Process.Signal(syscall.SIGTERM) })()
	line, readErr := bufio.NewReader(out).ReadBytes('\n')
	if readErr != nil {
		return Info{}, fmt.Errorf("starting cluster %s: %w; last lines of %s:\n%s", o.Name,
			errors.Join(cmd.Wait(), ctx.Err()), logPath, lastLines(logPath, 12))
	}
	var info Info
	if err := json.Unmarshal(line, &info); err != nil {
		return Info{}, fmt.Errorf("reading supervisor's answer: %w", err)
	}
	fmt.Fprintf(progress, "%s: ready on %s (%.1f s)\n", o.Name, info.APIServer, time.Since(began).Seconds())
	return info, nil
}

func (o Options) running(ctx context.Context, s state, progress io.Writer) (Info, error) {
	c, err := o.connect()
	if err != nil {
		return Info{}, err
	}
	if err := c.waitForAPIServer(ctx); err != nil {
		return Info{}, err
	}
	if err := c.waitForNode(ctx, s.NodeName); err != nil {
		return Info{}, err
	}
	if err := c.waitForDefaultAccount(ctx); err != nil {
		return Info{}, err
	}
	fmt.Fprintf(progress, "%s: already running on %s\n", o.Name, s.apiServer())
	return Info{Name: s.Name, Kubeconfig: o.path(AdminKubeconfig), APIServer: s.apiServer(), AuditLog: o.path(AuditLog), Node: s.NodeName}, nil
}

// Down stops the cluster in dir and returns when all its processes are gone. Data stays.
func Down(ctx context.Context, dir string, progress io.Writer) error {
	o := Options{Dir: dir}
	if _, err := os.Stat(o.path(supervisorLock)); errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("no cluster in %s", dir)
	}
	idle, err := free(o.path(supervisorLock))
	if err != nil {
		return err
	}
	if !idle {
		pid, err := o.supervisorPID()
		if err != nil {
			return err
		}
		if err := syscall.Kill(pid, syscall.SIGTERM); err != nil && !errors.Is(err, syscall.ESRCH) {
			return fmt.Errorf("stopping supervisor %d: %w", pid, err)
		}
	}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	for _, name := range []string{supervisorLock, componentsLock} {
		for {
			idle, err := free(o.path(name))
			if err != nil {
				return err
			}
			if idle {
				break
			}
			select {
			case <-ctx.Done():
				return fmt.Errorf("waiting for the cluster's processes to end: %w", ctx.Err())
			case <-time.After(20 * time.Millisecond):
			}
		}
	}
	fmt.Fprintf(progress, "stopped; data stays in %s\n", dir)
	return nil
}
