package proxy_test

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"k8s.io/client-go/tools/remotecommand"

	"github.com/sallyport-mesh/sallyport/node-agent/internal/proxy"
)

const execTarget = pods + "/p/exec?command=sh&command=-c&command=cat&stdin=true&stdout=true"

func (w *world) executor(t *testing.T, p *person, transport string) remotecommand.Executor {
	t.Helper()
	var (
		e   remotecommand.Executor
		err error
	)
	target := w.url(execTarget)
	if transport == "SPDY" {
		u, perr := url.Parse(target)
		must(t, perr)
		e, err = remotecommand.NewSPDYExecutor(w.restConfig(p), "POST", u)
	} else {
		e, err = remotecommand.NewWebSocketExecutor(w.restConfig(p), "GET", target)
	}
	must(t, err)
	return e
}

func TestExecRunsAsTheUserOverSPDYAndWebSocket(t *testing.T) {
	for _, transport := range []string{"SPDY", "WebSocket"} {
		t.Run(transport, func(t *testing.T) {
			w := newWorld(t)
			w.upstream.answer((&echo{}).ServeHTTP)
			p := w.anywhere(w.person("alice", "edit"))
			var out bytes.Buffer
			sent := strings.Repeat("hello ", 50_000)
			err := w.executor(t, p, transport).StreamWithContext(t.Context(), remotecommand.StreamOptions{Stdin: strings.NewReader(sent), Stdout: &out})
			must(t, err)
			if out.String() != sent {
				t.Fatalf("%d bytes came back of %d", out.Len(), len(sent))
			}
			got := w.upstream.only(t)
			if got.Target != execTarget || got.Proto != "HTTP/1.1" || got.PeerCerts != 0 {
				t.Errorf("%+v", got)
			}
			for name, want := range map[string]string{
				"Authorization": "Bearer " + tokenOf(p.UserID), "X-Forwarded-For": p.addr.String(), "Connection": "Upgrade",
				"Upgrade": map[string]string{"SPDY": "SPDY/3.1", "WebSocket": "websocket"}[transport],
			} {
				if v := got.Header.Values(name); len(v) != 1 || v[0] != want {
					t.Errorf("%s: %q, want %q", name, v, want)
				}
			}
			e := w.log.outcome(t, 0)
			if e.ResponseStatus.Code != 101 || e.Verb != "create" || e.ObjectRef.Subresource != "exec" || e.Ext.BytesOut < int64(len(sent)) ||
				e.Ext.BytesIn < int64(len(sent)) || strings.Join(e.Ext.Command, " ") != "sh -c cat" || e.Ext.CloseReason == "" {
				t.Errorf("outcome %+v", e)
			}
		})
	}
}

// An apiserver that does not switch: its answer comes back, both connections
// are closed, and a request that was sent behind the upgrade reaches nobody.
func TestFailedUpgradeClosesTheConnection(t *testing.T) {
	for _, c := range []struct {
		answer string
		code   int
	}{
		{"HTTP/1.1 400 Bad Request\r\nContent-Length: 5\r\n\r\nwrong", 400},
		{"HTTP/1.1 403 Forbidden\r\nContent-Length: 4\r\n\r\nno!!", 403},
		{"HTTP/1.1 500 Oops\r\nConnection: keep-alive\r\n\r\n", 500},
		{"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", 502},
		{"HTTP/1.1 204 No Content\r\n\r\n", 502},
		{"HTTP/1.1 302 Found\r\nLocation: https://evil/\r\nContent-Length: 0\r\n\r\n", 502},
		{"HTTP/1.1 307 Temporary Redirect\r\nLocation: /api/v1/secrets\r\nContent-Length: 0\r\n\r\n", 502},
		{"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n", 502},
		{"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\nSec-WebSocket-Protocol: never.offered\r\n\r\n", 502},
		{"HTTP/1.1 101 Switching Protocols\r\n\r\n", 502},
		{"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n", 503},
		{"", 503},
		{"garbage\r\n\r\n", 503},
	} {
		t.Run(c.answer, func(t *testing.T) {
			var (
				mu      sync.Mutex
				headers []string
				behind  string
				done    = make(chan struct{})
			)
			ca := newAuthority(t, "raw apiserver")
			addr := rawUpstream(t, ca, func(header []byte, conn net.Conn, br *bufio.Reader) {
				mu.Lock()
				headers = append(headers, string(header))
				mu.Unlock()
				io.WriteString(conn, c.answer)
				if c.answer == "" {
					conn.Close()
				}
				rest, _ := io.ReadAll(br)
				mu.Lock()
				behind += string(rest)
				mu.Unlock()
				close(done)
			})
			w := newWorld(t, func(cfg *proxy.Config) {
				cfg.Upstream.Host = "https://" + addr
				cfg.Upstream.CAData = pemCert(ca.cert)
			})
			p := w.person("alice", "edit")
			res, br, conn := w.rawH1(t, p, "POST "+execTarget+" HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\nContent-Length: 0\r\n\r\n"+
				"GET /api/v1/namespaces/kube-system/secrets HTTP/1.1\r\nHost: x\r\n\r\n")
			if res == nil || res.StatusCode != c.code {
				t.Fatalf("answer %+v", res)
			}
			if !res.Close {
				t.Error("the answer does not say that the connection closes")
			}
			io.Copy(io.Discard, res.Body)
			conn.SetReadDeadline(time.Now().Add(5 * time.Second))
			if n, err := br.Read(make([]byte, 1)); n != 0 || err == nil {
				t.Error("something came behind the answer")
			} else if ne, ok := err.(net.Error); ok && ne.Timeout() {
				t.Error("the connection stayed open")
			}
			<-done
			mu.Lock()
			defer mu.Unlock()
			if len(headers) != 1 || behind != "" || strings.Contains(headers[0], "secrets") {
				t.Errorf("the apiserver got %q and behind it %q", headers, behind)
			}
			if !strings.HasPrefix(headers[0], "POST "+execTarget+" HTTP/1.1\r\n") || !strings.Contains(headers[0], "\r\nAuthorization: Bearer "+tokenOf(p.UserID)+"\r\n") {
				t.Errorf("header %q", headers[0])
			}
			if _, outcomes := w.log.counts(); outcomes != 1 {
				t.Errorf("%d outcomes: the request behind the upgrade was looked at", outcomes)
			}
		})
	}
}

// The same for upgrades that we refuse ourselves.
func TestRefusedUpgradeClosesTheConnection(t *testing.T) {
	w := newWorld(t)
	p := w.person("shivam", "view")
	for _, upgrade := range []string{"SPDY/3.1", "h2c", "websocket"} {
		res, br, conn := w.rawH1(t, p, "POST "+execTarget+" HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: "+upgrade+"\r\nContent-Length: 0\r\n\r\n"+
			"GET "+pods+" HTTP/1.1\r\nHost: x\r\n\r\n")
		if res == nil || res.StatusCode < 400 {
			t.Fatalf("%s: answer %+v", upgrade, res)
		}
		io.Copy(io.Discard, res.Body)
		conn.SetReadDeadline(time.Now().Add(5 * time.Second))
		if _, err := br.ReadByte(); err == nil {
			t.Errorf("%s: something came behind the refusal", upgrade)
		} else if ne, ok := err.(net.Error); ok && ne.Timeout() {
			t.Errorf("%s: the connection stayed open", upgrade)
		}
	}
	w.upstream.untouched(t)
}

func TestRedirectsAreNeitherFollowedNorPassedOn(t *testing.T) {
	elsewhere := newRecorder(t)
	for _, code := range []int{300, 301, 302, 303, 307, 308} {
		for _, proto := range []string{"h1", "h2"} {
			w := newWorld(t)
			w.upstream.answer(func(rw http.ResponseWriter, _ *http.Request) {
				rw.Header().Set("Location", "https://"+elsewhere.addr+"/steal")
				rw.WriteHeader(code)
			})
			p := w.person("alice", "cluster-admin")
			c := w.client(p, proto)
			c.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
			res, err := c.Get(w.url("/apis/metrics.k8s.io/v1beta1/nodes"))
			must(t, err)
			if s := readStatus(t, res); res.StatusCode != 502 || res.Header.Get("Location") != "" {
				t.Errorf("%d by %s: answer %d %v", code, proto, res.StatusCode, s)
			}
			w.upstream.only(t)
		}
	}
	elsewhere.untouched(t)
}

func TestNotModifiedIsPassedOn(t *testing.T) {
	w := newWorld(t)
	w.upstream.answer(func(rw http.ResponseWriter, r *http.Request) {
		rw.Header().Set("Etag", r.Header.Get("If-None-Match"))
		rw.WriteHeader(304)
	})
	p := w.person("alice", "view")
	req, _ := http.NewRequest("GET", w.url("/openapi/v2"), nil)
	req.Header.Set("If-None-Match", `"abc"`)
	res, err := w.client(p, "h2").Do(req)
	must(t, err)
	if res.Body.Close(); res.StatusCode != 304 || res.Header.Get("Etag") != `"abc"` {
		t.Errorf("answer %d %v", res.StatusCode, res.Header)
	}
}

// Both sides see the same bytes: a tunnel is opaque.
func TestTunnelPassesBytesThatComeWithTheHandshake(t *testing.T) {
	ca := newAuthority(t, "raw apiserver")
	addr := rawUpstream(t, ca, func(header []byte, conn net.Conn, br *bufio.Reader) {
		io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: v4\r\nKeep-Alive: x\r\n\r\nEARLY")
		got := make([]byte, 5)
		io.ReadFull(br, got)
		fmt.Fprintf(conn, "-%s-", got)
	})
	w := newWorld(t, func(cfg *proxy.Config) {
		cfg.Upstream.Host = "https://" + addr
		cfg.Upstream.CAData = pemCert(ca.cert)
	})
	p := w.person("alice", "edit")
	res, br, _ := w.rawH1(t, p, "POST "+execTarget+" HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\r\nQUICK")
	if res == nil || res.StatusCode != 101 || res.Header.Get("X-Stream-Protocol-Version") != "v4" || res.Header.Get("Keep-Alive") != "" {
		t.Fatalf("answer %+v", res)
	}
	rest, err := io.ReadAll(br)
	if string(rest) != "EARLY-QUICK-" {
		t.Errorf("got %q (%v)", rest, err)
	}
	if e := w.log.outcome(t, 0); e.Ext.BytesIn != 5 || e.Ext.BytesOut != 12 || e.Ext.CloseReason != "apiserver closed" {
		t.Errorf("outcome %+v", e.Ext)
	}
}
