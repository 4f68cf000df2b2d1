package apiclient

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"connectrpc.com/connect"

	"github.com/sallyport-mesh/sallyport/pkg/api/sallyport/v1/apiv1connect"
	"github.com/sallyport-mesh/sallyport/pkg/pki"
)

// Config says which coordinator to talk to and how to know it.
type Config struct {
	// Link is the coordinator's URL and, until its root is known, the pin of it.
	Link pki.Link
	// RootPEM is the root that an earlier enrolment left behind. Empty: the pin
	// of Link decides, and without one the machine's own roots.
	RootPEM []byte
	// Certificate, where set, gives the client certificate for each new
	// connection. Where it gives nil, the connection has none.
	Certificate func() (*tls.Certificate, error)
	// Socket is the path of the coordinator's bootstrap socket, instead of Link.
	Socket string
	// Agent is who is calling, "sallyport/0.1.0": the User-Agent header.
	Agent string
	// Options on top, interceptors for instance.
	Options []connect.ClientOption
}

// Client is a coordinator, seen from outside.
type Client struct {
	// HTTP speaks to this coordinator with the trust of Config.
	HTTP *http.Client
	// URL of the coordinator without a path, https://host[:port].
	URL string

	transport *http.Transport
	options   []connect.ClientOption
}

// readLimit bounds one message from the coordinator, bytes. A search result or
// a bundle is far below it.
const readLimit = 16 << 20

// New makes a client. It does not connect.
func New(cfg Config) (*Client, error) {
	c := &Client{}
	t := &http.Transport{
		ForceAttemptHTTP2:     true,
		TLSHandshakeTimeout:   10 * time.Second,
		IdleConnTimeout:       90 * time.Second,
		MaxIdleConnsPerHost:   4,
		ResponseHeaderTimeout: 0, // a stream's headers may come late; callers bring a context
		// A connection that died silently under a stream is noticed in 25 s.
		HTTP2: &http.HTTP2Config{SendPingTimeout: 15 * time.Second, PingTimeout: 10 * time.Second},
	}
	dialer := &net.Dialer{Timeout: 10 * time.Second, KeepAlive: 15 * time.Second}
	switch {
	case cfg.Socket != "":
		t.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return dialer.DialContext(ctx, "unix", cfg.Socket)
		}
		c.URL = "http://coordinator.socket"
	default:
		c.URL = cfg.Link.URL
		t.DialContext = dialer.DialContext
		t.Proxy = http.ProxyFromEnvironment
		var err error
		if t.TLSClientConfig, err = tlsConfig(cfg); err != nil {
			return nil, err
		}
	}
	c.transport = t
	c.HTTP = &http.Client{
		Transport: agentHeader{cfg.Agent, t},
		CheckRedirect: func(req *http.Request, _ []*http.Request) error {
			return &redirectError{req.URL.Host}
		},
	}
	c.options = append([]connect.ClientOption{connect.WithReadMaxBytes(readLimit)}, cfg.Options...)
	return c, nil
}

// Enroll is the service that takes tokens instead of certificates.
func (c *Client) Enroll() apiv1connect.EnrollServiceClient {
	return apiv1connect.NewEnrollServiceClient(c.HTTP, c.URL, c.options...)
}

// Session is the service for a logged-in device.
func (c *Client) Session() apiv1connect.SessionServiceClient {
	return apiv1connect.NewSessionServiceClient(c.HTTP, c.URL, c.options...)
}

// Agent is the service for agents.
func (c *Client) Agent() apiv1connect.AgentServiceClient {
	return apiv1connect.NewAgentServiceClient(c.HTTP, c.URL, c.options...)
}

// Admin is the service for administrators.
func (c *Client) Admin() apiv1connect.AdminServiceClient {
	return apiv1connect.NewAdminServiceClient(c.HTTP, c.URL, c.options...)
}

// Close lets go of idle connections. Needed after the certificate changed, so
// that the next call presents the new one.
func (c *Client) Close() { c.transport.CloseIdleConnections() }

// PinError says that a server's chain does not hold the pinned root. It is a
// pki.ErrPin.
type PinError struct {
	Host string
	// Want and Seen are pins, 64 hex digits. Seen is of the last certificate in
	// the server's chain.
	Want, Seen string
}

func (e *PinError) Error() string {
	return fmt.Sprintf("%s presents the root sha256:%s, not the pinned sha256:%s", e.Host, e.Seen, e.Want)
}

// Is makes errors.Is(err, pki.ErrPin) true.
func (e *PinError) Is(target error) bool { return target == pki.ErrPin }

func tlsConfig(cfg Config) (*tls.Config, error) {
	c, err := pki.PinnedTLS(cfg.Link.Host(), cfg.Link.Pin, cfg.RootPEM)
	if err != nil {
		return nil, err
	}
	c.SessionTicketsDisabled = true
	if get := cfg.Certificate; get != nil {
		c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			cert, err := get()
			if err == nil && cert == nil {
				cert = &tls.Certificate{}
			}
			return cert, err
		}
	}
	if verify := c.VerifyConnection; verify != nil {
		c.VerifyConnection = func(cs tls.ConnectionState) error {
			err := verify(cs)
			if errors.Is(err, pki.ErrPin) && len(cs.PeerCertificates) > 0 {
				last := cs.PeerCertificates[len(cs.PeerCertificates)-1]
				return &PinError{Host: cfg.Link.Host(), Want: cfg.Link.Pin, Seen: pki.Pin(last)}
			}
			return err
		}
	}
	return c, nil
}

// redirectError says that a server wanted to send a request on.
type redirectError struct{ to string }

func (e *redirectError) Error() string { return "the server wants to send us to " + e.to }

type agentHeader struct {
	agent string
	next  http.RoundTripper
}

func (a agentHeader) RoundTrip(r *http.Request) (*http.Response, error) {
	if a.agent != "" {
		r = r.Clone(r.Context())
		r.Header.Set("User-Agent", a.agent)
	}
	return a.next.RoundTrip(r)
}
