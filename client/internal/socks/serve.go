package socks

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strconv"
	"strings"
	"sync"
	"time"

	"tailscale.com/net/socks5"
)

// dialTimeout is for a first packet on the way through a relay.
const dialTimeout = 15 * time.Second

// Config of a proxy.
type Config struct {
	Credentials Credentials
	// Domain is the overlay's DNS suffix, without a leading dot: only names under
	// it are dialled. Asked for at every connection.
	Domain func() string
	// Dial goes over the overlay only.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
	// Log gets refusals and failed connections.
	Log *slog.Logger
}

// ErrNotOverlay is why a target is refused.
var ErrNotOverlay = errors.New("not a name of the overlay")

// Serve proxies until ctx ends, and then closes the listener and every connection.
func Serve(ctx context.Context, ln net.Listener, cfg Config) error {
	if cfg.Credentials.User == "" || cfg.Credentials.Password == "" {
		return errors.New("a proxy without a password would be open to everyone on this machine")
	}
	conns := &tracked{open: map[net.Conn]struct{}{}}
	stop := context.AfterFunc(ctx, func() {
		ln.Close()
		conns.close()
	})
	defer stop()
	s := socks5.Server{
		Username: cfg.Credentials.User,
		Password: cfg.Credentials.Password,
		Logf: func(format string, args ...any) {
			cfg.Log.Debug("proxy connection ended", "detail", fmt.Sprintf(format, args...))
		},
		Dialer: func(_ context.Context, network, addr string) (net.Conn, error) {
			// socks5 gives each dial five seconds; that is short for a first
			// packet through a relay, and ctx is the one that ends with us.
			c, err := dial(ctx, cfg, network, addr)
			if err != nil {
				cfg.Log.Warn("proxy target refused", "target", addr, "error", err)
				return nil, err
			}
			return c, nil
		},
	}
	err := s.Serve(&trackingListener{ln, conns})
	if ctx.Err() != nil {
		return nil
	}
	return fmt.Errorf("accepting from kubectl: %w", err)
}

func dial(ctx context.Context, cfg Config, network, addr string) (net.Conn, error) {
	if err := check(network, addr, cfg.Domain()); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	return cfg.Dial(ctx, "tcp", addr)
}

// check lets names of the overlay pass and nothing else: an address could be one
// of the local network too (100.64.0.0/10 is used by providers), a name under the
// overlay's domain is resolved by the overlay alone.
func check(network, addr, domain string) error {
	if network != "tcp" {
		return fmt.Errorf("%s: %w", network, ErrNotOverlay)
	}
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return ErrNotOverlay
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return ErrNotOverlay
	}
	label, ok := strings.CutSuffix(strings.ToLower(host), "."+strings.ToLower(domain))
	if !ok || domain == "" || label == "" || strings.HasPrefix(label, ".") {
		return ErrNotOverlay
	}
	return nil
}

// tracked are the connections that are open, so that all can be closed.
type tracked struct {
	mu     sync.Mutex
	closed bool
	open   map[net.Conn]struct{}
}

func (t *tracked) close() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.closed = true
	for c := range t.open {
		c.Close()
	}
}

type trackingListener struct {
	net.Listener
	conns *tracked
}

func (l *trackingListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	l.conns.mu.Lock()
	defer l.conns.mu.Unlock()
	if l.conns.closed {
		c.Close()
	}
	tc := &trackedConn{Conn: c, conns: l.conns}
	l.conns.open[tc] = struct{}{}
	return tc, nil
}

type trackedConn struct {
	net.Conn
	conns *tracked
}

func (c *trackedConn) Close() error {
	err := c.Conn.Close()
	go c.forget()
	return err
}

func (c *trackedConn) forget() {
	c.conns.mu.Lock()
	defer c.conns.mu.Unlock()
	delete(c.conns.open, c)
}
