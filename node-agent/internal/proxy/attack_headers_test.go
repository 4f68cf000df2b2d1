package proxy_test

import (
	"net/http"
	"strings"
	"testing"
)

const pods = "/api/v1/namespaces/default/pods"

// What claims an identity is refused on every transport, and not a byte of it
// goes upstream.
func TestHeadersThatClaimAnIdentityAreRefused(t *testing.T) {
	w := newWorld(t)
	p := w.person("alice", "cluster-admin")
	for _, h := range [][2]string{
		{"Impersonate-User", "system:admin"},
		{"impersonate-user", "system:admin"},
		{"IMPERSONATE-USER", "system:admin"},
		{"Impersonate-Group", "system:masters"},
		{"Impersonate-Uid", "0"},
		{"Impersonate-Extra-Scopes", "x"},
		{"Impersonate-Extra-%2Fx", "x"},
		{"Impersonate-Not-Invented-Yet", "x"},
		{"Impersonate_User", "system:admin"},
		{"Impersonate-User", ""},
		{"X-Remote-User", "system:admin"},
		{"X-Remote-Group", "system:masters"},
		{"X-Remote-Extra-Acme.com%2Fproject", "x"},
		{"X-Remote_User", "system:admin"},
		{"x-remote-uid", "0"},
		{"Authorization", "Bearer stolen"},
		{"authorization", "Basic YTpi"},
		{"Proxy-Authorization", "Basic YTpi"},
		{"Sec-WebSocket-Protocol", "v5.channel.k8s.io, base64url.bearer.authorization.k8s.io.c3RvbGVu"},
		{"Sec-WebSocket-Protocol", "BASE64URL.bearer.authorization.k8s.io.c3RvbGVu"},
		{"X-Sallyport-User", "alice"},
		{"x-sallyport-anything", "x"},
		{"X-HTTP-Method-Override", "DELETE"},
	} {
		t.Run(h[0]+" "+h[1], func(t *testing.T) {
			for transport, code := range w.everyTransport(t, p, "GET", pods, [][2]string{h}) {
				if code != 403 && code != 400 {
					t.Errorf("%s: answer %d", transport, code)
				}
			}
			// Beside a Connection header that asks for it to be dropped.
			res, _, _ := w.rawH1(t, p, "GET "+pods+" HTTP/1.1\r\nHost: x\r\nConnection: "+h[0]+"\r\n"+h[0]+": "+h[1]+"\r\n\r\n")
			if res == nil || (res.StatusCode != 403 && res.StatusCode != 400) {
				t.Errorf("named in Connection: %v", res)
			}
			w.upstream.untouched(t)
		})
	}
}

func TestImpersonationIsRefusedWithAWayToAsk(t *testing.T) {
	w := newWorld(t)
	p := w.person("alice", "cluster-admin")
	req, _ := http.NewRequest("GET", w.url(pods), nil)
	req.Header.Set("Impersonate-User", "bob")
	res, err := w.client(p, "h2").Do(req)
	must(t, err)
	if s := readStatus(t, res); !strings.Contains(s.Message, "sallyportctl why") || s.Code != 403 {
		t.Errorf("%+v", s)
	}
}

// The client's Connection list takes nothing away from what we set, nor from
// what it sent end to end (CVE-2021-31999, CVE-2022-23652).
func TestConnectionListDropsNothing(t *testing.T) {
	for _, connection := range []string{
		"Connection: foo, Impersonate-User, Authorization",
		"Connection: Authorization\r\nConnection: Audit-Id",
		"Connection:\r\nConnection: , ,authorization,X-Forwarded-For",
		"cOnNeCtIoN: AUTHORIZATION, aUdIt-iD, keep-alive",
		"Connection: close, Authorization, Accept",
	} {
		t.Run(connection, func(t *testing.T) {
			w := newWorld(t)
			p := w.person("alice", "cluster-admin")
			res, _, _ := w.rawH1(t, p, "GET "+pods+" HTTP/1.1\r\nHost: x\r\nUser-Agent: a\r\nAccept: application/json\r\nFoo: bar\r\n"+connection+"\r\n\r\n")
			if res == nil || res.StatusCode != 200 {
				t.Fatalf("answer %v", res)
			}
			assertReceived(t, w.upstream.only(t), &received{
				Method: "GET", Target: pods, Proto: "HTTP/2.0", Host: w.upstream.addr,
				Header: http.Header{
					"Accept": {"application/json"}, "User-Agent": {"a"}, "Foo": {"bar"},
					"Authorization": {"Bearer " + tokenOf(p.UserID)}, "X-Forwarded-For": {p.addr.String()},
					"Audit-Id": {res.Header.Get("Audit-Id")},
				},
			})
		})
	}
}

func TestHopByHopHeadersStayOnTheirHop(t *testing.T) {
	w := newWorld(t)
	w.upstream.answer(func(rw http.ResponseWriter, _ *http.Request) {
		h := rw.Header()
		for _, name := range []string{"Keep-Alive", "Proxy-Authenticate", "Proxy-Connection", "Alt-Svc", "Audit-Id"} {
			h.Set(name, "upstream")
		}
		h.Set("Warning", `299 - "deprecated"`)
	})
	p := w.person("alice", "cluster-admin")
	res, _, _ := w.rawH1(t, p, "GET "+pods+" HTTP/1.1\r\nHost: x\r\nTE: trailers\r\nTrailer: X\r\nKeep-Alive: 5\r\nProxy-Connection: x\r\nExpect: 100-continue\r\n\r\n")
	if res == nil || res.StatusCode != 200 || res.Header.Get("Warning") == "" {
		t.Fatalf("answer %v", res)
	}
	for _, name := range []string{"Keep-Alive", "Proxy-Authenticate", "Proxy-Connection", "Alt-Svc"} {
		if res.Header.Get(name) != "" {
			t.Errorf("%s came back", name)
		}
	}
	if res.Header.Get("Audit-Id") == "upstream" {
		t.Error("the request id is not ours")
	}
	for _, name := range []string{"Te", "Trailer", "Keep-Alive", "Proxy-Connection", "Expect"} {
		if v := w.upstream.only(t).Header[name]; v != nil {
			t.Errorf("%s: %q went upstream", name, v)
		}
	}
}

func TestOversizedHeadersAndTargetsAreRefused(t *testing.T) {
	w := newWorld(t)
	p := w.person("alice", "cluster-admin")
	for name, send := range map[string]struct {
		target string
		header [][2]string
	}{
		"target of 9 KiB":   {pods + "?continue=" + strings.Repeat("a", 9<<10), nil},
		"header of 40 KiB":  {pods, [][2]string{{"X-Big", strings.Repeat("a", 40<<10)}}},
		"headers of 40 KiB": {pods, manyHeaders(400, 100)},
	} {
		for transport, code := range w.everyTransport(t, p, "GET", send.target, send.header) {
			if code != 0 && code != 414 && code != 431 {
				t.Errorf("%s by %s: answer %d", name, transport, code)
			}
		}
	}
	w.upstream.untouched(t)
	res, err := w.client(p, "h2").Get(w.url(pods + "?continue=" + strings.Repeat("a", 7<<10)))
	must(t, err)
	if res.Body.Close(); res.StatusCode != 200 {
		t.Errorf("a target of 7 KiB: answer %d", res.StatusCode)
	}
}

func manyHeaders(n, size int) (h [][2]string) {
	for i := range n {
		h = append(h, [2]string{"X-Many-" + strings.Repeat("a", i%7), strings.Repeat("b", size)})
	}
	return h
}
