package apiclient

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"

	apiv1 "github.com/sallyport-mesh/sallyport/pkg/api/sallyport/v1"
	"github.com/sallyport-mesh/sallyport/pkg/api/sallyport/v1/apiv1connect"
	"github.com/sallyport-mesh/sallyport/pkg/pki"
	"github.com/sallyport-mesh/sallyport/pkg/process"
)

// coordinator answers Discover with the common name of the client's certificate.
type coordinator struct {
	apiv1connect.UnimplementedEnrollServiceHandler
	err error
}

func (c coordinator) Discover(ctx context.Context, req *connect.Request[apiv1.DiscoverRequest]) (*connect.Response[apiv1.DiscoverResponse], error) {
	if c.err != nil {
		return nil, c.err
	}
	return connect.NewResponse(&apiv1.DiscoverResponse{Name: req.Header().Get("Test-Peer"), Version: req.Header().Get("User-Agent")}), nil
}

func serve(t *testing.T, c coordinator) *httptest.Server {
	t.Helper()
	mux := http.NewServeMux()
	mux.Handle(apiv1connect.NewEnrollServiceHandler(c))
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.Header.Del("Test-Peer")
		if r.TLS != nil && len(r.TLS.PeerCertificates) > 0 {
			r.Header.Set("Test-Peer", pki.Pin(r.TLS.PeerCertificates[0]))
		}
		mux.ServeHTTP(w, r)
	}))
	s.EnableHTTP2 = true
	s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	s.TLS = &tls.Config{ClientAuth: tls.RequestClientCert}
	s.StartTLS()
	t.Cleanup(s.Close)
	return s
}

func config(s *httptest.Server) Config {
	return Config{Link: pki.Link{URL: s.URL}, RootPEM: pki.EncodeChain(s.Certificate()), Agent: "test/1"}
}

func discover(t *testing.T, c *Client) (*apiv1.DiscoverResponse, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	resp, err := c.Enroll().Discover(ctx, connect.NewRequest(&apiv1.DiscoverRequest{}))
	if err != nil {
		return nil, err
	}
	return resp.Msg, nil
}

func client(t *testing.T, cfg Config) *Client {
	t.Helper()
	c, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func TestPrivateRootIsTheOnlyRoot(t *testing.T) {
	s := serve(t, coordinator{})
	if m, err := discover(t, client(t, config(s))); err != nil || m.Version != "test/1" {
		t.Errorf("with the root: %v, %v", m, err)
	}
	cfg := config(s)
	cfg.RootPEM = nil
	_, err := discover(t, client(t, cfg))
	if unknown := new(x509.UnknownAuthorityError); !errors.As(err, unknown) {
		t.Errorf("without the root: %v", err)
	}
}

func TestNewCertificateIsShownAfterClose(t *testing.T) {
	s := serve(t, coordinator{})
	var current *tls.Certificate
	cfg := config(s)
	cfg.Certificate = func() (*tls.Certificate, error) { return current, nil }
	c := client(t, cfg)
	if m, err := discover(t, c); err != nil || m.Name != "" {
		t.Errorf("without a certificate: %v, %v", m, err)
	}
	current = &s.TLS.Certificates[0] // any will do
	c.Close()
	if m, err := discover(t, c); err != nil || m.Name != pki.Pin(s.Certificate()) {
		t.Errorf("with a certificate: %v, %v", m, err)
	}
	cfg.Certificate = func() (*tls.Certificate, error) { return nil, errors.New("no key") }
	if _, err := discover(t, client(t, cfg)); err == nil || !strings.Contains(err.Error(), "no key") {
		t.Errorf("with a key that cannot be read: %v", err)
	}
}

func TestOldTLSIsRefused(t *testing.T) {
	s := serve(t, coordinator{})
	s.TLS.MaxVersion = tls.VersionTLS12
	if _, err := discover(t, client(t, config(s))); err == nil {
		t.Error("TLS 1.2 was spoken")
	}
}

func TestSocketNeedsNoTLS(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	ln, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.Handle(apiv1connect.NewEnrollServiceHandler(coordinator{}))
	srv := &http.Server{Handler: mux}
	go func() { _ = srv.Serve(ln) }()
	t.Cleanup(func() { srv.Close() })
	if m, err := discover(t, client(t, Config{Socket: path, Agent: "test/1"})); err != nil || m.Version != "test/1" {
		t.Errorf("%v, %v", m, err)
	}
}

func TestBadLinksAreRefused(t *testing.T) {
	for _, l := range []pki.Link{{}, {URL: "https://"}, {URL: "https://x", Pin: "short"}} {
		if _, err := New(Config{Link: l}); err == nil {
			t.Errorf("%+v was taken", l)
		}
	}
}

func TestExplainSaysItInOneLine(t *testing.T) {
	refused := connect.NewError(connect.CodePermissionDenied, errors.New("shivam is suspended"))
	refused.Meta().Set(HintHeader, "ask virat")
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	free.Close()
	for name, test := range map[string]struct {
		cfg        func() Config
		want, hint string
		over       bool
	}{
		"refused": {func() Config { return config(serve(t, coordinator{err: refused})) }, "shivam is suspended", "ask virat", true},
		"not now": {func() Config {
			return config(serve(t, coordinator{err: connect.NewError(connect.CodeUnavailable, errors.New("starting"))}))
		}, "starting", "", false},
		"no listener":  {func() Config { return Config{Link: pki.Link{URL: "https://" + free.Addr().String()}} }, "nothing listens at URL", "check the port, and that the coordinator runs", false},
		"no such host": {func() Config { return Config{Link: pki.Link{URL: "https://coordinator.invalid"}} }, "cannot find URL: no such host", "check the name, and that this machine resolves names", false},
		"plain HTTP": {func() Config {
			s := httptest.NewServer(http.NotFoundHandler())
			t.Cleanup(s.Close)
			return Config{Link: pki.Link{URL: strings.Replace(s.URL, "http:", "https:", 1)}}
		}, "URL speaks plain HTTP, not TLS", "check the port: a coordinator serves TLS alone", false},
	} {
		t.Run(name, func(t *testing.T) {
			c := client(t, test.cfg())
			_, raw := discover(t, c)
			err := Explain(c.URL, raw)
			if err == nil || strings.ReplaceAll(err.Error(), c.URL, "URL") != test.want {
				t.Errorf("%q, want %q (%v)", err, test.want, raw)
			}
			if got := strings.Join(process.Hints(err), "; "); got != test.hint {
				t.Errorf("hint %q, want %q", got, test.hint)
			}
			if SessionOver(raw) != test.over || SessionOver(err) != test.over {
				t.Errorf("session over: %v", SessionOver(raw))
			}
		})
	}
	if Explain("x", nil) != nil {
		t.Error("an error came out of nothing")
	}
}
