package localapi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"time"
)

// Backend is the daemon.
type Backend interface {
	Status(ctx context.Context) Status
	// Settled returns once the daemon has joined or given up, or ctx ends.
	Settled(ctx context.Context) Status
	// Access waits for a cluster that is not known to answer, for a while.
	Access(ctx context.Context, cluster string) Access
	// Reload takes up the session that is in the home now, or that there is none.
	Reload(ctx context.Context) error
	// Stop ends the daemon. It returns before the daemon is gone.
	Stop()
}

// Listen makes the socket at path. The caller holds the daemon's lock: a socket
// that is there already was left behind by a daemon that was killed.
func Listen(path string) (net.Listener, error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("removing the socket of a daemon that is gone: %w", err)
	}
	ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("listening for commands: %w", err)
	}
	// Between the two calls the home's mode, 0700, keeps others out.
	if err := os.Chmod(path, 0o600); err != nil {
		_ = ln.Close()
		return nil, fmt.Errorf("closing the socket to others: %w", err)
	}
	return ln, nil
}

// Serve answers on ln until ctx ends. Only the user uid is heard.
func Serve(ctx context.Context, ln net.Listener, uid int, b Backend, log *slog.Logger) error {
	srv := &http.Server{
		Handler:           handler(b),
		ReadHeaderTimeout: 5 * time.Second,
		BaseContext:       func(net.Listener) context.Context { return ctx },
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
	stopped := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(stopped)
		// Whoever asked for the stop gets his answer before the socket closes.
		grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		if srv.Shutdown(grace) != nil {
			_ = srv.Close() // what did not end in time
		}
	})
	err := srv.Serve(peerListener{ln, uid, log})
	if !stop() {
		<-stopped
		return nil
	}
	return fmt.Errorf("serving commands: %w", err)
}

// peerListener hangs up on other users.
type peerListener struct {
	net.Listener
	uid int
	log *slog.Logger
}

func (l peerListener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		unix, ok := c.(*net.UnixConn)
		if !ok {
			c.Close()
			continue
		}
		uid, err := peerUID(unix)
		if err != nil || uid != l.uid {
			l.log.Warn("refused another user's command", "uid", uid, "error", err)
			c.Close()
			continue
		}
		return c, nil
	}
}

func handler(b Backend) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/status", func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Get("settled") != "" {
			answer(w, b.Settled(r.Context()))
			return
		}
		answer(w, b.Status(r.Context()))
	})
	mux.HandleFunc("GET /v1/access", func(w http.ResponseWriter, r *http.Request) {
		answer(w, b.Access(r.Context(), r.URL.Query().Get("cluster")))
	})
	mux.HandleFunc("POST /v1/reload", func(w http.ResponseWriter, r *http.Request) {
		if err := b.Reload(r.Context()); err != nil {
			http.Error(w, err.Error(), http.StatusConflict)
			return
		}
		answer(w, struct{}{})
	})
	mux.HandleFunc("POST /v1/stop", func(w http.ResponseWriter, r *http.Request) {
		answer(w, struct{}{})
		b.Stop()
	})
	return mux
}

func answer(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v) // the reader went away: nobody to tell
}
