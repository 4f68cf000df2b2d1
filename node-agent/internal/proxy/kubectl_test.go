package proxy_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// aPod runs a pod in a namespace of its own and returns its namespace.
func aPod(t *testing.T) string {
	t.Helper()
	ctx := t.Context()
	ns, err := realCluster.admin.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "work-"}}, metav1.CreateOptions{})
	must(t, err)
	_, err = realCluster.admin.CoreV1().Pods(ns.Name).Create(ctx, &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "web"},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "any"}}},
	}, metav1.CreateOptions{})
	must(t, err)
	eventually(t, "the pod runs", func() bool {
		p, err := realCluster.admin.CoreV1().Pods(ns.Name).Get(ctx, "web", metav1.GetOptions{})
		return err == nil && p.Status.Phase == corev1.PodRunning
	})
	return ns.Name
}

func TestKubectlWorksAsItAlwaysDid(t *testing.T) {
	w := newRealWorld(t)
	ns := aPod(t)
	alice := w.person("alice", "cluster-admin")
	kubectl := w.kubectl(t, alice)
	do := func(args ...string) string { t.Helper(); return succeed(t, kubectl(t.Context(), args...)) }

	if out := do("get", "pods", "-n", ns); !strings.Contains(out, "web") {
		t.Errorf("get: %s", out)
	}
	do("get", "pods", "-A", "-o", "wide")
	do("api-resources")
	do("explain", "deployment.spec")
	do("version")
	do("cluster-info")
	do("get", "--raw", "/apis/")
	apply := kubectl(t.Context(), "apply", "-n", ns, "-f", "-")
	apply.Stdin = strings.NewReader(`{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"m"},"data":{"a":"1"}}`)
	succeed(t, apply)
	do("annotate", "configmap", "m", "-n", ns, "x=y")
	do("create", "deployment", "d", "--image=any", "-n", ns)
	do("scale", "deployment", "d", "--replicas=2", "-n", ns)
	do("rollout", "status", "deployment", "d", "-n", ns, "--timeout=60s")
	do("delete", "configmap", "m", "-n", ns)
	do("delete", "deployment", "d", "-n", ns, "--wait")
	if out := do("logs", "web", "-n", ns); !strings.Contains(out, "started") {
		t.Errorf("logs: %s", out)
	}
	for _, sockets := range []string{"true", "false"} {
		c := kubectl(t.Context(), "exec", "-n", ns, "web", "-i", "--", "sh", "-c", "cat; echo done; exit 7")
		c.Env = append(c.Env, "KUBECTL_REMOTE_COMMAND_WEBSOCKETS="+sockets)
		c.Stdin = strings.NewReader("through stdin\n")
		out, errs, err := run(t, c)
		if out != "through stdin\ndone\n" || c.ProcessState.ExitCode() != 7 {
			t.Errorf("exec with web sockets %s: %q %q %v", sockets, out, errs, err)
		}
		attach(t, kubectl, ns, sockets)
	}
	local := filepath.Join(t.TempDir(), "there")
	must(t, os.WriteFile(local, []byte(strings.Repeat("copy ", 100_000)), 0o600))
	do("cp", local, ns+"/web:there.txt")
	do("cp", ns+"/web:there.txt", local+".back")
	if back, err := os.ReadFile(local + ".back"); err != nil || len(back) != 500_000 {
		t.Errorf("cp brought back %d bytes (%v)", len(back), err)
	}
	for _, sockets := range []string{"true", "false"} {
		addr, stop := portForward(t, kubectl, ns, sockets)
		res, err := http.Get("http://" + addr + "/hello")
		must(t, err)
		body, _ := io.ReadAll(res.Body)
		res.Body.Close()
		if !strings.Contains(string(body), "/hello") {
			t.Errorf("port-forward with web sockets %s: %q", sockets, body)
		}
		stop()
	}
	if out := do("auth", "whoami"); !strings.Contains(out, "system:serviceaccount:sallyport-users:sp-alice") {
		t.Errorf("whoami: %s", out)
	}
	if out := do("auth", "can-i", "delete", "pods", "-n", ns); !strings.Contains(out, "yes") {
		t.Errorf("can-i: %s", out)
	}
	if out := do("auth", "can-i", "--list", "-n", ns); !strings.Contains(out, "*.*") {
		t.Errorf("can-i --list: %s", out)
	}
	assertJoined(t, w, alice)
}

// assertJoined holds our records against the apiserver's own audit log: each
// allowed request is there once, as the person's account, under our request id
// and with the same meaning, and no request of a person is there as the agent.
func assertJoined(t *testing.T, w *world, p *person) {
	t.Helper()
	there := apiserverLog(t)
	w.log.mu.Lock()
	defer w.log.mu.Unlock()
	seen := 0
	for _, ours := range w.log.outcomes {
		theirs, ok := there[ours.AuditID]
		if ours.Ext.TokenID == "" || ours.ResponseStatus.Code == 499 {
			continue
		}
		if !ok {
			t.Errorf("%s %s %s is not in the apiserver's log", ours.AuditID, ours.Verb, ours.RequestURI)
			continue
		}
		seen++
		if theirs.User.Username != ours.Ext.Account || !strings.HasPrefix(theirs.User.Username, "system:serviceaccount:sallyport-users:sp-"+p.name) || theirs.ImpersonatedUser != nil {
			t.Errorf("%s: the apiserver saw %q, we recorded %q", ours.RequestURI, theirs.User.Username, ours.Ext.Account)
		}
		if ids := theirs.User.Extra["authentication.kubernetes.io/credential-id"]; len(ids) != 1 || ids[0] != ours.Ext.TokenID {
			t.Errorf("%s: the apiserver saw token %q, we recorded %q", ours.RequestURI, ids, ours.Ext.TokenID)
		}
		if len(theirs.SourceIPs) == 0 || theirs.SourceIPs[0] != p.addr.String() {
			t.Errorf("%s: the apiserver saw addresses %v", ours.RequestURI, theirs.SourceIPs)
		}
		verb := theirs.Verb
		if ours.ObjectRef != nil && ours.ObjectRef.Resource == "pods" && (ours.ObjectRef.Subresource == "exec" || ours.ObjectRef.Subresource == "attach" || ours.ObjectRef.Subresource == "portforward") {
			verb = "create"
		}
		if ours.Verb != verb {
			t.Errorf("%s: we recorded %q, the apiserver %q", ours.RequestURI, ours.Verb, theirs.Verb)
		}
		if o, th := ours.ObjectRef, theirs.ObjectRef; (o == nil) != (th == nil) {
			t.Errorf("%s: object %+v, the apiserver saw %+v", ours.RequestURI, o, th)
		} else if o != nil && (o.Resource != th.Resource || o.Subresource != th.Subresource || o.Namespace != th.Namespace || o.APIGroup != th.APIGroup || o.APIVersion != th.APIVersion ||
			// The apiserver learns a new object's name from its body, and records none
			// for a deletecollection, whatever it selects.
			(o.Name != th.Name && ours.Verb != "create" && ours.Verb != "deletecollection")) {
			t.Errorf("%s: object %+v, the apiserver saw %+v", ours.RequestURI, o, th)
		}
		if theirs.RequestURI != ours.RequestURI && ours.ObjectRef != nil {
			t.Errorf("target %q, the apiserver saw %q", ours.RequestURI, theirs.RequestURI)
		}
	}
	if seen < 10 {
		t.Errorf("only %d requests could be compared", seen)
	}
}

// attach types a line into the container and waits for it to come back.
func attach(t *testing.T, kubectl func(context.Context, ...string) *exec.Cmd, ns, sockets string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	c := kubectl(ctx, "attach", "-n", ns, "web", "-i")
	c.Env = append(c.Env, "KUBECTL_REMOTE_COMMAND_WEBSOCKETS="+sockets)
	in, err := c.StdinPipe()
	must(t, err)
	out, err := c.StdoutPipe()
	must(t, err)
	must(t, c.Start())
	fmt.Fprintln(in, "typed into attach")
	lines := bufio.NewScanner(out)
	for lines.Scan() && !strings.Contains(lines.Text(), "typed into attach") {
	}
	if lines.Text() == "" {
		t.Errorf("attach with web sockets %s ended without the line", sockets)
	}
	cancel() // the container runs on, and so would the attach
	c.Wait()
}

var forwarding = regexp.MustCompile(`Forwarding from (127\.0\.0\.1:\d+)`)

func portForward(t *testing.T, kubectl func(context.Context, ...string) *exec.Cmd, ns, sockets string) (addr string, stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	c := kubectl(ctx, "port-forward", "-n", ns, "--address=127.0.0.1", "pod/web", ":8080")
	c.Env = append(c.Env, "KUBECTL_PORT_FORWARD_WEBSOCKETS="+sockets)
	c.Stderr = os.Stderr
	out, err := c.StdoutPipe()
	must(t, err)
	must(t, c.Start())
	stop = func() { cancel(); c.Wait() }
	t.Cleanup(stop)
	line, err := bufio.NewReader(out).ReadString('\n')
	m := forwarding.FindStringSubmatch(line)
	if m == nil {
		t.Fatalf("port-forward said %q (%v)", line, err)
	}
	return m[1], stop
}

func TestKubectlPrintsRefusalsWell(t *testing.T) {
	w := newRealWorld(t)
	ns := aPod(t)
	p := w.person("shivam", "view", ns)
	kubectl := w.kubectl(t, p)
	succeed(t, kubectl(t.Context(), "get", "pods", "-n", ns))
	ours := regexp.MustCompile(`sallyport: .* (on|to) cluster edge-1 refused: .*\[request [0-9a-f-]{36}\]`)
	for _, c := range []struct {
		args []string
		says string
	}{
		{[]string{"get", "pods", "-n", "kube-system"}, "no grant lets shivam list pods in namespace kube-system"},
		{[]string{"get", "nodes"}, "no grant lets shivam list nodes at cluster scope"},
		{[]string{"get", "secrets", "-n", ns}, "secrets"},
		{[]string{"delete", "pod", "web", "-n", ns}, "no grant lets shivam delete pods"},
		{[]string{"exec", "-n", ns, "web", "--", "true"}, "pods/exec"},
		{[]string{"cp", "-n", ns, "/etc/hostname", "web:x"}, "pods/exec"},
		{[]string{"attach", "-n", ns, "web"}, "pods/attach"},
		{[]string{"port-forward", "-n", ns, "web", ":80"}, "pods/portforward"},
		{[]string{"get", "pods", "-n", ns, "--as", "system:admin"}, "sallyportctl why"},
		{[]string{"get", "pods", "-n", ns, "--token", "stolen"}, "only a client certificate"},
		{[]string{"get", "pods", "-n", "no-such-namespace"}, "no grant lets shivam"},
		{[]string{"get", "--raw", "/api/v1/namespaces/" + ns + "/pods/web/exec"}, "need an upgrade"},
		{[]string{"get", "--raw", "/metrics"}, "no grant lets shivam get /metrics"},
	} {
		told := refused(t, kubectl(t.Context(), c.args...))
		if !ours.MatchString(told) || !strings.Contains(told, c.says) {
			t.Errorf("kubectl %s told:\n%s", strings.Join(c.args, " "), told)
		}
		t.Logf("kubectl %s\n%s", strings.Join(c.args, " "), told)
	}
	if out, _, _ := run(t, kubectl(t.Context(), "auth", "can-i", "delete", "pods", "-n", ns)); !strings.Contains(out, "no") {
		t.Errorf("can-i: %s", out)
	}
	w.publish(suspend(p))
	t.Logf("suspended:\n%s", refused(t, kubectl(t.Context(), "get", "pods", "-n", ns)))
}

// Scenario B on the proxy alone: everything that runs ends within a second of
// the cut, and kubectl says why where the protocol has words for it.
func TestRevokedUserLosesEverythingThatKubectlRuns(t *testing.T) {
	w := newRealWorld(t)
	ns := aPod(t)
	p := w.person("shivam", "edit", ns)
	kubectl := w.kubectl(t, p)
	succeed(t, kubectl(t.Context(), "get", "pods", "-n", ns))
	type session struct {
		name   string
		cmd    *exec.Cmd
		out    *strings.Builder
		errs   *strings.Builder
		ended  chan error
		reason bool // kubectl must say why
	}
	var sessions []*session
	begin := func(name, first string, reason bool, env string, args ...string) {
		t.Helper()
		s := &session{name: name, cmd: kubectl(t.Context(), args...), out: &strings.Builder{}, errs: &strings.Builder{}, ended: make(chan error, 1), reason: reason}
		s.cmd.Env = append(s.cmd.Env, env)
		s.cmd.Stderr = s.errs
		in, err := s.cmd.StdinPipe()
		must(t, err)
		out, err := s.cmd.StdoutPipe()
		must(t, err)
		must(t, s.cmd.Start())
		t.Cleanup(func() { in.Close() })
		if strings.HasPrefix(name, "exec") {
			fmt.Fprintln(in, "hello")
		}
		br := bufio.NewReader(out)
		line, err := br.ReadString('\n')
		if !strings.Contains(line, first) {
			t.Fatalf("%s began with %q (%v)", name, line, err)
		}
		go func() {
			io.Copy(s.out, br)
			s.ended <- s.cmd.Wait()
		}()
		sessions = append(sessions, s)
	}
	begin("exec over WebSocket", "hello", true, "KUBECTL_REMOTE_COMMAND_WEBSOCKETS=true", "exec", "-n", ns, "web", "-i", "--", "cat")
	begin("exec over SPDY", "hello", true, "KUBECTL_REMOTE_COMMAND_WEBSOCKETS=false", "exec", "-n", ns, "web", "-i", "--", "cat")
	begin("logs -f", "started", true, "X=", "logs", "-f", "-n", ns, "web")
	begin("get -w", "NAME", true, "X=", "get", "pods", "-w", "-n", ns)
	begin("port-forward", "Forwarding", false, "X=", "port-forward", "-n", ns, "--address=127.0.0.1", "pod/web", ":8080")

	pol := w.publish(suspend(p))
	start := time.Now()
	cut := w.proxy.Cut(pol)
	took := time.Since(start)
	if cut != len(sessions) || took > soon {
		t.Errorf("Cut ended %d of %d in %v", cut, len(sessions), took)
	}
	for _, s := range sessions {
		select {
		case err := <-s.ended:
			told := s.out.String() + s.errs.String()
			t.Logf("%s ended %v after the cut: %v\n%s", s.name, time.Since(start), err, told)
			// kubectl ends a watch with status 0 whatever it was told.
			if s.reason && (err == nil && s.name != "get -w" || !strings.Contains(told, "nothing here is granted to you")) {
				t.Errorf("%s ended with %v and told %q", s.name, err, told)
			}
		case <-time.After(5 * time.Second):
			t.Errorf("%s still runs; it told %q", s.name, s.errs)
			s.cmd.Process.Kill()
		}
	}
	refused(t, kubectl(t.Context(), "get", "pods", "-n", ns))
}
