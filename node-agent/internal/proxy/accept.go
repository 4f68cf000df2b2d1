package proxy

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"log"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/sallyport-mesh/sallyport/pkg/identity"
)

// Step 1, accept: TLS 1.3 with a client certificate of a user, on a connection
// that cannot hold more of us than its share.

// Limits bound what clients can hold of the agent. An overlay address belongs to
// one device, so limits by address are limits by device.
type Limits struct {
	Handshakes          int           // half-open connections, all together: 1,024 by default
	HandshakesPerDevice int           // half-open connections of one address: 32 by default
	ConnsPerDevice      int           // connections of one address: 256 by default
	RequestsPerUser     int           // requests in flight: 400 by default
	HandshakeTimeout    time.Duration // from the TCP connection to the end of TLS: 10 s by default
	HeaderTimeout       time.Duration // for one request's header: 10 s by default
	IdleTimeout         time.Duration // between requests: 15 min by default, so that clients close first
}

func (l Limits) withDefaults() Limits {
	for _, d := range []struct {
		field *int
		value int
	}{{&l.Handshakes, 1024}, {&l.HandshakesPerDevice, 32}, {&l.ConnsPerDevice, 256}, {&l.RequestsPerUser, 400}} {
		if *d.field <= 0 {
			*d.field = d.value
		}
	}
	for _, d := range []struct {
		field *time.Duration
		value time.Duration
	}{{&l.HandshakeTimeout, 10 * time.Second}, {&l.HeaderTimeout, 10 * time.Second}, {&l.IdleTimeout, 15 * time.Minute}} {
		if *d.field <= 0 {
			*d.field = d.value
		}
	}
	return l
}

// h2Window is what may be on its way to a stalled HTTP/2 stream: Go would buffer
// 1 MiB a stream as a server and 4 MiB as a client. With RequestsPerUser it is
// what one person can make the agent hold.
const h2Window = 256 << 10

// napTime is how long a client may be silent before its streams are given up: a
// laptop that slept or changed networks goes on with its watches and logs. What a
// client that is gone holds meanwhile is bounded by RequestsPerUser, and ends with
// its session like everything else.
const napTime = 10 * time.Minute

// Serve takes connections from the overlay's listener until it or the Proxy is
// closed. The remote addresses of its connections are overlay addresses.
func (p *Proxy) Serve(l net.Listener) error {
	srv := &http.Server{
		Handler:                      http.HandlerFunc(p.serve),
		TLSConfig:                    &tls.Config{NextProtos: []string{"h2", "http/1.1"}}, // the listener has done TLS already
		ReadHeaderTimeout:            p.cfg.Limits.HeaderTimeout,
		IdleTimeout:                  p.cfg.Limits.IdleTimeout,
		MaxHeaderBytes:               maxHeader,
		DisableGeneralOptionsHandler: true,
		ErrorLog:                     log.New(debugWriter{p.log}, "", 0),
		BaseContext:                  func(net.Listener) context.Context { return p.ctx },
		ConnContext:                  p.connContext,
		HTTP2: &http.HTTP2Config{
			MaxConcurrentStreams:          250,
			MaxReceiveBufferPerConnection: 4 * h2Window,
			MaxReceiveBufferPerStream:     h2Window,
			SendPingTimeout:               30 * time.Second,
			PingTimeout:                   napTime,
			WriteByteTimeout:              time.Minute,
		},
	}
	p.mu.Lock()
	if p.ctx.Err() != nil {
		p.mu.Unlock()
		l.Close()
		return http.ErrServerClosed
	}
	p.servers[srv] = true
	p.mu.Unlock()
	defer func() {
		p.mu.Lock()
		delete(p.servers, srv)
		p.mu.Unlock()
	}()
	return srv.Serve(newDoor(l, p.cfg.Limits, p.handshakeConfig))
}

// handshakeConfig is made for one handshake, so that the CAs are those of the
// policy in force at this moment. There are no session tickets: a resumed
// session would skip the certificate.
func (p *Proxy) handshakeConfig(remote netip.AddrPort) *tls.Config {
	return &tls.Config{
		MinVersion:             tls.VersionTLS13,
		NextProtos:             []string{"h2", "http/1.1"},
		SessionTicketsDisabled: true,
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
			cas := p.cfg.Policies.UserCAs()
			if cas == nil {
				return nil, errors.New("no policy yet, so no CA to take users from")
			}
			return &tls.Config{
				MinVersion:             tls.VersionTLS13,
				NextProtos:             []string{"h2", "http/1.1"},
				SessionTicketsDisabled: true,
				GetCertificate:         p.cfg.ServingCert,
				ClientAuth:             tls.RequireAndVerifyClientCert, // EKU clientAuth included
				ClientCAs:              cas,
				Time:                   p.now,
				VerifyConnection: func(state tls.ConnectionState) error {
					return p.verifyConnection(remote, state)
				},
			}, nil
		},
	}
}

// connection is what was established about a client at the handshake.
type connection struct {
	remote netip.AddrPort
	user   identity.UserCert
	serial string
	chain  []*x509.Certificate           // as presented; the first is the user's
	cas    atomic.Pointer[x509.CertPool] // the CAs that the chain was last verified against
}

type connectionKey struct{}

// connContext puts the connection's identity where its requests find it. A
// connection whose identity cannot be read gets none, and its requests are refused.
func (p *Proxy) connContext(ctx context.Context, c net.Conn) context.Context {
	tc, ok := c.(*tls.Conn)
	if !ok {
		return ctx
	}
	remote, err := remoteAddr(tc)
	if err != nil {
		return ctx
	}
	conn, err := p.readConnection(remote, tc.ConnectionState())
	if err != nil {
		return ctx
	}
	return context.WithValue(ctx, connectionKey{}, conn)
}

// debugWriter keeps net/http's lines about broken connections at debug level:
// anyone can cause them.
type debugWriter struct{ log *slog.Logger }

func (w debugWriter) Write(b []byte) (int, error) {
	w.log.Debug("connection trouble", "detail", string(b))
	return len(b), nil
}
