package e2e

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/sallyport-mesh/sallyport/test/play"
)

// Scenario B: the trainee deletes a Deployment; the manager finds it with one
// search and takes the access away with one command, while others work on.
func TestScenarioBTheTrainee(t *testing.T) {
	w := quickstart(t)
	virat, shivam := person(t, w, "virat"), person(t, w, "shivam")

	// The mistake.
	ok(t, shivam, "--context", "sallyport/edge-1", "delete", "deployment", "nginx")

	// One search: user, device, verb, object, cluster, time, result.
	eventually(t, "audit", func() error {
		found := search(t, virat, "--project", "aws", "--verb", "delete", "--since", "1h")
		if len(found) != 1 || found[0].Outcome == nil {
			return fmt.Errorf("found %+v", found)
		}
		r := found[0]
		if r.Intent.User.Username != "shivam" || r.Intent.ObjectRef.Resource != "deployments" || r.Intent.ObjectRef.Name != "nginx" ||
			r.Intent.ObjectRef.Namespace != "default" || r.Cluster != "edge-1" || r.Outcome.ResponseStatus.Code != 200 || r.Intent.Ext.Device == "" ||
			time.Since(r.Intent.RequestReceivedTimestamp) > time.Hour {
			t.Errorf("the record is %+v", r)
		}
		return nil
	})
	// The manager of aws reads aws and nothing else.
	if r, err := virat.Run(t.Context(), "sallyportctl", "audit", "search", "--cluster", "edge-3"); err == nil {
		t.Errorf("virat reads the audit of gcp:\n%s", r.Stdout)
	}

	// What runs when the access ends: on both clusters, on each transport.
	pod := aPod(t, shivam, "edge-2")
	streams := []*play.Process{
		running(t, shivam, "watch", "", "--context", "sallyport/edge-2", "get", "pods", "-w"),
		running(t, shivam, "exec", "started", "--context", "sallyport/edge-2", "exec", pod, "--", "sh", "-c", "echo started; exec sleep 600"),
		running(t, shivam, "logs", "", "--context", "sallyport/edge-2", "logs", "-f", pod),
		running(t, shivam, "watch-1", "", "--context", "sallyport/edge-1", "get", "namespaces", "-w"),
	}
	forward, port := portForward(t, shivam, "edge-2", pod)
	streams = append(streams, forward)
	if _, err := get("http://127.0.0.1:" + port + "/"); err != nil {
		t.Errorf("the port-forward does not carry anything: %v", err)
	}
	others := running(t, virat, "watch", "", "--context", "sallyport/edge-2", "get", "pods", "-w")
	before := of(accounts(t, w, "edge-2"), "virat")
	if len(before) < 2 || len(of(accounts(t, w, "edge-2"), "shivam")) < 2 {
		t.Fatalf("accounts before: %v", accounts(t, w, "edge-2"))
	}

	// One command. It waits for the agents and prints each with its times.
	r, err := virat.Run(t.Context(), "sallyportctl", "-o", "json", "user", "suspend", "--project", "aws", "--reason", "deleted nginx", "shivam")
	if err != nil {
		t.Fatal(err)
	}
	confirmed := map[string]bool{}
	for d := json.NewDecoder(strings.NewReader(r.Stdout)); d.More(); {
		var e struct {
			Agent *struct {
				Cluster     string
				CutMs       float64 `json:"cut_ms"`
				CleanMs     float64 `json:"clean_ms"`
				CutStreams  int     `json:"cut_streams"`
				Unreachable bool
				Problem     string
			}
		}
		if err := d.Decode(&e); err != nil {
			t.Fatal(err)
		}
		if e.Agent == nil {
			continue
		}
		t.Logf("%s: cut %.0f ms (%d streams), clean %.0f ms", e.Agent.Cluster, e.Agent.CutMs, e.Agent.CutStreams, e.Agent.CleanMs)
		if e.Agent.Unreachable || e.Agent.Problem != "" {
			t.Errorf("%+v", e.Agent)
		}
		if e.Agent.CutMs > 0 && e.Agent.CleanMs > 0 {
			confirmed[e.Agent.Cluster] = true
		}
	}
	if len(confirmed) != 2 || !confirmed["edge-1"] || !confirmed["edge-2"] {
		t.Errorf("confirmed by %v, want edge-1 and edge-2", confirmed)
	}

	// When the command has returned, everything has ended already; what is left
	// is for kubectl to notice.
	for _, p := range streams {
		select {
		case <-p.Done():
		case <-time.After(20 * time.Second):
			t.Errorf("%s still runs", p.Name)
			p.Kill()
		}
	}
	// The next request is refused.
	refused(t, shivam, []string{"edge-2"}, "--context", "sallyport/edge-2", "get", "pods", "--request-timeout=10s")
	eventually(t, "contexts", func() error { return sameContexts(t, shivam) })

	// The account and every binding are gone, the other users' are not.
	for _, cluster := range []string{"edge-1", "edge-2"} {
		if left := of(accounts(t, w, cluster), "shivam"); len(left) != 0 {
			t.Errorf("%s still holds %v", cluster, left)
		}
	}
	if after := of(accounts(t, w, "edge-2"), "virat"); strings.Join(after, " ") != strings.Join(before, " ") {
		t.Errorf("virat's accounts were %v and are %v", before, after)
	}
	select {
	case <-others.Done():
		t.Error("virat's watch ended")
	default:
	}
	ok(t, virat, "--context", "sallyport/edge-2", "get", "pods")

	// And back again.
	ctl(t, virat, "user", "resume", "--project", "aws", "shivam")
	eventually(t, "resumed", func() error {
		_, err := shivam.Kubectl(t.Context(), "--context", "sallyport/edge-2", "get", "pods")
		return err
	})
}

func aPod(t *testing.T, p *play.Person, cluster string) string {
	t.Helper()
	name := strings.TrimSpace(ok(t, p, "--context", "sallyport/"+cluster, "get", "pods", "-l", "app=nginx", "-o", "jsonpath={.items[0].metadata.name}").Stdout)
	if name == "" {
		t.Fatal("there is no nginx pod")
	}
	return name
}

// running starts kubectl and waits until it has said something ("" for
// anything at all).
func running(t *testing.T, p *play.Person, name, says string, args ...string) *play.Process {
	t.Helper()
	proc, err := p.Start(name, args...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(proc.Kill)
	eventually(t, "kubectl "+strings.Join(args, " "), func() error {
		raw, err := os.ReadFile(proc.Log)
		if err != nil {
			return err
		}
		select {
		case <-proc.Done():
			t.Fatalf("kubectl %v ended by itself:\n%s", args, raw)
		default:
		}
		if len(raw) == 0 || !bytes.Contains(raw, []byte(says)) {
			return errors.New("it has said nothing yet")
		}
		return nil
	})
	return proc
}

var forwarding = regexp.MustCompile(`Forwarding from 127\.0\.0\.1:(\d+)`)

func portForward(t *testing.T, p *play.Person, cluster, pod string) (*play.Process, string) {
	t.Helper()
	proc := running(t, p, "port-forward", "Forwarding from", "--context", "sallyport/"+cluster, "port-forward", pod, ":80")
	raw, err := os.ReadFile(proc.Log)
	if err != nil {
		t.Fatal(err)
	}
	m := forwarding.FindSubmatch(raw)
	if m == nil {
		t.Fatalf("no port in %s", raw)
	}
	return proc, string(m[1])
}

func get(url string) (string, error) {
	res, err := http.Get(url)
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	raw, err := io.ReadAll(res.Body)
	return string(raw), err
}
