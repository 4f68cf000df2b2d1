package proxy

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"
)

// door is a listener that hands out connections only once their handshake is
// done, so that half-open ones are counted, bounded and out of the server's way.
type door struct {
	net.Listener
	limits Limits
	config func(netip.AddrPort) *tls.Config

	conns  chan net.Conn
	failed chan error
	done   chan struct{}
	once   sync.Once

	mu       sync.Mutex
	halfOpen int
	devices  map[netip.Addr]*held
}

type held struct{ halfOpen, conns int }

func newDoor(l net.Listener, limits Limits, config func(netip.AddrPort) *tls.Config) *door {
	d := &door{
		Listener: l, limits: limits, config: config,
		conns: make(chan net.Conn), failed: make(chan error, 1), done: make(chan struct{}),
		devices: map[netip.Addr]*held{},
	}
	go d.run()
	return d
}

// Accept implements net.Listener.
func (d *door) Accept() (net.Conn, error) {
	select {
	case c := <-d.conns:
		return c, nil
	case err := <-d.failed:
		return nil, err
	case <-d.done:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (d *door) Close() error {
	d.once.Do(func() { close(d.done) })
	return d.Listener.Close()
}

func (d *door) run() {
	for {
		c, err := d.Listener.Accept()
		if err != nil {
			var temporary net.Error
			if errors.As(err, &temporary) && temporary.Timeout() {
				continue
			}
			d.failed <- err
			return
		}
		remote, err := remoteAddr(c)
		if err != nil || !d.enter(remote.Addr()) {
			c.Close()
			continue
		}
		go d.handshake(&heldConn{Conn: c, leave: func() { d.leave(remote.Addr()) }}, remote)
	}
}

func (d *door) handshake(c *heldConn, remote netip.AddrPort) {
	tc := tls.Server(c, d.config(remote))
	c.SetDeadline(time.Now().Add(d.limits.HandshakeTimeout))
	err := guardedHandshake(tc)
	d.opened(remote.Addr())
	if err != nil {
		_ = c.Close() // the handshake failed, that is what counts
		return
	}
	c.SetDeadline(time.Time{})
	select {
	case d.conns <- tc:
	case <-d.done:
		_ = c.Close()
	}
}

// guardedHandshake takes a panic of what is asked during the handshake for a
// failure of this handshake, not of the agent.
func guardedHandshake(c *tls.Conn) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("handshake panicked: %v", v)
		}
	}()
	return c.Handshake()
}

// enter counts a connection in, or says that there are too many.
func (d *door) enter(a netip.Addr) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	h := d.devices[a]
	if h == nil {
		h = &held{}
	}
	if d.halfOpen >= d.limits.Handshakes || h.halfOpen >= d.limits.HandshakesPerDevice || h.conns >= d.limits.ConnsPerDevice {
		return false
	}
	d.devices[a] = h
	d.halfOpen++
	h.halfOpen++
	h.conns++
	return true
}

func (d *door) opened(a netip.Addr) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.halfOpen--
	d.devices[a].halfOpen--
}

func (d *door) leave(a netip.Addr) {
	d.mu.Lock()
	defer d.mu.Unlock()
	h := d.devices[a]
	if h.conns--; h.conns == 0 {
		delete(d.devices, a)
	}
}

// heldConn gives its place back when it is closed.
type heldConn struct {
	net.Conn
	leave func()
	once  sync.Once
}

func (c *heldConn) Close() error {
	err := c.Conn.Close()
	c.once.Do(c.leave)
	return err
}
