package proxy_test

import (
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"

	"golang.org/x/sync/errgroup"
)

// A real apiserver must read every target that we take as we decided it: its
// own audit log is held against our records. And what we refuse never gets there.
func TestRealApiserverReadsWhatWasDecided(t *testing.T) {
	w := newRealWorld(t)
	ns := aPod(t)
	p := w.person("alice", "cluster-admin")
	client := w.client(p, "h2")

	in := "/api/v1/namespaces/" + ns
	objects := []string{
		"/api/v1/pods", in + "/pods", in + "/pods/web", in + "/pods/web/status", in + "/pods/web/log", in + "/pods/absent", in, "/api/v1/namespaces", in + "/status",
		"/api/v1/nodes", "/apis/apps/v1/deployments", "/apis/apps/v1/namespaces/" + ns + "/deployments/d/scale", "/apis/rbac.authorization.k8s.io/v1/clusterroles/system%3Anode",
		"/apis/rbac.authorization.k8s.io/v1/clusterroles/system:node", in + "/configmaps/kube-root-ca.crt", in + "/services/a:b", in + "/unknowns", "/apis/none.example.com/v1/things/x",
		"/api/v1/watch/namespaces/" + ns + "/pods", "/api/v1/watch/namespaces/" + ns + "/pods/web", in + "/serviceaccounts/default", "/api/v1/namespaces/status",
	}
	queries := []string{
		"", "?", "?limit=1", "?watch=1&timeoutSeconds=1", "?watch=true&timeoutSeconds=1&fieldSelector=metadata.name%3Dweb", "?watch=false", "?fieldSelector=metadata.name%3Dweb",
		"?fieldSelector=metadata.name=web,metadata.namespace=" + ns, "?fieldSelector=metadata.name!%3Dweb", "?fieldSelector=metadata.name%3Dweb&limit=5&labelSelector=a%3Db",
		"?pretty=true&x=%2F..%2F&y=%E2%82%AC", "?resourceVersion=0&resourceVersionMatch=NotOlderThan",
	}
	var targets []string
	for _, o := range objects {
		for _, q := range queries {
			sep := q
			if strings.Contains(o, "/watch/") {
				sep = strings.Replace("?timeoutSeconds=1&"+strings.TrimPrefix(q, "?"), "&timeoutSeconds=1", "", 1)
			}
			targets = append(targets, o+sep)
		}
	}
	targets = append(targets, "/", "/api", "/api/", "/apis/apps/", "/apis/apps/v1/", "/version", "/version/", "/openapi/v3", "/metrics", "/no/such/path", "/logs", "/apis/apps/v1/x/")

	var (
		taken atomic.Int64
		group errgroup.Group
	)
	group.SetLimit(16)
	for _, target := range targets {
		for _, method := range []string{"GET", "HEAD", "DELETE"} {
			url := &url.URL{Scheme: "https", Host: w.addr, Opaque: strings.SplitN(target, "?", 2)[0]}
			if _, q, ok := strings.Cut(target, "?"); ok {
				url.RawQuery, url.ForceQuery = q, true
			}
			if method == "DELETE" { // nothing is deleted
				if strings.Contains(target, "watch") || strings.HasPrefix(target, "/metrics") || !strings.Contains(target, ns) {
					continue
				}
				url.RawQuery += "&dryRun=All"
			}
			group.Go(func() error {
				res, err := client.Do(&http.Request{Method: method, URL: url, Header: http.Header{}})
				if err != nil {
					return fmt.Errorf("%s %s: %w", method, target, err)
				}
				io.Copy(io.Discard, res.Body)
				res.Body.Close()
				if res.StatusCode != 400 && res.StatusCode != 403 {
					taken.Add(1)
				}
				return nil
			})
		}
	}
	must(t, group.Wait())
	if n := taken.Load(); n < 200 {
		t.Errorf("only %d requests were taken", n)
	}
	assertJoined(t, w, p)

	// What is refused by the reading is not in the apiserver's log.
	there := apiserverLog(t)
	before := len(there)
	for _, target := range []string{
		in + "/pods/web/exec/?command=id", in + "/pods/web%2Fexec?command=id", in + "/pods/web/exec%2f?command=id", in + "%2Fpods%2Fweb/exec?command=id",
		"/" + in + "/pods", in + "/./pods", in + "/../kube-system/secrets", in + "/pods;x", in + "/pods/web?watch=true&watch=false", "/api/v1/proxy/nodes/n",
	} {
		for _, upgrade := range []string{
			"", "Connection: Upgrade\r\nUpgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: v4.channel.k8s.io\r\n",
			"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: v5.channel.k8s.io\r\n",
		} {
			for _, method := range []string{"GET", "POST"} {
				res, _, _ := w.rawH1(t, p, fmt.Sprintf("%s %s HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n%s\r\n", method, target, upgrade))
				if res == nil || res.StatusCode != 400 {
					t.Errorf("%s %s %q: %v", method, target, upgrade, res)
				} else if _, ok := apiserverLog(t)[res.Header.Get("Audit-Id")]; ok {
					t.Errorf("%s %s reached the apiserver", method, target)
				}
			}
		}
	}
	for id, e := range apiserverLog(t) {
		if _, old := there[id]; !old && strings.HasPrefix(e.User.Username, "system:serviceaccount:sallyport-users:") {
			t.Errorf("%s %s reached the apiserver after %d events", e.Verb, e.RequestURI, before)
		}
	}
}
