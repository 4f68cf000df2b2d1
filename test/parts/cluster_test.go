package parts

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"
)

func TestDeploymentRollsOutToARunningPod(t *testing.T) {
	t.Parallel()
	c := shared(t)
	pod := deploy(t, c, "rollout")
	phase := kubectlOf(t, c, "", "get", "pod", pod, "-o", "jsonpath={.status.phase} {.spec.nodeName}")
	if want := "Running " + c.Node; phase != want {
		t.Errorf("pod is %q, want %q", phase, want)
	}
}

func TestExecCarriesInputOutputErrorsAndExitCode(t *testing.T) {
	t.Parallel()
	c := shared(t)
	pod := deploy(t, c, "exec")
	out, errOut, err := tryKubectl(t, c, "sent", "exec", "-i", pod, "--",
		"sh", "-c", `cat; echo complaint >&2; echo " $POD_NAME"; exit 7`)
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 7 {
		t.Errorf("exit: %v, want code 7", err)
	}
	if want := "sent " + pod + "\n"; out != want {
		t.Errorf("output %q, want %q", out, want)
	}
	if !strings.HasPrefix(errOut, "complaint\n") {
		t.Errorf("errors %q, want them to begin with the command's own", errOut)
	}
	if _, _, err := tryKubectl(t, c, "", "exec", pod, "--", "no-such-program"); !errors.As(err, &exit) || exit.ExitCode() != 127 {
		t.Errorf("exec of a missing program: %v, want code 127", err)
	}
	if wd := kubectlOf(t, c, "", "exec", pod, "--", "sh", "-c", "pwd; ls -A"); !strings.Contains(wd, filepath.Join(c.Dir, "node")) || strings.Count(wd, "\n") != 1 {
		t.Errorf("working directory %q is not an empty one of the cluster's", wd)
	}
}

// reading runs kubectl in the background and hands out its lines.
type reading struct {
	cmd   *exec.Cmd
	lines chan string
}

func read(t *testing.T, c *Cluster, stdin io.Reader, args ...string) *reading {
	t.Helper()
	cmd, err := c.Kubectl(t.Context(), args...)
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if stdin != nil {
		in, err := cmd.StdinPipe() // os/exec would otherwise wait for its end
		if err != nil {
			t.Fatal(err)
		}
		go func() { _, _ = io.Copy(in, stdin) }()
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	r := &reading{cmd: cmd, lines: make(chan string, 1000)}
	go func() {
		defer close(r.lines)
		for s := bufio.NewScanner(out); s.Scan(); {
			r.lines <- s.Text()
		}
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	return r
}

func (r *reading) until(t *testing.T, want string) {
	t.Helper()
	deadline := time.After(time.Minute)
	var seen []string
	for {
		select {
		case line, ok := <-r.lines:
			if !ok {
				t.Fatalf("stream ended before %q; it said %q", want, seen)
			}
			if strings.Contains(line, want) {
				return
			}
			seen = append(seen, line)
		case <-deadline:
			t.Fatalf("no line with %q; the stream said %q", want, seen)
		}
	}
}

func TestLogsFollowShowsWhatAttachSends(t *testing.T) {
	t.Parallel()
	c := shared(t)
	pod := deploy(t, c, "logs")
	logs := read(t, c, nil, "logs", "-f", pod)
	logs.until(t, "web of pod default/"+pod+" started")
	logs.until(t, "tick 2")

	input, send := io.Pipe()
	attached := read(t, c, input, "attach", "-i", pod)
	attached.until(t, "tick") // it is connected
	if _, err := io.WriteString(send, "a line from outside\n"); err != nil {
		t.Fatal(err)
	}
	attached.until(t, "a line from outside")
	logs.until(t, "a line from outside")

	last := kubectlOf(t, c, "", "logs", pod, "--tail=1", "--timestamps")
	if strings.Count(last, "\n") != 1 || !strings.HasPrefix(last, fmt.Sprint(time.Now().UTC().Year())) {
		t.Errorf("logs --tail=1 --timestamps says %q", last)
	}
}

func TestDeletedPodEndsItsStreams(t *testing.T) {
	t.Parallel()
	c := shared(t)
	pod := deploy(t, c, "deleted")
	running := read(t, c, nil, "exec", pod, "--", "sh", "-c", "echo pid $$; exec sleep 1000")
	var pid int
	line := <-running.lines
	if _, err := fmt.Sscanf(line, "pid %d", &pid); err != nil {
		t.Fatalf("exec says %q: %v", line, err)
	}
	logs := read(t, c, nil, "logs", "-f", pod)
	logs.until(t, "tick")
	kubectlOf(t, c, "", "delete", "deployment", "deleted")
	gone(t, "exec'd process", pid)
	deadline := time.After(time.Minute)
	for open := true; open; {
		select {
		case _, open = <-logs.lines:
		case <-deadline:
			t.Fatal("logs -f goes on for a pod that is gone")
		}
	}
}

func TestCopyGoesThereAndBack(t *testing.T) {
	t.Parallel()
	c := shared(t)
	pod := deploy(t, c, "copy")
	dir := t.TempDir()
	content := make([]byte, 3<<20)
	_, _ = rand.Read(content)
	if err := os.WriteFile(filepath.Join(dir, "there"), content, 0o600); err != nil {
		t.Fatal(err)
	}
	kubectlOf(t, c, "", "cp", filepath.Join(dir, "there"), pod+":file")
	kubectlOf(t, c, "", "cp", pod+":file", filepath.Join(dir, "back"))
	back, err := os.ReadFile(filepath.Join(dir, "back"))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(back, content) {
		t.Error("file came back changed")
	}
}

func TestPortForwardReachesTheResponder(t *testing.T) {
	t.Parallel()
	c := shared(t)
	pod := deploy(t, c, "forward")
	forward := read(t, c, nil, "port-forward", "--address=127.0.0.1", "pod/"+pod, ":80", ":7", ":1")
	addresses := map[string]string{}
	for len(addresses) < 3 {
		var port, to string
		line, ok := <-forward.lines
		if !ok {
			t.Fatal("port-forward ended")
		}
		if m := regexp.MustCompile(`127\.0\.0\.1:(\d+) -> (\d+)`).FindStringSubmatch(line); m != nil {
			port, to = m[1], m[2]
			addresses[to] = "127.0.0.1:" + port
		}
	}

	resp, err := http.Post("http://"+addresses["80"]+"/some/path", "text/plain", strings.NewReader("the body"))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(resp.Body)
	if want := "pod default/" + pod + " port 80\nPOST /some/path\nthe body"; string(body) != want {
		t.Errorf("HTTP answer %q, want %q", body, want)
	}

	conn, err := net.Dial("tcp", addresses["7"])
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(time.Minute))
	echo := make([]byte, 4)
	if _, err := conn.Write([]byte("ping")); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(conn, echo); err != nil || string(echo) != "ping" {
		t.Errorf("echo %q, %v", echo, err)
	}

	refused, err := net.Dial("tcp", addresses["1"])
	if err != nil {
		t.Fatal(err)
	}
	defer refused.Close()
	_ = refused.SetDeadline(time.Now().Add(time.Minute))
	if n, err := refused.Read(make([]byte, 1)); n != 0 || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("port 1: read %d bytes, %v; want the connection closed", n, err)
	}
}

// A kwok node with kwok's own stage loses its addresses on every other round.
func TestNodeKeepsItsAddressesWhenItBecomesReadyAgain(t *testing.T) {
	t.Parallel()
	c, err := StartCluster(t.Context(), filepath.Join(t.TempDir(), "c"), "addresses")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Stop()
	pod := deploy(t, c, "again")
	for range 3 {
		kubectlOf(t, c, "", "patch", "node", c.Node, "--subresource=status", "-p",
			`{"status":{"conditions":[{"type":"Ready","status":"False"}]}}`)
		kubectlOf(t, c, "", "wait", "--for=condition=Ready", "--timeout=60s", "node/"+c.Node)
		address := kubectlOf(t, c, "", "get", "node", c.Node, "-o", `jsonpath={.status.addresses[?(@.type=="InternalIP")].address}`)
		if address != "127.0.0.1" {
			t.Fatalf("node's address is %q", address)
		}
		kubectlOf(t, c, "", "exec", pod, "--", "true")
	}
}

// identity is the administrator's, for requests that kubectl cannot make.
func identity(t *testing.T, c *Cluster) *tls.Config {
	t.Helper()
	raw, err := os.ReadFile(c.Kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	field := func(name string) []byte {
		m := regexp.MustCompile(name + `: (\S+)`).FindSubmatch(raw)
		if m == nil {
			t.Fatalf("kubeconfig has no %s", name)
		}
		pem, err := base64.StdEncoding.DecodeString(string(m[1]))
		if err != nil {
			t.Fatal(err)
		}
		return pem
	}
	cert, err := tls.X509KeyPair(field("client-certificate-data"), field("client-key-data"))
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Config{Certificates: []tls.Certificate{cert}, InsecureSkipVerify: true} // what is tested is the client's side
}

func TestAuditLogHoldsTheAuditIDOfTheClient(t *testing.T) {
	t.Parallel()
	c := shared(t)
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: identity(t, c)}}
	id := rand.Text()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, c.APIServer+"/api/v1/namespaces/default/configmaps", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Audit-ID", id)
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	f, err := os.Open(c.AuditLog)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	s := bufio.NewScanner(f)
	s.Buffer(nil, 1<<20)
	for s.Scan() {
		var e struct {
			AuditID, Verb, Level string
			User                 struct{ Username string }
		}
		if err := json.Unmarshal(s.Bytes(), &e); err != nil {
			t.Fatalf("audit log holds %q: %v", s.Bytes(), err)
		}
		if e.AuditID == id {
			if e.Verb != "list" || e.Level != "Metadata" || e.User.Username != "devcluster-admin" {
				t.Errorf("event is %+v", e)
			}
			return
		}
	}
	t.Error("the answered request is not in the audit log")
}

func TestAdmissionPolicyBindsTheAdministratorToo(t *testing.T) {
	t.Parallel()
	c := shared(t)
	kubectlOf(t, c, `
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata: {name: no-forbidden-names}
spec:
  matchConstraints:
    resourceRules: [{apiGroups: [""], apiVersions: [v1], operations: [CREATE], resources: [configmaps]}]
  validations: [{expression: "object.metadata.name != 'forbidden'", message: "not that name"}]
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata: {name: no-forbidden-names}
spec: {policyName: no-forbidden-names, validationActions: [Deny]}
`, "apply", "-f", "-")
	eventually(t, time.Minute, "refusal by the policy", func() error {
		_, errOut, err := tryKubectl(t, c, "", "create", "configmap", "forbidden", "--dry-run=server")
		if err == nil {
			return errors.New("it was admitted")
		}
		if !strings.Contains(errOut, "not that name") {
			return errors.New(errOut)
		}
		return nil
	})
}

func TestServiceAccountTokenIsHeldToItsRights(t *testing.T) {
	t.Parallel()
	c := shared(t)
	kubectlOf(t, c, "", "create", "serviceaccount", "nobody")
	token := strings.TrimSpace(kubectlOf(t, c, "", "create", "token", "nobody"))
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
	get := func(path, bearer string) int {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, c.APIServer+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+bearer)
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		return resp.StatusCode
	}
	if code := get("/api", token); code != http.StatusOK {
		t.Errorf("discovery with a token: %d", code)
	}
	if code := get("/api/v1/namespaces/default/secrets", token); code != http.StatusForbidden {
		t.Errorf("secrets with a token that has no role: %d", code)
	}
	if code := get("/api", token[:len(token)-8]+"AAAAAAAA"); code != http.StatusUnauthorized {
		t.Errorf("a token with a broken signature: %d", code)
	}
}

// The node's exec would be a shell for every user of this machine.
func TestNodeTakesNobodyButTheAPIServer(t *testing.T) {
	t.Parallel()
	c := shared(t)
	port := kubectlOf(t, c, "", "get", "node", c.Node, "-o", "jsonpath={.status.daemonEndpoints.kubeletEndpoint.Port}")
	for name, config := range map[string]*tls.Config{
		"no certificate":                  {InsecureSkipVerify: true},
		"the administrator's certificate": identity(t, c),
	} {
		client := &http.Client{Transport: &http.Transport{TLSClientConfig: config}}
		resp, err := client.Get("https://127.0.0.1:" + port + "/healthz")
		if err == nil {
			resp.Body.Close()
			t.Errorf("with %s the node answers %s", name, resp.Status)
		} else if !strings.Contains(err.Error(), "remote error: tls") {
			t.Errorf("with %s: %v, want the handshake refused", name, err)
		}
	}
}

func TestThreeClustersRunSideBySide(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	var wg sync.WaitGroup
	clusters := make([]*Cluster, 3)
	errs := make([]error, 3)
	for i := range clusters {
		wg.Go(func() {
			name := fmt.Sprintf("edge-%d", i+1)
			clusters[i], errs[i] = StartCluster(ctx, filepath.Join(dir, name), name)
		})
	}
	wg.Wait()
	uids := map[string]bool{}
	for i, c := range clusters {
		if errs[i] != nil {
			t.Error(errs[i])
			continue
		}
		defer c.Stop()
		uids[kubectlOf(t, c, "", "get", "namespace", "kube-system", "-o", "jsonpath={.metadata.uid}")] = true
		deploy(t, c, "side")
	}
	if len(uids) != 3 {
		t.Errorf("%d different kube-system namespaces, want 3", len(uids))
	}
}
