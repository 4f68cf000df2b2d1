package proxy

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"k8s.io/client-go/rest"
)

// upstream is the way to the apiserver: one transport for requests and one for
// upgrades, which need a connection of their own and HTTP/1.1. Neither holds a
// credential; both leave every request as it is.
type upstream struct {
	scheme, host, prefix string
	requests, upgrades   *http.Transport
}

func newUpstream(cfg *rest.Config) (*upstream, error) {
	if cfg == nil {
		return nil, errors.New("no configuration for the apiserver")
	}
	anonymous := rest.AnonymousClientConfig(cfg)
	anonymous.NextProtos = nil
	base, _, err := rest.DefaultServerUrlFor(anonymous)
	if err != nil {
		return nil, fmt.Errorf("reading the apiserver's address: %w", err)
	}
	if base.Scheme != "https" {
		return nil, fmt.Errorf("the apiserver's address %q is not https", base.Redacted())
	}
	u := &upstream{scheme: base.Scheme, host: base.Host, prefix: strings.TrimRight(base.EscapedPath(), "/")}
	if u.requests, err = newTransport(anonymous, []string{"h2", "http/1.1"}); err != nil {
		return nil, err
	}
	if u.upgrades, err = newTransport(anonymous, []string{"http/1.1"}); err != nil {
		return nil, err
	}
	u.upgrades.DisableKeepAlives = true // an upgrade that failed leaves nothing behind
	u.upgrades.TLSNextProto = map[string]func(string, *tls.Conn) http.RoundTripper{}
	u.upgrades.ForceAttemptHTTP2 = false
	return u, nil
}

func newTransport(anonymous *rest.Config, protos []string) (*http.Transport, error) {
	tc, err := rest.TLSConfigFor(anonymous)
	if err != nil {
		return nil, fmt.Errorf("reading the apiserver's CA: %w", err)
	}
	if tc == nil {
		tc = &tls.Config{MinVersion: tls.VersionTLS12}
	}
	if len(tc.Certificates) != 0 || tc.GetClientCertificate != nil {
		// A client certificate on the transport would beat the person's token
		// without a word (see DESIGN, "Never our own identity").
		return nil, errors.New("a client certificate is left on the transport for people's requests")
	}
	tc = tc.Clone()
	tc.NextProtos = protos
	dial := anonymous.Dial
	if dial == nil {
		dial = (&net.Dialer{Timeout: 5 * time.Second, KeepAlive: 30 * time.Second}).DialContext
	}
	return &http.Transport{
		Proxy:                  anonymous.Proxy,
		DialContext:            dial,
		TLSClientConfig:        tc,
		TLSHandshakeTimeout:    5 * time.Second,
		ForceAttemptHTTP2:      true,
		DisableCompression:     true, // or Accept-Encoding and the body would not be the client's
		MaxIdleConnsPerHost:    64,
		IdleConnTimeout:        90 * time.Second,
		MaxResponseHeaderBytes: 64 << 10,
		ReadBufferSize:         16 << 10,
		WriteBufferSize:        16 << 10,
		HTTP2: &http.HTTP2Config{
			// Streams of all people share connections here. The connection's own
			// window stays at Go's 1 GiB: a smaller one would let a few clients
			// that do not read stop everybody's answers.
			MaxReceiveBufferPerStream: h2Window,
			SendPingTimeout:           30 * time.Second,
		},
	}, nil
}

// target is the URL that puts exactly the decided bytes on the request line:
// Opaque and RawQuery are written as they are.
func (u *upstream) target(t target) *url.URL {
	return &url.URL{
		Scheme: u.scheme, Host: u.host, Opaque: u.prefix + t.rawPath,
		RawQuery: t.rawQuery, ForceQuery: t.hasQuery,
	}
}

func (u *upstream) close() {
	u.requests.CloseIdleConnections()
	u.upgrades.CloseIdleConnections()
}
