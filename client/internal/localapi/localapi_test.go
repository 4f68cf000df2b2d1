package localapi

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// backend is a daemon that has joined.
type backend struct{ stopped chan struct{} }

func (backend) Status(context.Context) Status  { return Status{State: Joined, PID: os.Getpid()} }
func (backend) Settled(context.Context) Status { return Status{State: Joined} }
func (backend) Access(_ context.Context, cluster string) Access {
	return Access{State: Joined, Open: cluster == "edge-1"}
}
func (backend) Reload(context.Context) error { return errors.New("another coordinator") }
func (b backend) Stop()                      { close(b.stopped) }

func serve(t *testing.T, uid int) (*Client, backend) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "daemon.sock")
	ln, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	b := backend{make(chan struct{})}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- Serve(ctx, ln, uid, b, slog.New(slog.DiscardHandler)) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return NewClient(path), b
}

func TestOwnUserIsAnswered(t *testing.T) {
	c, b := serve(t, os.Getuid())
	if st, err := c.Status(t.Context()); err != nil || st.State != Joined || st.PID != os.Getpid() {
		t.Errorf("status %+v, %v", st, err)
	}
	for cluster, open := range map[string]bool{"edge-1": true, "edge 2&cluster=edge-1": false} {
		if a, err := c.Access(t.Context(), cluster); err != nil || a.Open != open {
			t.Errorf("%s: %+v, %v", cluster, a, err)
		}
	}
	if err := c.Reload(t.Context()); err == nil || err.Error() != "the daemon says: another coordinator" {
		t.Errorf("reload: %v", err)
	}
	if err := c.Stop(t.Context()); err != nil {
		t.Error(err)
	}
	<-b.stopped
}

// The kernel says who connected; a process of another user is hung up on even
// where the file's mode would let it in.
func TestAnotherUserIsHungUpOn(t *testing.T) {
	c, b := serve(t, os.Getuid()+1)
	if _, err := c.Status(t.Context()); err == nil || errors.Is(err, ErrNotRunning) {
		t.Errorf("status: %v", err)
	}
	if err := c.Stop(t.Context()); err == nil {
		t.Error("stop was taken")
	}
	select {
	case <-b.stopped:
		t.Error("the daemon was stopped")
	default:
	}
}

func TestNoDaemonIsSaidPlainly(t *testing.T) {
	dir := t.TempDir()
	if _, err := NewClient(filepath.Join(dir, "none")).Status(t.Context()); !errors.Is(err, ErrNotRunning) {
		t.Errorf("without a socket: %v", err)
	}
	path := filepath.Join(dir, "stale")
	stale(t, path)
	if _, err := NewClient(path).Status(t.Context()); !errors.Is(err, ErrNotRunning) {
		t.Errorf("with the socket of a daemon that was killed: %v", err)
	}
	ln, err := Listen(path)
	if err != nil {
		t.Fatalf("a stale socket is in the way: %v", err)
	}
	ln.Close()
}

// stale leaves a socket behind that nobody listens on.
func stale(t *testing.T, path string) {
	t.Helper()
	ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	ln.SetUnlinkOnClose(false)
	ln.Close()
}

func TestSettledEndsWithItsCaller(t *testing.T) {
	c, _ := serve(t, os.Getuid())
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if st, err := c.Settled(ctx); err != nil || st.State != Joined {
		t.Errorf("%+v, %v", st, err)
	}
}

// A daemon that is killed under a question is one that does not run.
func TestDaemonKilledUnderAQuestion(t *testing.T) {
	path := filepath.Join(t.TempDir(), "daemon.sock")
	ln, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		c, err := ln.Accept()
		ln.Close()
		if err == nil {
			c.Close()
		}
	}()
	if _, err := NewClient(path).Status(t.Context()); !errors.Is(err, ErrNotRunning) {
		t.Errorf("error %v", err)
	}
	<-gone
}
