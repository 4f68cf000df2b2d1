package proxy_test

import (
	"bufio"
	"bytes"
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"k8s.io/client-go/rest"

	apiv1 "github.com/sallyport-mesh/sallyport/pkg/api/sallyport/v1"
)

// recorder is an apiserver that answers as told and keeps what reached it:
// every request as a handler sees it, every byte after TLS for HTTP/1.1, and the
// number of bytes before TLS.
type recorder struct {
	t      testing.TB
	ca     *authority
	addr   string
	handle atomic.Pointer[http.HandlerFunc]
	bytes  atomic.Int64 // below TLS
	conns  atomic.Int64

	discard  atomic.Bool // keep nothing
	mu       sync.Mutex
	requests []*received
}

// received is one request as it reached the apiserver.
type received struct {
	Method, Target, Proto, Host string
	Header                      http.Header
	Body                        []byte
	PeerCerts                   int
	Trailer                     http.Header
}

func newRecorder(t testing.TB) *recorder {
	t.Helper()
	r := &recorder{t: t, ca: newAuthority(t, "apiserver")}
	r.answer(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		io.WriteString(w, `{"kind":"PodList","apiVersion":"v1","metadata":{},"items":[]}`)
	})
	cert := r.ca.issue(t, &x509.Certificate{
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	srv := &http.Server{
		Handler: http.HandlerFunc(r.record),
		TLSConfig: &tls.Config{
			Certificates: []tls.Certificate{cert}, NextProtos: []string{"h2", "http/1.1"},
			// As a real apiserver: a client certificate would be taken, and would win.
			ClientAuth: tls.RequestClientCert,
		},
		ErrorLog: quiet,
	}
	go srv.ServeTLS(&countingListener{l, r}, "", "")
	t.Cleanup(func() { srv.Close() })
	r.addr = l.Addr().String()
	return r
}

func (r *recorder) answer(h http.HandlerFunc) { r.handle.Store(&h) }

// record reads the body first, but for upgrades.
func (r *recorder) record(w http.ResponseWriter, q *http.Request) {
	got := &received{
		Method: q.Method, Target: q.RequestURI, Proto: q.Proto, Host: q.Host, Header: q.Header.Clone(),
		PeerCerts: len(q.TLS.PeerCertificates),
	}
	if q.Header.Get("Upgrade") == "" && q.Header.Get("X-Test-Stream-Body") == "" {
		got.Body, _ = io.ReadAll(q.Body)
		q.Body = io.NopCloser(bytes.NewReader(got.Body))
		got.Trailer = q.Trailer
	}
	if !r.discard.Load() {
		r.mu.Lock()
		r.requests = append(r.requests, got)
		r.mu.Unlock()
	}
	(*r.handle.Load())(w, q)
}

func (r *recorder) all() []*received {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]*received(nil), r.requests...)
}

// client reaches the recorder without the proxy.
func (r *recorder) client() *http.Client {
	roots := x509.NewCertPool()
	roots.AddCert(r.ca.cert)
	tr := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}, ForceAttemptHTTP2: true}
	r.t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr}
}

// only is the one request that reached the apiserver.
func (r *recorder) only(t testing.TB) *received {
	t.Helper()
	all := r.all()
	if len(all) != 1 {
		t.Fatalf("%d requests reached the apiserver, want 1", len(all))
	}
	return all[0]
}

// untouched fails the test if so much as a byte came in.
func (r *recorder) untouched(t testing.TB) {
	t.Helper()
	if n, c := r.bytes.Load(), r.conns.Load(); n != 0 || c != 0 || len(r.all()) != 0 {
		t.Errorf("%d bytes on %d connections reached the apiserver, %d requests: %+v", n, c, len(r.all()), r.all())
	}
}

// restConfig holds the agent's own credentials as well: they must not be used.
func (r *recorder) restConfig() *rest.Config {
	agent := r.ca.issue(r.t, &x509.Certificate{ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	chain, key := pemOf(r.t, agent)
	return &rest.Config{
		Host: "https://" + r.addr, BearerToken: agentToken, Username: "", UserAgent: "sallyport-agent",
		Impersonate: rest.ImpersonationConfig{UserName: "agent-impersonates"},
		TLSClientConfig: rest.TLSClientConfig{
			CAData: pemCert(r.ca.cert), CertData: chain, KeyData: key,
		},
	}
}

const agentToken = "the-agents-own-token"

type countingListener struct {
	net.Listener
	r *recorder
}

func (l *countingListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err == nil {
		l.r.conns.Add(1)
		c = &countingConn{c, &l.r.bytes}
	}
	return c, err
}

type countingConn struct {
	net.Conn
	n *atomic.Int64
}

func (c *countingConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.n.Add(int64(n))
	return n, err
}

// rawUpstream is an apiserver of bytes: it hands the test what came after TLS,
// up to the end of the header, and the connection to answer on.
func rawUpstream(t testing.TB, ca *authority, serve func(header []byte, c net.Conn, r *bufio.Reader)) (addr string) {
	t.Helper()
	cert := ca.issue(t, &x509.Certificate{
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	})
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{cert}, NextProtos: []string{"http/1.1"}})
	must(t, err)
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				br := bufio.NewReader(c)
				var header bytes.Buffer
				for {
					line, err := br.ReadSlice('\n')
					header.Write(line)
					if err != nil {
						return
					}
					if len(bytes.TrimSpace(line)) == 0 {
						break
					}
				}
				serve(header.Bytes(), c, br)
			}()
		}
	}()
	return l.Addr().String()
}

func pemCert(c *x509.Certificate) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})
}

func pemOf(t testing.TB, c tls.Certificate) (chain, key []byte) {
	t.Helper()
	der, err := x509.MarshalECPrivateKey(c.PrivateKey.(*ecdsa.PrivateKey))
	must(t, err)
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Certificate[0]}),
		pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der})
}

func cloneBundle(b *apiv1.Bundle) *apiv1.Bundle { return proto.Clone(b).(*apiv1.Bundle) }

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// eventually waits for a condition, and fails if it does not come about.
func eventually(t testing.TB, what string, cond func() bool) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for !cond() {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain: %s", what)
		}
		time.Sleep(2 * time.Millisecond)
	}
}
