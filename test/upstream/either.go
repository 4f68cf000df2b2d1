package upstream

import (
	"bufio"
	"crypto/tls"
	"net"
	"sync"
)

// either takes TLS and plain HTTP on one port: a connection's first byte tells.
type either struct {
	net.Listener
	config *tls.Config
}

func (l *either) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &told{Conn: c, config: l.config}, nil
}

// told finds out at the first use, on the goroutine of the connection.
type told struct {
	net.Conn
	config *tls.Config
	once   sync.Once
	is     net.Conn
}

type peeked struct {
	net.Conn
	r *bufio.Reader
}

func (p peeked) Read(b []byte) (int, error) { return p.r.Read(b) }

func (t *told) tell() net.Conn {
	t.once.Do(func() {
		p := peeked{t.Conn, bufio.NewReader(t.Conn)}
		t.is = p
		if first, err := p.r.Peek(1); err == nil && first[0] == 22 { // a TLS handshake record
			t.is = tls.Server(p, t.config)
		}
	})
	return t.is
}

func (t *told) Read(b []byte) (int, error)  { return t.tell().Read(b) }
func (t *told) Write(b []byte) (int, error) { return t.tell().Write(b) }
