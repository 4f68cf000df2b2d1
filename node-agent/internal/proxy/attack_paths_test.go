package proxy_test

import (
	"testing"
)

// Whatever can be read in two ways is refused by the parser, before the policy
// is asked and for an administrator too: 400, and not a byte upstream.
func TestTargetsWithTwoReadingsAreRefused(t *testing.T) {
	w := newWorld(t)
	p := w.person("alice", "cluster-admin")
	const exec = "/api/v1/namespaces/default/pods/p"
	for _, target := range []string{
		exec + "/exec/", exec + "%2Fexec", exec + "%2fexec", exec + "/exec%2f", exec + "/%65xec", exec + "/exec%00",
		"/api/v1/namespaces/default%2Fpods%2Fp/exec", "/api/v1/namespaces/default/pods%2Fp/exec",
		"//api/v1/pods", "/api//v1/pods", "/api/v1//pods", "/api/v1/pods//", "/api/v1/namespaces//pods",
		"/./api/v1/pods", "/api/v1/./pods", "/api/v1/pods/.", "/api/v1/pods/..", "/healthz/../api/v1/secrets",
		"/api/v1/%2e%2e/v1/secrets", "/api/v1/%2E/pods", "/api/v1/namespaces/..%2fkube-system/secrets",
		"/api/v1/namespaces/default/pods;x=y", "/api/v1;a=b/pods", "/api/v1/pods%3Bx",
		"/api/v1/namespaces/default/pods/\xff", "/api/v1/namespaces/default/pods/%ff", "/api/v1/namespaces/default/pods/%c0%af",
		"/api/v1/namespaces/default/pods/%zz", "/api/v1/namespaces/default/pods/%2", "/api/v1/namespaces/default/pods/a%25b",
		"/api/v1/namespaces/default/pods/a%0ab", "/api/v1/namespaces/default/pods/a%5Cb", "/api/v1/namespaces/default/pods/a\\b",
		"/api/v1/namespaces/default/pods/p%3Fx", "/api/v1/namespaces/default/pods/p%23x", "/api/v1/pods#x", "/api/v1/pods?x#y",
		"/api/v1/namespaces/default/PODS", "/api/v1/namespaces/Default/pods", "/api/V1/namespaces/default/pods", "/api/v1/namespaces/default/pods/p/EXEC",
		"/api/v1/namespaces/default/pods/p/log/more", "/api/v1/namespaces/default/pods/", "/healthz/", "/metrics/", "/apis/apps/v1/deployments/",
		"/api/v1/proxy/nodes/n", "/api/v1/proxy/namespaces/default/pods/p", "/api/v1/watch", "/api/v1/watch/", "/api/v1/proxy",
		"/api/v1/pods?watch=true&watch=false", "/api/v1/pods?watch=1&watch=1", "/api/v1/pods?w%61tch=1&watch=0",
		"/api/v1/pods?watch=maybe", "/api/v1/pods?watch=", "/api/v1/pods?watch", "/api/v1/watch/pods?watch=false", "/api/v1/namespaces/default/pods/p?watch=true",
		"/api/v1/pods?fieldSelector=metadata.name=a&fieldSelector=metadata.name=b", "/api/v1/pods?fieldSelector=%00bad", "/api/v1/pods?fieldSelector=metadata.name",
		"/api/v1/pods?fieldSelector=metadata.name%3D..%2Fx", "/api/v1/pods?limit=many", "/api/v1/pods?timeoutSeconds=5;watch=1",
		"/api/v1/pods?a;watch=1", "/api/v1/pods?x=%zz", "/api/v1/pods?x=%ff", "/api/v1/pods?\xff=1",
		"http://edge-1.mesh.test/api/v1/pods", "https://other/api/v1/pods", "edge-1.mesh.test:443", "*", "api/v1/pods", "/api/v1/pods\t",
	} {
		t.Run(target, func(t *testing.T) {
			for transport, code := range w.everyTransport(t, p, "GET", target, nil) {
				if code != 400 && code != 0 {
					t.Errorf("%s: answer %d, want 400", transport, code)
				}
			}
			w.upstream.untouched(t)
			if intents, _ := w.log.counts(); intents != 0 {
				t.Error("an intent was recorded")
			}
		})
	}
}

func TestMethodsThatAreNotKubernetesAreRefused(t *testing.T) {
	w := newWorld(t)
	p := w.person("alice", "cluster-admin")
	for _, method := range []string{"OPTIONS", "TRACE", "CONNECT", "PROPFIND", "get", "WATCH", "PROXY"} {
		for transport, code := range w.everyTransport(t, p, method, pods, nil) {
			if code != 400 && code != 0 {
				t.Errorf("%s by %s: answer %d", method, transport, code)
			}
		}
	}
	for transport, code := range w.everyTransport(t, p, "OPTIONS", "*", nil) {
		if code != 400 && code != 0 {
			t.Errorf("OPTIONS * by %s: answer %d", transport, code)
		}
	}
	for transport, code := range w.everyTransport(t, p, "POST", "/api/v1/watch/pods", nil) {
		if code != 400 {
			t.Errorf("POST to a watch by %s: answer %d", transport, code)
		}
	}
	w.upstream.untouched(t)
}

// What clients really send must pass, and pass unchanged.
func TestOrdinaryTargetsPassUnchanged(t *testing.T) {
	w := newWorld(t)
	p := w.person("alice", "cluster-admin")
	for _, target := range []string{
		"/", "/api", "/api/", "/apis", "/apis/", "/api/v1", "/api/v1/", "/apis/apps/", "/apis/apps/v1/", "/version", "/version/",
		"/openapi/v3/apis/apps/v1?hash=ABC", "/.well-known/openid-configuration/", "/openid/v1/jwks/", "/metrics", "/livez?exclude=etcd&exclude=log&verbose",
		"/apis/rbac.authorization.k8s.io/v1/clusterroles/system:node", "/apis/rbac.authorization.k8s.io/v1/clusterroles/system%3Anode",
		"/api/v1/namespaces/default/pods?limit=500", "/api/v1/pods?labelSelector=a%20in%20(b,c),d!=e&limit=500&continue=eyJ2Ijoi",
		"/api/v1/pods?watch=1&resourceVersion=0&allowWatchBookmarks=true", "/api/v1/watch/pods", "/api/v1/watch/namespaces/default/pods/p?resourceVersion=1",
		"/api/v1/pods?fieldSelector=metadata.name%3Dx", "/api/v1/pods?watch=false", "/api/v1/pods?watch=True", "/api/v1/pods?",
		"/api/v1/namespaces/default/pods/p/log?container=c&follow=true&tailLines=10", "/apis/example.com/v1alpha1/widgets/w/scale",
		"/api/v1/namespaces/default/configmaps/caf%C3%A9",
	} {
		t.Run(target, func(t *testing.T) {
			before := len(w.upstream.all())
			for transport, code := range w.everyTransport(t, p, "GET", target, nil) {
				if code != 200 {
					t.Errorf("%s: answer %d", transport, code)
				}
			}
			got := w.upstream.all()[before:]
			if len(got) != 2 || got[0].Target != target || got[1].Target != target {
				t.Errorf("%d requests reached the apiserver: %+v", len(got), got)
			}
		})
	}
}

// A read-only role and what it must not reach by any spelling or transport.
func TestReadOnlyRoleReachesNeitherExecNorProxyNorSecrets(t *testing.T) {
	w := newWorld(t)
	p := w.person("shivam", "view")
	admin := w.person("alice", "cluster-admin")
	ws := [][2]string{{"Connection", "Upgrade"}, {"Upgrade", "websocket"}, {"Sec-WebSocket-Version", "13"}, {"Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="}, {"Sec-WebSocket-Protocol", "v5.channel.k8s.io"}}
	spdy := [][2]string{{"Connection", "Upgrade"}, {"Upgrade", "SPDY/3.1"}, {"X-Stream-Protocol-Version", "v4.channel.k8s.io"}}
	for _, sub := range []string{"exec?command=id&stdout=true", "attach?stdout=true", "portforward?ports=80"} {
		for _, c := range []struct {
			method string
			header [][2]string
		}{{"GET", ws}, {"GET", spdy}, {"POST", spdy}, {"GET", nil}, {"POST", nil}, {"PUT", nil}, {"DELETE", nil}} {
			for transport, code := range w.everyTransport(t, p, c.method, pods+"/p/"+sub, c.header) {
				if code != 403 && code != 400 && code != 0 {
					t.Errorf("%s %s %v by %s: answer %d", c.method, sub, c.header, transport, code)
				}
			}
		}
	}
	for _, r := range [][2]string{
		{"GET", "/api/v1/nodes/n/proxy/run/default/p/c?cmd=id"},
		{"POST", "/api/v1/nodes/n/proxy/exec/default/p/c"},
		{"GET", "/api/v1/nodes/n/proxy"},
		{"GET", pods + "/169.254.169.254:80/proxy/latest/meta-data"},
		{"GET", pods + "/p:80/proxy/x"},
		{"GET", "/api/v1/namespaces/default/services/https:s:443/proxy/x"},
		{"POST", "/api/v1/namespaces/default/serviceaccounts/sp-x/token"},
		{"POST", "/api/v1/namespaces/sallyport-users/serviceaccounts/sp-x/token"},
		{"GET", "/api/v1/namespaces/sallyport-system/secrets"},
		{"GET", "/api/v1/namespaces/sallyport-system/pods"},
		{"GET", "/api/v1/watch/secrets"},
		{"PATCH", pods + "/p/ephemeralcontainers"},
	} {
		// None of them is reached by a wildcard either.
		who := []*person{p}
		if r[0] != "PATCH" {
			who = append(who, admin)
		}
		for _, q := range who {
			for transport, code := range w.everyTransport(t, q, r[0], r[1], nil) {
				if code != 403 {
					t.Errorf("%s: %s %s by %s: answer %d", q.name, r[0], r[1], transport, code)
				}
			}
		}
	}
	for _, r := range [][2]string{
		{"GET", "/api/v1/namespaces/default/secrets"},
		{"GET", "/api/v1/namespaces/default/secrets/s"},
		{"DELETE", pods},
		{"DELETE", pods + "?fieldSelector=metadata.name=p"},
		{"GET", "/metrics"},
		{"GET", "/logs/x"},
		{"GET", "/debug/pprof/profile"},
		{"GET", "/apis/widgets.example.com/v1/widgets"},
		{"GET", pods + "/p/unknown"},
	} {
		for transport, code := range w.everyTransport(t, p, r[0], r[1], nil) {
			if code != 403 {
				t.Errorf("%s %s by %s: answer %d", r[0], r[1], transport, code)
			}
		}
	}
	w.upstream.untouched(t)
	for transport, code := range w.everyTransport(t, p, "GET", "/api/v1/watch/namespaces/default/pods", nil) {
		if code != 200 {
			t.Errorf("watching pods by %s: answer %d", transport, code)
		}
	}
	if e := w.log.intents[0]; e.Verb != "watch" {
		t.Errorf("recorded as %q", e.Verb)
	}
}
