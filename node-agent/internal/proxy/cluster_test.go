package proxy_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/sallyport-mesh/sallyport/deploy/manifest"
	"github.com/sallyport-mesh/sallyport/node-agent/internal/auditlog"
	"github.com/sallyport-mesh/sallyport/node-agent/internal/proxy"
	"github.com/sallyport-mesh/sallyport/node-agent/internal/serviceaccount"
	"github.com/sallyport-mesh/sallyport/pkg/audit"
	"github.com/sallyport-mesh/sallyport/pkg/identity"
	"github.com/sallyport-mesh/sallyport/pkg/pki"
	"github.com/sallyport-mesh/sallyport/pkg/policy"
	"github.com/sallyport-mesh/sallyport/test/parts"
)

// One real Kubernetes cluster serves all tests that want one; the first starts it.
var realCluster struct {
	once  sync.Once
	dir   string
	part  *parts.Cluster
	admin *kubernetes.Clientset
	agent *rest.Config // as sallyport-agent, the account of our manifest
	err   error
}

func TestMain(m *testing.M) {
	code := m.Run()
	if realCluster.part != nil {
		realCluster.part.Stop()
	}
	os.RemoveAll(realCluster.dir)
	os.Exit(code)
}

func startCluster() (err error) {
	c := &realCluster
	if c.dir, err = os.MkdirTemp("", "proxy-test-"); err != nil {
		return err
	}
	ctx := context.Background()
	if c.part, err = parts.StartCluster(ctx, filepath.Join(c.dir, "c"), "edge-1"); err != nil {
		return err
	}
	cfg, err := clientcmd.BuildConfigFromFlags("", c.part.Kubeconfig)
	if err != nil {
		return err
	}
	cfg.QPS = -1
	if c.admin, err = kubernetes.NewForConfig(cfg); err != nil {
		return err
	}
	rendered, err := manifest.Render(manifest.Params{
		Cluster: "edge-1", Ceiling: manifest.Admin, Beside: true,
		JoinToken: pki.JoinToken{Link: pki.Link{URL: "https://127.0.0.1:1"}, Secret: "x"}.String(),
	})
	if err != nil {
		return err
	}
	apply, err := c.part.Kubectl(ctx, "apply", "-f", "-")
	if err != nil {
		return err
	}
	apply.Stdin = bytes.NewReader(rendered)
	if out, err := apply.CombinedOutput(); err != nil {
		return fmt.Errorf("applying our manifest: %w: %s", err, out)
	}
	day := int64(24 * 3600)
	token, err := c.admin.CoreV1().ServiceAccounts(manifest.SystemNamespace).CreateToken(ctx, manifest.AgentAccount,
		&authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{ExpirationSeconds: &day}}, metav1.CreateOptions{})
	if err != nil {
		return err
	}
	c.agent = rest.AnonymousClientConfig(cfg)
	c.agent.BearerToken = token.Status.Token
	return nil
}

// newRealWorld is a world whose apiserver, accounts and audit log are real; the
// overlay alone is not. Each person has a listener of his own, whose connections
// come from his overlay address, so that kubectl needs no overlay.
func newRealWorld(t *testing.T) *world {
	t.Helper()
	realCluster.once.Do(func() { realCluster.err = startCluster() })
	must(t, realCluster.err)
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)

	dir := t.TempDir()
	skey, _, err := audit.NewKey("sallyport-agent")
	must(t, err)
	_, cosigner, err := audit.NewKey("mesh.test/coordinator")
	must(t, err)
	agentID := identity.NewID(identity.AgentID)
	durable, err := auditlog.Open(ctx, auditlog.Config{
		Dir: filepath.Join(dir, "log"), Origin: "mesh.test/agents/" + agentID + "/0", Key: skey, Cosigner: cosigner,
	})
	must(t, err)
	t.Cleanup(func() { durable.Close() })

	w := &world{}
	minter, err := serviceaccount.New(ctx, serviceaccount.Config{
		REST: realCluster.agent, ClusterID: identity.NewID(identity.Cluster), AgentID: agentID, Dir: t.TempDir(),
		Policy: func() *policy.Policy { return w.policies.current.Load() },
	})
	must(t, err)
	startWorld(t, w, func(cfg *proxy.Config) {
		cfg.Upstream = realCluster.agent
		w.log.next = durable
		cfg.Accounts = minted{minter}
	})
	w.minter = minter
	done := make(chan struct{})
	go func() { defer close(done); minter.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	return w
}

type minted struct{ *serviceaccount.Minter }

func (m minted) Token(ctx context.Context, s policy.Subject, a policy.Attributes) (proxy.Credential, error) {
	c, err := m.Minter.Token(ctx, s, a)
	return proxy.Credential(c), err
}

// kubectl writes a kubeconfig for the person and returns how to run kubectl with it.
func (w *world) kubectl(t *testing.T, p *person) func(ctx context.Context, args ...string) *exec.Cmd {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		w.proxy.Serve(&fromOverlay{l, &net.TCPAddr{IP: p.addr.AsSlice(), Port: 40000}})
	}()
	t.Cleanup(func() { l.Close(); <-ended })
	chain, key := pemOf(t, p.cert)
	cfg := map[string]any{
		"apiVersion": "v1", "kind": "Config", "current-context": "edge-1",
		"contexts": []any{map[string]any{"name": "edge-1", "context": map[string]any{"cluster": "c", "user": "u", "namespace": "default"}}},
		"clusters": []any{map[string]any{"name": "c", "cluster": map[string]any{
			"server": "https://" + l.Addr().String(), "tls-server-name": "edge-1.mesh.test", "certificate-authority-data": pemCert(w.server.cert),
		}}},
		"users": []any{map[string]any{"name": "u", "user": map[string]any{"client-certificate-data": chain, "client-key-data": key}}},
	}
	data, err := json.Marshal(cfg)
	must(t, err)
	home := t.TempDir()
	path := filepath.Join(home, "config")
	must(t, os.WriteFile(path, data, 0o600))
	binary, err := parts.Binary(t.Context(), parts.Kubectl)
	must(t, err)
	return func(ctx context.Context, args ...string) *exec.Cmd {
		c := exec.CommandContext(ctx, binary, args...)
		c.Env = append(os.Environ(), "KUBECONFIG="+path, "HOME="+home, "KUBECACHEDIR="+filepath.Join(home, "cache"))
		c.Dir = home
		return c
	}
}

// fromOverlay gives connections the overlay address that they would have.
type fromOverlay struct {
	net.Listener
	remote net.Addr
}

func (l *fromOverlay) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &overlayConn{c, l.remote}, nil
}

type overlayConn struct {
	net.Conn
	remote net.Addr
}

func (c *overlayConn) RemoteAddr() net.Addr { return c.remote }

// run runs kubectl to its end and returns what it printed, both streams apart.
func run(t *testing.T, c *exec.Cmd) (stdout, stderr string, err error) {
	t.Helper()
	var out, errs bytes.Buffer
	c.Stdout, c.Stderr = &out, &errs
	c.WaitDelay = time.Second
	must(t, c.Start())
	defer time.AfterFunc(time.Minute, func() {
		t.Errorf("kubectl %s hangs", strings.Join(c.Args[1:], " "))
		c.Process.Kill()
	}).Stop()
	err = c.Wait()
	return out.String(), errs.String(), err
}

func succeed(t *testing.T, c *exec.Cmd) string {
	t.Helper()
	out, errs, err := run(t, c)
	if err != nil {
		t.Fatalf("kubectl %s: %v\n%s%s", strings.Join(c.Args[1:], " "), err, out, errs)
	}
	return out
}

// refused runs kubectl where it must fail, and returns what it told the person.
func refused(t *testing.T, c *exec.Cmd) string {
	t.Helper()
	out, errs, err := run(t, c)
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		t.Errorf("kubectl %s succeeded: %s%s", strings.Join(c.Args[1:], " "), out, errs)
	}
	return errs
}

// apiserverLog are the events of the apiserver's own audit log, by request id.
func apiserverLog(t *testing.T) map[string]apiserverEvent {
	t.Helper()
	raw, err := os.ReadFile(realCluster.part.AuditLog)
	must(t, err)
	events := map[string]apiserverEvent{}
	for line := range bytes.Lines(raw) {
		var e apiserverEvent
		if json.Unmarshal(line, &e) == nil && (e.Stage == "ResponseComplete" || e.Stage == "ResponseStarted") {
			events[e.AuditID] = e
		}
	}
	return events
}

type apiserverEvent struct {
	AuditID, Stage, Verb, RequestURI string
	User                             struct {
		Username string
		Extra    map[string][]string
	}
	ImpersonatedUser *struct{ Username string }
	SourceIPs        []string
	ObjectRef        *audit.ObjectRef
	ResponseStatus   struct{ Code int }
}
