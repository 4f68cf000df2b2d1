package proxy

import (
	"bufio"
	"net/http"
	"strings"
	"testing"
	"unicode/utf8"

	"k8s.io/klog/v2"

	"github.com/sallyport-mesh/sallyport/pkg/policy"
)

func TestParseGivesKubernetesAttributes(t *testing.T) {
	res := func(verb, group, version, resource, sub, ns, name string) policy.Attributes {
		return policy.Attributes{
			ResourceRequest: true, Verb: verb, APIGroup: group, APIVersion: version,
			Resource: resource, Subresource: sub, Namespace: ns, Name: name,
		}
	}
	selected := func(a policy.Attributes, name string) policy.Attributes {
		a.SelectedName = name
		return a
	}
	for _, c := range []struct {
		method, target string
		want           policy.Attributes
		streams        bool
	}{
		{"GET", "/", policy.Attributes{Verb: "get", Path: "/"}, false},
		{"HEAD", "/apis/apps/v1/", policy.Attributes{Verb: "head", Path: "/apis/apps/v1/"}, false},
		{"POST", "/metrics?x=1&x=2", policy.Attributes{Verb: "post", Path: "/metrics"}, false},
		{"GET", "/api/v1/pods", res("list", "", "v1", "pods", "", "", ""), false},
		{"HEAD", "/api/v1/pods", res("list", "", "v1", "pods", "", "", ""), false},
		{"GET", "/api/v1/pods?watch=1", res("watch", "", "v1", "pods", "", "", ""), true},
		{"GET", "/api/v1/pods?watch=TRUE&fieldSelector=metadata.name%3Dp", selected(res("watch", "", "v1", "pods", "", "", ""), "p"), true},
		{"GET", "/api/v1/pods?watch=0", res("list", "", "v1", "pods", "", "", ""), false},
		{"GET", "/api/v1/watch/pods", res("watch", "", "v1", "pods", "", "", ""), true},
		{"GET", "/api/v1/watch/namespaces/n/pods/p", res("watch", "", "v1", "pods", "", "n", "p"), true},
		{"GET", "/api/v1/watch/pods?fieldSelector=metadata.name%3Dp", res("watch", "", "v1", "pods", "", "", ""), true},
		{"GET", "/api/v1/namespaces/n/secrets?fieldSelector=metadata.name%3Ds,type%3DOpaque", selected(res("list", "", "v1", "secrets", "", "n", ""), "s"), false},
		{"GET", "/api/v1/namespaces/n/secrets?fieldSelector=metadata.name!%3Ds", res("list", "", "v1", "secrets", "", "n", ""), false},
		{"DELETE", "/api/v1/namespaces/n/pods", res("deletecollection", "", "v1", "pods", "", "n", ""), false},
		{"DELETE", "/api/v1/namespaces/n/pods?fieldSelector=metadata.name%3Dp", selected(res("deletecollection", "", "v1", "pods", "", "n", ""), "p"), false},
		{"DELETE", "/api/v1/namespaces/n", res("delete", "", "v1", "namespaces", "", "n", "n"), false},
		{"PUT", "/api/v1/namespaces/n/finalize", res("update", "", "v1", "namespaces", "finalize", "n", "n"), false},
		{"PATCH", "/apis/apps/v1/namespaces/n/deployments/d/scale", res("patch", "apps", "v1", "deployments", "scale", "n", "d"), false},
		{"GET", "/api/v1/namespaces/n/pods/p/log?follow=true", res("get", "", "v1", "pods", "log", "n", "p"), true},
		{"GET", "/api/v1/namespaces/n/pods/p/log", res("get", "", "v1", "pods", "log", "n", "p"), false},
		{"GET", "/api/v1/namespaces/n/services/https:s:443/proxy/a/b?watch=1&watch=0&limit=x", res("get", "", "v1", "services", "proxy", "n", "https:s:443"), true},
		{"GET", "/apis/rbac.authorization.k8s.io/v1/clusterroles/system%3Anode", res("get", "rbac.authorization.k8s.io", "v1", "clusterroles", "", "", "system:node"), false},
	} {
		q, bad := parse(read(t, c.method, c.target, ""))
		if bad != nil {
			t.Errorf("%s %s: %v", c.method, c.target, bad)
			continue
		}
		if q.attrs != c.want || q.streams != c.streams {
			t.Errorf("%s %s\n got %+v streams %v\nwant %+v streams %v", c.method, c.target, q.attrs, q.streams, c.want, c.streams)
		}
	}
}

func TestExecIsExecUnderAnyVerbAndTransport(t *testing.T) {
	ws := "Connection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\nSec-WebSocket-Key: x\r\nSec-WebSocket-Version: 13\r\n"
	spdy := "Connection: Upgrade\r\nUpgrade: spdy/3.1\r\n"
	for _, sub := range []string{"exec", "attach", "portforward"} {
		for _, c := range []struct{ method, header, upgrade string }{
			{"GET", ws, upgradeWebSocket}, {"GET", spdy, upgradeSPDY}, {"POST", spdy, upgradeSPDY}, {"PUT", spdy, upgradeSPDY},
		} {
			q, bad := parse(read(t, c.method, "/api/v1/namespaces/n/pods/p/"+sub+"?command=a&command=b", c.header))
			if bad != nil {
				t.Errorf("%s %s %q: %v", c.method, sub, c.header, bad)
				continue
			}
			if q.attrs.Verb != "create" || !q.attrs.Upgrade || q.upgrade != c.upgrade || !q.streams || strings.Join(q.command, " ") != "a b" {
				t.Errorf("%s %s: %+v", c.method, sub, q)
			}
		}
		if _, bad := parse(read(t, "POST", "/api/v1/namespaces/n/pods/p/"+sub, "")); bad == nil {
			t.Errorf("%s without an upgrade was taken", sub)
		}
	}
}

func TestUpgradesThatKubernetesDoesNotMakeAreRefused(t *testing.T) {
	const exec = "/api/v1/namespaces/n/pods/p/exec"
	const key = "Sec-WebSocket-Key: x\r\nSec-WebSocket-Version: 13\r\n"
	for _, c := range [][3]string{
		{"GET", exec, "Connection: Upgrade\r\nUpgrade: h2c\r\n"},
		{"GET", exec, "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n"},
		{"GET", exec, "Connection: Upgrade\r\nUpgrade: websocket, h2c\r\n" + key},
		{"GET", exec, "Connection: Upgrade\r\nUpgrade: websocket\r\nUpgrade: SPDY/3.1\r\n" + key},
		{"GET", exec, "Connection: Upgrade\r\nUpgrade: SPDY/3.0\r\n"},
		{"GET", exec, "Connection: Upgrade\r\nUpgrade: TLS/1.0\r\n"},
		{"GET", exec, "Connection: Upgrade\r\nUpgrade: \r\n"},
		{"GET", exec, "Connection: Upgrade\r\n"},
		{"GET", exec, "Upgrade: SPDY/3.1\r\n"},
		{"GET", exec, "Connection: close\r\nUpgrade: SPDY/3.1\r\n"},
		{"GET", exec, key},
		{"GET", exec, "Connection: Upgrade\r\nUpgrade: websocket\r\n"},
		{"GET", exec, "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: y\r\n" + key},
		{"POST", exec, "Connection: Upgrade\r\nUpgrade: websocket\r\n" + key},
		{"POST", exec, "Connection: Upgrade\r\nUpgrade: SPDY/3.1\r\nContent-Length: 5\r\n"},
		{"POST", exec, "Connection: Upgrade\r\nUpgrade: SPDY/3.1\r\nTransfer-Encoding: chunked\r\n"},
		{"GET", "/api/v1/namespaces/n/pods/p/log?follow=1", "Connection: Upgrade\r\nUpgrade: websocket\r\n" + key},
		{"GET", "/api/v1/pods?watch=1", "Connection: Upgrade\r\nUpgrade: websocket\r\n" + key},
		{"GET", "/api/v1/namespaces/n/pods/p/proxy", "Connection: Upgrade\r\nUpgrade: websocket\r\n" + key},
		{"GET", "/api/v1/namespaces/n/services/s/portforward", "Connection: Upgrade\r\nUpgrade: SPDY/3.1\r\n"},
		{"GET", "/apis/x.io/v1/namespaces/n/pods/p/exec", "Connection: Upgrade\r\nUpgrade: SPDY/3.1\r\n"},
		{"GET", "/api/v1/pods/p/exec", "Connection: Upgrade\r\nUpgrade: SPDY/3.1\r\n"},
		{"GET", "/", "Connection: Upgrade\r\nUpgrade: SPDY/3.1\r\n"},
	} {
		if q, bad := parse(read(t, c[0], c[1], c[2])); bad == nil {
			t.Errorf("%s %s with %q was taken: %+v", c[0], c[1], c[2], q)
		}
	}
}

// read is a request as net/http gives it to a handler.
func read(t testing.TB, method, target, header string) *http.Request {
	t.Helper()
	r, err := http.ReadRequest(bufio.NewReader(strings.NewReader(method + " " + target + " HTTP/1.1\r\nHost: x\r\n" + header + "\r\n")))
	if err != nil {
		t.Fatalf("%s %s: %v", method, target, err)
	}
	return r
}

// FuzzParseAgainstRequestInfo holds the one reading against Kubernetes' own of
// what the apiserver gets: whatever is taken must mean the same to both.
func FuzzParseAgainstRequestInfo(f *testing.F) {
	klog.SetOutput(discard{})
	klog.LogToStderr(false)
	for _, method := range []string{"GET", "POST", "DELETE", "PUT"} {
		for _, target := range []string{
			"/", "/api/v1/pods", "/api/v1/pods?watch=1", "/api/v1/watch/namespaces/n/pods/p", "/api/v1/namespaces/n/pods?fieldSelector=metadata.name%3Dp",
			"/apis/apps/v1/namespaces/n/deployments/d/scale", "/api/v1/namespaces/n/pods/p/exec?command=x", "/api/v1/namespaces/n/services/s:80/proxy/a%20b?watch=1",
			"/apis//v1", "/api/v1/namespaces/n/pods/p%2Fexec", "/api/v1/pods?watch=true&watch=false", "/api/v1/pods/%2e%2e", "/version/", "/api/v1/namespaces/status/status",
			"/api/v1/namespaces/n/status?watch=1", "/api/v1/pods?limit=1&resourceVersionMatch=Exact&sendInitialEvents=x",
		} {
			f.Add(method, target)
		}
	}
	f.Fuzz(func(t *testing.T, method, target string) {
		r, err := http.ReadRequest(bufio.NewReader(strings.NewReader(method + " " + target + " HTTP/1.1\r\nHost: x\r\n\r\n")))
		if err != nil {
			return
		}
		q, bad := parse(r)
		if bad != nil {
			if bad.code < 400 || !utf8.ValidString(bad.message) {
				t.Fatalf("refusal %+v", bad)
			}
			return
		}
		// What goes upstream is what came, and is read by the apiserver as here.
		up := &upstream{scheme: "https", host: "h"}
		sent := up.target(q.target).RequestURI()
		if sent != r.RequestURI {
			t.Fatalf("%q goes upstream as %q", r.RequestURI, sent)
		}
		there, err := http.ReadRequest(bufio.NewReader(strings.NewReader(method + " " + sent + " HTTP/1.1\r\nHost: h\r\n\r\n")))
		if err != nil {
			t.Fatalf("the apiserver cannot read %q: %v", sent, err)
		}
		info, err := requestInfo.NewRequestInfo(there)
		if err != nil {
			t.Fatalf("RequestInfo cannot read %q: %v", sent, err)
		}
		a := q.attrs
		if info.IsResourceRequest != a.ResourceRequest {
			t.Fatalf("%q: resource request %v, RequestInfo says %v", sent, a.ResourceRequest, info.IsResourceRequest)
		}
		if !a.ResourceRequest {
			if info.Path != a.Path || info.Verb != a.Verb || strings.Contains(a.Path, "//") {
				t.Fatalf("%q: %+v, RequestInfo says %+v", sent, a, info)
			}
			return
		}
		name := a.Name
		if name == "" && (q.verb == "list" || q.verb == "watch") {
			name = a.SelectedName
		}
		if info.Verb != q.verb || info.APIGroup != a.APIGroup || info.APIVersion != a.APIVersion || info.Resource != a.Resource ||
			info.Subresource != a.Subresource || info.Namespace != a.Namespace || info.Name != name {
			t.Fatalf("%q:\n%+v verb %s name %q\nRequestInfo says\n%+v", sent, a, q.verb, name, info)
		}
		if isExec(a) {
			t.Fatalf("%q is an exec and was taken without an upgrade", sent)
		}
	})
}

type discard struct{}

func (discard) Write(b []byte) (int, error) { return len(b), nil }
