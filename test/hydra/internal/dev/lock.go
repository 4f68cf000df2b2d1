package dev

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"
)

const (
	supervisorLock = "supervisor.lock"
	// componentsLock is inherited by PostgreSQL and Hydra: free only when all are gone.
	componentsLock = "components.lock"
)

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

// acquire takes both locks, waiting for the processes of a killed supervisor to end.
func (c Config) acquire(ctx context.Context) (supervisor, components *os.File, err error) {
	supervisor, err = lock(c.path(supervisorLock))
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return nil, nil, withHint(fmt.Errorf("another hydra-dev runs in %s", c.Dir), "stop it, or give another --dir")
	}
	if err != nil {
		return nil, nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	for {
		components, err = lock(c.path(componentsLock))
		if err == nil {
			return supervisor, components, nil
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, nil, errors.Join(err, supervisor.Close())
		}
		select {
		case <-ctx.Done():
			return nil, nil, errors.Join(fmt.Errorf("waiting for the processes of an earlier start, which still hold %s: %w",
				c.path(componentsLock), ctx.Err()), supervisor.Close())
		case <-time.After(20 * time.Millisecond):
		}
	}
}
