package proxy_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/sallyport-mesh/sallyport/pkg/audit"
)

var quiet = log.New(io.Discard, "", 0)

func TestRequestReachesTheApiserverAsTheUserByteForByte(t *testing.T) {
	for _, proto := range []string{"h1", "h2"} {
		t.Run(proto, func(t *testing.T) {
			w := newWorld(t)
			p := w.person("alice", "cluster-admin")
			const target = "/apis/apps/v1/namespaces/default/deployments?fieldManager=kubectl-create&dryRun=All&pretty=%74rue&x=a+b%20c&"
			body := []byte("{\"kind\":\"Deployment\",\n\t\"odd\":  \"\xff\x00bytes\"}")
			req, err := http.NewRequest("POST", w.url(target), bytes.NewReader(body))
			must(t, err)
			req.Header = http.Header{
				"Content-Type": {"application/json"}, "Accept": {"application/json;as=Table;v=v1;g=meta.k8s.io", "application/json"},
				"User-Agent": {"kubectl/v1.36"}, "Kubectl-Command": {"kubectl create"}, "If-Match": {`"7"`},
				"X-Forwarded-For": {"6.6.6.6"}, "X-Forwarded-Host": {"evil"}, "X-Real-Ip": {"6.6.6.6"}, "Forwarded": {"for=6.6.6.6"},
				"Audit-Id": {"mine"}, "Traceparent": {"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"},
			}
			res, err := w.client(p, proto).Do(req)
			must(t, err)
			answer, _ := io.ReadAll(res.Body)
			res.Body.Close()
			if res.StatusCode != 200 || !strings.Contains(string(answer), "PodList") {
				t.Fatalf("answer %d %s", res.StatusCode, answer)
			}

			got := w.upstream.only(t)
			id := res.Header.Get("Audit-Id")
			want := &received{
				Method: "POST", Target: target, Proto: "HTTP/2.0", Host: w.upstream.addr, Body: body,
				Header: http.Header{
					"Content-Type": {"application/json"}, "Accept": {"application/json;as=Table;v=v1;g=meta.k8s.io", "application/json"},
					"User-Agent": {"kubectl/v1.36"}, "Kubectl-Command": {"kubectl create"}, "If-Match": {`"7"`},
					"Authorization": {"Bearer " + tokenOf(p.UserID)}, "X-Forwarded-For": {p.addr.String()}, "Audit-Id": {id},
					"Content-Length": {fmt.Sprint(len(body))},
				},
			}
			if proto == "h1" || proto == "h2" {
				assertReceived(t, got, want)
			}

			out := w.log.outcome(t, 0)
			intent := w.log.intents[0]
			if intent.AuditID != id || intent.Stage != audit.StageReceived || intent.Ext.Decision != audit.Allow || intent.User.UID != p.UserID ||
				intent.Verb != "create" || intent.ObjectRef.Resource != "deployments" || intent.Ext.Device != p.DeviceID || intent.SourceIPs[0] != p.addr.String() {
				t.Errorf("intent %+v", intent)
			}
			if out.AuditID != id || out.Stage != audit.StageComplete || out.ResponseStatus.Code != 200 || out.Ext.BytesIn != int64(len(body)) ||
				out.Ext.BytesOut != int64(len(answer)) || out.Ext.TokenID != "jti-"+p.UserID || out.Ext.CloseReason != "complete" {
				t.Errorf("outcome %+v %+v", out, out.Ext)
			}
		})
	}
}

func assertReceived(t *testing.T, got, want *received) {
	t.Helper()
	if got.Method != want.Method || got.Target != want.Target || got.Proto != want.Proto || got.Host != want.Host {
		t.Errorf("request line\n got %s %s %s %s\nwant %s %s %s %s", got.Method, got.Target, got.Proto, got.Host, want.Method, want.Target, want.Proto, want.Host)
	}
	if !bytes.Equal(got.Body, want.Body) {
		t.Errorf("body\n got %q\nwant %q", got.Body, want.Body)
	}
	if got.PeerCerts != 0 {
		t.Error("a client certificate was presented upstream")
	}
	for _, name := range slices.Sorted(maps.Keys(got.Header)) {
		if !slices.Equal(got.Header[name], want.Header[name]) {
			t.Errorf("header %s: got %q, want %q", name, got.Header[name], want.Header[name])
		}
	}
	for _, name := range slices.Sorted(maps.Keys(want.Header)) {
		if _, ok := got.Header[name]; !ok {
			t.Errorf("header %s is missing", name)
		}
	}
}

func TestRefusalIsAStatusThatSaysWhatToDo(t *testing.T) {
	w := newWorld(t)
	p := w.person("shivam", "view", "team-a")
	for _, proto := range []string{"h1", "h2"} {
		res, err := w.client(p, proto).Get(w.url("/api/v1/namespaces/team-b/pods/web-1"))
		must(t, err)
		s := readStatus(t, res)
		if res.StatusCode != 403 || s.Code != 403 || s.Reason != metav1.StatusReasonForbidden || s.Status != "Failure" || s.Details.Kind != "pods" || s.Details.Name != "web-1" {
			t.Errorf("%s: %d %+v", proto, res.StatusCode, s)
		}
		for _, want := range []string{"get pods \"web-1\" in namespace team-b on cluster edge-1", "no grant lets shivam", "sallyportctl why shivam get pods -n team-b --name web-1 --cluster edge-1", res.Header.Get("Audit-Id")} {
			if !strings.Contains(s.Message, want) {
				t.Errorf("%s: message %q lacks %q", proto, s.Message, want)
			}
		}
	}
	w.upstream.untouched(t)
	e := w.log.outcome(t, 1)
	if intents, _ := w.log.counts(); intents != 0 || e.Ext.Decision != audit.Deny || e.ResponseStatus.Code != 403 || e.Ext.Reason == "" {
		t.Errorf("%d intents, outcome %+v", intents, e)
	}
}

func readStatus(t *testing.T, res *http.Response) *metav1.Status {
	t.Helper()
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	must(t, err)
	var s metav1.Status
	if err := json.Unmarshal(body, &s); err != nil || s.Kind != "Status" {
		t.Fatalf("no Status in answer %d: %q (%v)", res.StatusCode, body, err)
	}
	return &s
}
