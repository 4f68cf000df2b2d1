package cluster

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const (
	// supervisorLock is held by the supervisor, which writes its process id into it.
	supervisorLock = "supervisor.lock"
	// componentsLock is inherited by the components, so it is free only when all are gone.
	componentsLock = "components.lock"
)

// ErrRunning means that another supervisor has this directory.
var ErrRunning = errors.New("already running")

// acquire takes both locks. The components of a killed supervisor are ending by themselves; it
// waits for them.
func (o Options) acquire(ctx context.Context) (supervisor, components *os.File, err error) {
	if err := os.MkdirAll(o.Dir, 0o700); err != nil {
		return nil, nil, fmt.Errorf("making cluster directory: %w", err)
	}
	supervisor, err = lock(o.path(supervisorLock))
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return nil, nil, fmt.Errorf("cluster in %s: %w", o.Dir, ErrRunning)
	}
	if err != nil {
		return nil, nil, err
	}
	deadline := time.NewTimer(15 * time.Second)
	defer deadline.Stop()
	for {
		components, err = lock(o.path(componentsLock))
		if err == nil {
			break
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, nil, errors.Join(err, supervisor.Close())
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			return nil, nil, errors.Join(ctx.Err(), supervisor.Close())
		case <-deadline.C:
			return nil, nil, errors.Join(fmt.Errorf("components of an earlier start still hold %s; their process ids are in %s",
				o.path(componentsLock), o.path(ProcessFile)), supervisor.Close())
		}
	}
	pid := []byte(strconv.Itoa(os.Getpid()))
	if err := errors.Join(supervisor.Truncate(0), writeAt(supervisor, pid)); err != nil {
		return nil, nil, errors.Join(fmt.Errorf("writing supervisor's process id: %w", err), supervisor.Close(), components.Close())
	}
	return supervisor, components, nil
}

func writeAt(f *os.File, b []byte) error {
	_, err := f.WriteAt(b, 0)
	return err
}

func lock(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("opening lock: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return nil, errors.Join(fmt.Errorf("locking %s: %w", path, err), f.Close())
	}
	return f, nil
}

// free tells whether nobody holds the lock.
func free(path string) (bool, error) {
	if _, err := os.Stat(path); errors.Is(err, os.ErrNotExist) {
		return true, nil
	}
	f, err := lock(path)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return true, f.Close()
}

func (o Options) supervisorPID() (int, error) {
	raw, err := os.ReadFile(o.path(supervisorLock))
	if err != nil {
		return 0, fmt.Errorf("reading supervisor's process id: %w", err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(raw)))
	if err != nil || pid <= 1 {
		return 0, fmt.Errorf("%s holds no process id", o.path(supervisorLock))
	}
	return pid, nil
}
