package socks

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	// dialTimeout is for a first packet on the way through a relay.
	dialTimeout = 15 * time.Second
	// handshakeTimeout is how long a peer may take to show its password.
	handshakeTimeout = 5 * time.Second
	// strangers is how many may be at that point at once; more wait in line. It
	// keeps other users of the machine from using up our files.
	strangers = 64
)

// Config of a proxy.
type Config struct {
	Credentials Credentials
	// Domain is the overlay's DNS suffix, without a leading dot: only names under
	// it are dialled. Asked for at every connection.
	Domain func() string
	// Dial goes over the overlay only. ErrOffline and ErrNotOverlay are told to
	// kubectl as such.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
	// Log gets refusals and failed connections.
	Log *slog.Logger
}

var (
	// ErrNotOverlay says that a target is no name on the overlay.
	ErrNotOverlay = errors.New("not a name of the overlay")
	// ErrOffline says that this device is not on the overlay.
	ErrOffline = errors.New("not on the overlay")
)

// Serve proxies until ctx ends, and then closes the listener and every connection.
func Serve(ctx context.Context, ln net.Listener, cfg Config) error {
	if cfg.Credentials.User == "" || cfg.Credentials.Password == "" {
		return errors.New("a proxy without a password would be open to everyone on this machine")
	}
	stop := context.AfterFunc(ctx, func() { ln.Close() })
	defer stop()
	var open sync.WaitGroup
	defer open.Wait()
	door := make(chan struct{}, strangers)
	for {
		door <- struct{}{}
		c, err := ln.Accept()
		if ctx.Err() != nil {
			if err == nil {
				c.Close()
			}
			return nil
		}
		if err != nil {
			return fmt.Errorf("accepting from kubectl: %w", err)
		}
		open.Go(func() { serve(ctx, c, cfg, func() { <-door }) })
	}
}

// serve handles one connection to its end. entered is called once the peer has
// shown its password, or has gone.
func serve(ctx context.Context, c net.Conn, cfg Config, entered func()) {
	stop := context.AfterFunc(ctx, func() { c.Close() })
	defer stop()
	defer c.Close()

	// 1. Who is it?
	err := c.SetDeadline(time.Now().Add(handshakeTimeout))
	if err == nil {
		err = authenticate(c, cfg.Credentials)
	}
	entered()
	if err != nil {
		cfg.Log.Warn("proxy refused a stranger", "error", err)
		return
	}
	// 2. Where to?
	target, r, err := request(c)
	if err == nil {
		err = errors.Join(c.SetDeadline(time.Time{}), check(target, cfg.Domain()))
		r = replyTo(err)
	}
	if err != nil {
		cfg.Log.Warn("proxy refused a target", "target", target, "error", err)
		_ = answer(c, r) // it is being hung up on anyway
		return
	}
	// 3. Go there.
	dialling, cancel := context.WithTimeout(ctx, dialTimeout)
	out, err := cfg.Dial(dialling, "tcp", target)
	cancel()
	if err != nil {
		cfg.Log.Warn("proxy could not reach a target", "target", target, "error", err)
		_ = answer(c, replyTo(err))
		return
	}
	stopOut := context.AfterFunc(ctx, func() { out.Close() })
	defer stopOut()
	defer out.Close()
	if answer(c, succeeded) == nil {
		splice(c, out)
	}
}

// splice copies both ways until both have ended. An end of one direction is
// passed on, so that what is still under way in the other arrives.
func splice(a, b net.Conn) {
	var both sync.WaitGroup
	for _, way := range [][2]net.Conn{{a, b}, {b, a}} {
		both.Go(func() {
			_, err := io.Copy(way[0], way[1])
			half, ok := way[0].(interface{ CloseWrite() error })
			if err != nil || !ok {
				a.Close()
				b.Close()
				return
			}
			if half.CloseWrite() != nil {
				way[0].Close()
			}
		})
	}
	both.Wait()
}

// replyTo is the reply for what a dial ended with.
func replyTo(err error) reply {
	switch {
	case err == nil:
		return succeeded
	case errors.Is(err, ErrNotOverlay):
		return notAllowed
	case errors.Is(err, ErrOffline):
		return networkUnreachable
	case errors.Is(err, syscall.ECONNREFUSED), strings.Contains(err.Error(), "connection was refused"): // netstack's words
		return connectionRefused
	}
	return hostUnreachable
}

// check lets names of the overlay pass and nothing else: an address could be one
// of the local network too (100.64.0.0/10 is used by providers), a name under the
// overlay's domain is resolved by the overlay alone.
func check(addr, domain string) error {
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
