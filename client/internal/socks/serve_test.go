package socks

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"golang.org/x/net/proxy"
	"k8s.io/client-go/rest"
	clientspdy "k8s.io/client-go/transport/spdy"
	clientwebsocket "k8s.io/client-go/transport/websocket"
	"k8s.io/streaming/pkg/httpstream"
	"k8s.io/streaming/pkg/httpstream/spdy"
)

// proxied is a proxy whose overlay is one server on loopback, under any name.
type proxied struct {
	credentials Credentials
	mu          sync.Mutex
	dialled     []string
}

func (p *proxied) targets() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.dialled)
}

func start(t *testing.T, backend string) *proxied {
	t.Helper()
	ln, credentials, err := Listen(t.Context(), filepath.Join(t.TempDir(), "socks"))
	if err != nil {
		t.Fatal(err)
	}
	p := &proxied{credentials: credentials}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() {
		ended <- Serve(ctx, ln, Config{
			Credentials: credentials,
			Domain:      func() string { return "sallyport.internal" },
			Log:         slog.New(slog.DiscardHandler),
			Dial: func(ctx context.Context, network, addr string) (net.Conn, error) {
				p.mu.Lock()
				p.dialled = append(p.dialled, addr)
				p.mu.Unlock()
				var d net.Dialer
				return d.DialContext(ctx, network, backend)
			},
		})
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("serving: %v", err)
		}
	})
	return p
}

func (p *proxied) dial(t *testing.T, auth *proxy.Auth, target string) (net.Conn, error) {
	t.Helper()
	d, err := proxy.SOCKS5("tcp", p.credentials.Address.String(), auth, nil)
	if err != nil {
		t.Fatal(err)
	}
	return d.Dial("tcp", target)
}

func echo(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() { _, _ = io.Copy(c, c); c.Close() }()
		}
	}()
	return ln.Addr().String()
}

func TestOnlyThePasswordOpensTheProxy(t *testing.T) {
	p := start(t, echo(t))
	good := proxy.Auth{User: p.credentials.User, Password: p.credentials.Password}
	for name, auth := range map[string]*proxy.Auth{
		"none":           nil,
		"wrong password": {User: good.User, Password: strings.Repeat("A", len(good.Password))},
		"a prefix":       {User: good.User, Password: good.Password[:len(good.Password)-1]},
		"wrong user":     {User: "root", Password: good.Password},
	} {
		t.Run(name, func(t *testing.T) {
			if c, err := p.dial(t, auth, "edge-1.sallyport.internal:443"); err == nil {
				c.Close()
				t.Error("was let in")
			}
		})
	}
	if got := p.targets(); len(got) != 0 {
		t.Fatalf("dialled %v for strangers", got)
	}
	c, err := p.dial(t, &good, "edge-1.sallyport.internal:443")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := io.WriteString(c, "hello"); err != nil {
		t.Fatal(err)
	}
	if b := make([]byte, 5); !readsBack(c, b) || string(b) != "hello" {
		t.Errorf("read %q", b)
	}
}

func readsBack(r io.Reader, b []byte) bool {
	_, err := io.ReadFull(r, b)
	return err == nil
}

func TestOnlyTheOverlayIsDialled(t *testing.T) {
	p := start(t, echo(t))
	auth := &proxy.Auth{User: p.credentials.User, Password: p.credentials.Password}
	for _, target := range []string{
		"127.0.0.1:22", "localhost:22", "[::1]:22", "0.0.0.0:80", "169.254.169.254:80", "192.168.1.1:80", "10.0.0.1:443",
		"100.128.0.1:443", "100.63.255.255:443", "[fd7a:115c:a1e1::1]:443", "[::ffff:127.0.0.1]:443", "100.64.0.1:443", "[fd7a:115c:a1e0::1]:443",
		"example.com:443", "sallyport.internal:443", "evilsallyport.internal:443", "edge-1.sallyport.internal.evil.com:443",
		".sallyport.internal:443", "edge-1.sallyport.internal.:443", "edge-1.sallyport.internal:0", "2130706433:80",
	} {
		if c, err := p.dial(t, auth, target); err == nil {
			c.Close()
			t.Errorf("dialled %s", target)
		}
	}
	if got := p.targets(); len(got) != 0 {
		t.Errorf("dialled %v", got)
	}
	for _, target := range []string{"edge-1.sallyport.internal:443", "EDGE-1.Sallyport.Internal:443", "edge-1-x7k2.sallyport.internal:443"} {
		c, err := p.dial(t, auth, target)
		if err != nil {
			t.Errorf("%s: %v", target, err)
			continue
		}
		c.Close()
	}
}

// talk sends bytes after a good password, and returns the reply.
func (p *proxied) talk(t *testing.T, request []byte) reply {
	t.Helper()
	c, err := net.Dial("tcp", p.credentials.Address.String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	hello := []byte{version, 2, 0, methodUser, authVersion, byte(len(p.credentials.User))}
	hello = append(hello, p.credentials.User...)
	hello = append(hello, byte(len(p.credentials.Password)))
	hello = append(hello, p.credentials.Password...)
	// One byte at a time: nothing may depend on how TCP cuts.
	for _, b := range append(hello, request...) {
		if _, err := c.Write([]byte{b}); err != nil {
			t.Fatal(err)
		}
	}
	got := make([]byte, 4+10)
	if _, err := io.ReadFull(c, got); err != nil {
		t.Fatalf("answer %v, %v", got, err)
	}
	return reply(got[5])
}

func TestProxyKnowsConnectAlone(t *testing.T) {
	p := start(t, echo(t))
	name := append([]byte{atypName, 24}, "edge-1.sallyport.internal"[:24]...)
	name = append(name, 1, 187)
	for what, command := range map[string]byte{"BIND": 2, "UDP ASSOCIATE": 3, "nonsense": 200} {
		if got := p.talk(t, append([]byte{version, command, 0}, name...)); got != badCommand {
			t.Errorf("%s: reply %d", what, got)
		}
	}
	if got := p.talk(t, []byte{version, cmdConnect, 0, 9}); got != badAddress {
		t.Errorf("unknown address type: reply %d", got)
	}
	if got := p.talk(t, []byte{version, cmdConnect, 0, atypIPv4, 100, 64, 0, 1, 1, 187}); got != notAllowed {
		t.Errorf("an address: reply %d", got)
	}
	if got := p.targets(); len(got) != 0 {
		t.Errorf("dialled %v", got)
	}
}

func TestKubectlIsToldWhy(t *testing.T) {
	for _, test := range []struct {
		err  error
		want string
	}{
		{ErrOffline, "network unreachable"},
		{fmt.Errorf("resolving: %w", ErrNotOverlay), "connection not allowed by ruleset"},
		{context.DeadlineExceeded, "host unreachable"},
		{syscall.ECONNREFUSED, "connection refused"},
	} {
		ln, credentials, err := Listen(t.Context(), filepath.Join(t.TempDir(), "socks"))
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() {
			ended <- Serve(ctx, ln, Config{
				Credentials: credentials, Domain: func() string { return "x" }, Log: slog.New(slog.DiscardHandler),
				Dial: func(context.Context, string, string) (net.Conn, error) { return nil, test.err },
			})
		}()
		_, err = (&proxied{credentials: credentials}).dial(t, &proxy.Auth{User: credentials.User, Password: credentials.Password}, "edge.x:443")
		if err == nil || !strings.HasSuffix(err.Error(), test.want) {
			t.Errorf("%v: kubectl would say %v", test.err, err)
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
}

// An end of one direction must not cut what is still under way in the other.
func TestHalfClosedConnectionsKeepTheOtherHalf(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	go func() {
		for { // a stranger on this machine may come first
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				all, _ := io.ReadAll(c) // until the client has ended its half
				_, _ = c.Write(all)
			}()
		}
	}()
	p := start(t, ln.Addr().String())
	c, err := p.dial(t, &proxy.Auth{User: p.credentials.User, Password: p.credentials.Password}, "edge-1.sallyport.internal:443")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(c, "last words"); err != nil {
		t.Fatal(err)
	}
	if err := c.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(c); err != nil || string(got) != "last words" {
		t.Errorf("read %q, %v", got, err)
	}
}

func FuzzHandshake(f *testing.F) {
	credentials := Credentials{User: "u", Password: "p"}
	good := []byte{5, 1, 2, 1, 1, 'u', 1, 'p', 5, 1, 0, 3, 3, 'a', '.', 'x', 1, 187}
	f.Add(good)
	f.Add([]byte{5, 1, 0})
	f.Add([]byte{5, 2, 0, 2, 1, 1, 'u', 1, 'q'})
	f.Fuzz(func(t *testing.T, in []byte) {
		var out bytes.Buffer
		err := authenticate(rw{bytes.NewReader(in), &out}, credentials)
		if err == nil && !bytes.Contains(in, []byte{1, 1, 'u', 1, 'p'}) {
			t.Fatalf("let in by %v", in)
		}
		if target, r, err := request(bytes.NewReader(in)); err == nil {
			if r != succeeded {
				t.Fatalf("reply %d without an error", r)
			}
			if check(target, "x") == nil && !strings.Contains(strings.ToLower(target), ".x:") {
				t.Fatalf("target %q", target)
			}
		}
	})
}

type rw struct {
	io.Reader
	io.Writer
}

func TestEndingTheProxyCutsItsConnections(t *testing.T) {
	ln, credentials, err := Listen(t.Context(), filepath.Join(t.TempDir(), "socks"))
	if err != nil {
		t.Fatal(err)
	}
	backend := echo(t)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		ended <- Serve(ctx, ln, Config{
			Credentials: credentials, Domain: func() string { return "x" }, Log: slog.New(slog.DiscardHandler),
			Dial: func(context.Context, string, string) (net.Conn, error) { return net.Dial("tcp", backend) },
		})
	}()
	c, err := (&proxied{credentials: credentials}).dial(t, &proxy.Auth{User: credentials.User, Password: credentials.Password}, "edge.x:443")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if err := c.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the connection lives on: %v", err)
	}
}

func TestAProxyWithoutPasswordDoesNotStart(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	if err := Serve(t.Context(), ln, Config{}); err == nil {
		t.Error("it did")
	}
}

// kubectl's three ways through a proxy-url with user and password: plain requests,
// exec and port-forward over SPDY, the same over WebSocket.
func TestKubectlsTransportsPassWithUserAndPassword(t *testing.T) {
	api := fakeAPI(t)
	p := start(t, api.Listener.Addr().String())
	through, err := url.Parse(p.credentials.URL())
	if err != nil {
		t.Fatal(err)
	}
	const host = "https://edge-1.sallyport.internal"
	config := func() *rest.Config {
		return &rest.Config{Host: host, Proxy: http.ProxyURL(through), TLSClientConfig: rest.TLSClientConfig{Insecure: true}}
	}

	t.Run("request", func(t *testing.T) {
		client, err := rest.HTTPClientFor(config())
		if err != nil {
			t.Fatal(err)
		}
		resp, err := client.Get(host + "/api")
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusOK || resp.ProtoMajor != 2 {
			t.Errorf("%s %s", resp.Proto, resp.Status)
		}
	})
	t.Run("SPDY", func(t *testing.T) {
		transport, upgrader, err := clientspdy.RoundTripperFor(config())
		if err != nil {
			t.Fatal(err)
		}
		u, _ := url.Parse(host + "/spdy")
		conn, _, err := clientspdy.NewDialer(upgrader, &http.Client{Transport: transport}, http.MethodPost, u).Dial("v4")
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		stream, err := conn.CreateStream(http.Header{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(stream, "ping"); err != nil {
			t.Fatal(err)
		}
		if b := make([]byte, 4); !readsBack(stream, b) || string(b) != "ping" {
			t.Errorf("read %q", b)
		}
	})
	t.Run("WebSocket", func(t *testing.T) {
		transport, holder, err := clientwebsocket.RoundTripperFor(config())
		if err != nil {
			t.Fatal(err)
		}
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, host+"/websocket", nil)
		if err != nil {
			t.Fatal(err)
		}
		conn, err := clientwebsocket.Negotiate(transport, holder, req, "v5.channel.k8s.io")
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if err := conn.WriteMessage(websocket.BinaryMessage, []byte("ping")); err != nil {
			t.Fatal(err)
		}
		if _, b, err := conn.ReadMessage(); err != nil || string(b) != "ping" {
			t.Errorf("read %q, %v", b, err)
		}
	})
	for _, target := range p.targets() {
		if target != "edge-1.sallyport.internal:443" {
			t.Errorf("the name was not left to the proxy: %s", target)
		}
	}
}

// fakeAPI upgrades as an apiserver does, and sends back what it gets.
func fakeAPI(t *testing.T) *httptest.Server {
	t.Helper()
	mux := http.NewServeMux()
	mux.HandleFunc("/api", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "{}") })
	mux.HandleFunc("/spdy", func(w http.ResponseWriter, r *http.Request) {
		if _, err := httpstream.Handshake(r, w, []string{"v4"}); err != nil {
			t.Errorf("handshake: %v", err)
			return
		}
		conn := spdy.NewResponseUpgrader().UpgradeResponse(w, r, func(s httpstream.Stream, _ <-chan struct{}) error {
			go func() { _, _ = io.Copy(s, s) }()
			return nil
		})
		if conn != nil {
			<-conn.CloseChan()
		}
	})
	mux.HandleFunc("/websocket", func(w http.ResponseWriter, r *http.Request) {
		u := websocket.Upgrader{Subprotocols: []string{"v5.channel.k8s.io"}}
		conn, err := u.Upgrade(w, r, nil)
		if err != nil {
			t.Errorf("upgrade: %v", err)
			return
		}
		defer conn.Close()
		kind, b, err := conn.ReadMessage()
		if err == nil {
			err = conn.WriteMessage(kind, b)
		}
		if err != nil {
			t.Errorf("echo: %v", err)
		}
	})
	s := httptest.NewUnstartedServer(mux)
	s.EnableHTTP2 = true
	s.TLS = &tls.Config{MinVersion: tls.VersionTLS13}
	s.StartTLS()
	t.Cleanup(s.Close)
	return s
}

func TestPortAndPasswordOutliveTheDaemon(t *testing.T) {
	path := filepath.Join(t.TempDir(), "socks")
	ln, first, err := Listen(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	ln.Close()
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	ln, second, err := Listen(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	if first != second {
		t.Error("the credentials changed")
	}
	// Now somebody else holds the port, and may have heard the password.
	other, third, err := Listen(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	if third.Address == first.Address || third.Password == first.Password {
		t.Error("a taken port leaves the password as it was")
	}
	if kept, err := Load(path); err != nil || kept != third {
		t.Errorf("kept %v, %v", kept, err)
	}
}
