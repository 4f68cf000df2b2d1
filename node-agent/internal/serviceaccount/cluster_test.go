package serviceaccount

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/sallyport-mesh/sallyport/deploy/manifest"
	apiv1 "github.com/sallyport-mesh/sallyport/pkg/api/sallyport/v1"
	"github.com/sallyport-mesh/sallyport/pkg/identity"
	"github.com/sallyport-mesh/sallyport/pkg/pki"
	"github.com/sallyport-mesh/sallyport/pkg/policy"
	"github.com/sallyport-mesh/sallyport/test/parts"
)

// cluster is one real control plane for all tests of the package, with the
// manifest of the widest ceiling applied.
type cluster struct {
	part  *parts.Cluster
	admin *kubernetes.Clientset
	agent *rest.Config // as sallyport-agent
}

var shared cluster

func TestMain(m *testing.M) {
	code, err := withCluster(m.Run)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func withCluster(run func() int) (code int, err error) {
	dir, err := os.MkdirTemp("", "serviceaccount-test-")
	if err != nil {
		return 1, err
	}
	defer os.RemoveAll(dir)
	c, err := parts.StartCluster(context.Background(), filepath.Join(dir, "c"), "accounts")
	if err != nil {
		return 1, err
	}
	defer c.Stop()
	if shared, err = newCluster(c); err != nil {
		return 1, err
	}
	return run(), nil
}

func newCluster(part *parts.Cluster) (cluster, error) {
	c := cluster{part: part}
	cfg, err := clientcmd.BuildConfigFromFlags("", part.Kubeconfig)
	if err != nil {
		return c, err
	}
	cfg.QPS = -1
	if c.admin, err = kubernetes.NewForConfig(cfg); err != nil {
		return c, err
	}
	if err := c.applyManifest(manifest.Admin); err != nil {
		return c, err
	}
	seconds := int64(24 * 3600)
	tok, err := c.admin.CoreV1().ServiceAccounts(manifest.SystemNamespace).CreateToken(context.Background(), manifest.AgentAccount,
		&authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{ExpirationSeconds: &seconds}}, metav1.CreateOptions{})
	if err != nil {
		return c, err
	}
	c.agent = rest.AnonymousClientConfig(cfg)
	c.agent.BearerToken = tok.Status.Token
	return c, nil
}

func (c cluster) applyManifest(ceiling string) error {
	out, err := manifest.Render(manifest.Params{
		Cluster: "edge-1", Ceiling: ceiling, Beside: true,
		JoinToken: pki.JoinToken{Link: pki.Link{URL: "https://127.0.0.1:1"}, Secret: "x"}.String(),
	})
	if err != nil {
		return err
	}
	cmd, err := c.part.Kubectl(context.Background(), "apply", "-f", "-")
	if err != nil {
		return err
	}
	cmd.Stdin = strings.NewReader(string(out))
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("kubectl apply: %w: %s", err, out)
	}
	return nil
}

// world is a replica under test: its Minter, its policy, and a tap on what it
// sends to the apiserver.
type world struct {
	*Minter
	t      *testing.T
	tap    *tap
	cfg    Config
	policy atomic.Pointer[policy.Policy]
	stop   func()
}

// tap counts and, where a test says so, spoils what goes to the apiserver.
type tap struct {
	next   http.RoundTripper
	mu     sync.Mutex
	writes []string
	spoil  func(r *http.Request, send func() (*http.Response, error)) (*http.Response, error)
}

func (p *tap) RoundTrip(r *http.Request) (*http.Response, error) {
	p.mu.Lock()
	spoil, next := p.spoil, p.next
	if r.Method != http.MethodGet && !strings.Contains(r.URL.Path, "selfsubjectaccessreviews") && !strings.Contains(r.URL.Path, "leases") {
		p.writes = append(p.writes, r.Method+" "+r.URL.Path)
	}
	p.mu.Unlock()
	send := func() (*http.Response, error) { return next.RoundTrip(r) }
	if spoil != nil {
		return spoil(r, send)
	}
	return send()
}

func (p *tap) setSpoil(f func(r *http.Request, send func() (*http.Response, error)) (*http.Response, error)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.spoil = f
}

func (p *tap) takeWrites() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	w := p.writes
	p.writes = nil
	return w
}

func newWorld(t *testing.T, change func(*Config)) *world {
	t.Helper()
	w := &world{t: t, tap: &tap{}}
	own := rest.CopyConfig(shared.agent)
	own.Wrap(func(next http.RoundTripper) http.RoundTripper {
		w.tap.mu.Lock() // a second start gets a transport of its own
		defer w.tap.mu.Unlock()
		w.tap.next = next
		return w.tap
	})
	w.cfg = Config{
		REST: own, ClusterID: identity.NewID(identity.Cluster), AgentID: identity.NewID(identity.AgentID),
		Dir: t.TempDir(), Policy: w.policy.Load, Tick: 50 * time.Millisecond,
		Log: slog.New(slog.NewTextHandler(t.Output(), nil)),
	}
	if change != nil {
		change(&w.cfg)
	}
	w.start()
	t.Cleanup(func() {
		w.stop()
		w.eraseAll()
	})
	return w
}

// start begins a Minter; stop ends it as a crash would, leaving everything.
func (w *world) start() {
	w.t.Helper()
	m, err := New(w.t.Context(), w.cfg)
	if err != nil {
		w.t.Fatal(err)
	}
	w.Minter = m
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := m.Run(ctx); err != nil {
			w.t.Error(err)
		}
	}()
	w.stop = sync.OnceFunc(func() { cancel(); <-done })
	<-m.ready
}

func (w *world) eraseAll() {
	for o := range w.cluster() {
		// Deleting what is deleted already is no matter here.
		_ = w.deleteObject(context.Background(), o)
	}
}

// cluster is everything this replica has in the cluster, as the cluster says.
func (w *world) cluster() map[object]sight {
	w.t.Helper()
	found, err := w.list(context.Background(), labelAgent+"="+w.cfg.AgentID)
	if err != nil {
		w.t.Fatal(err)
	}
	return found
}

func (w *world) count(kind string) int {
	n := 0
	for o := range w.cluster() {
		if o.kind == kind {
			n++
		}
	}
	return n
}

func (w *world) of(user string) []object {
	found, err := w.list(context.Background(), labelAgent+"="+w.cfg.AgentID+","+labelUser+"="+user)
	if err != nil {
		w.t.Fatal(err)
	}
	return slices.Collect(maps.Keys(found))
}

// grant is one line of a policy in a test.
type grant struct {
	user, role string
	namespaces []string
	expires    time.Time
}

// set makes these grants the policy in force and returns it.
func (w *world) set(grants ...grant) *policy.Policy {
	w.t.Helper()
	b := &apiv1.Bundle{ClusterId: w.cfg.ClusterID, ClusterName: "edge-1", Revision: uint64(time.Now().UnixNano()), Roles: policy.Builtin(), TrustDomain: "t"}
	seen := map[string]bool{}
	for _, g := range grants {
		if !seen[g.user] {
			seen[g.user] = true
			b.Subjects = append(b.Subjects, &apiv1.BundleSubject{UserId: g.user, Name: "user-" + g.user[4:8]})
		}
		bg := &apiv1.BundleGrant{Id: identity.NewID(identity.Grant), UserId: g.user, Role: g.role, Namespaces: g.namespaces}
		if !g.expires.IsZero() {
			bg.ExpiresAt = timestamp(g.expires)
		}
		b.Grants = append(b.Grants, bg)
	}
	b.Requires = policy.Requires(b)
	p, err := policy.Compile(b)
	if err != nil {
		w.t.Fatal(err)
	}
	w.policy.Store(p)
	return p
}

func (w *world) apply(p *policy.Policy) {
	w.t.Helper()
	if err := w.Apply(w.t.Context(), p); err != nil {
		w.t.Fatal(err)
	}
}

var listPods = policy.Attributes{ResourceRequest: true, Verb: "list", APIVersion: "v1", Resource: "pods", Namespace: "default"}

// use is a request of a user's: it asks for the account and then does with it
// what it asked it for.
func (w *world) use(user string, a policy.Attributes) (Credential, error) {
	w.t.Helper()
	a.UserID = user
	s, ok := w.policy.Load().Subject(user)
	if !ok {
		return Credential{}, errors.New("not a subject")
	}
	return w.Token(w.t.Context(), s, a)
}

func (w *world) mustUse(user string, a policy.Attributes) Credential {
	w.t.Helper()
	c, err := w.use(user, a)
	if err != nil {
		w.t.Fatal(err)
	}
	return c
}

// as is a client with nothing but the token.
func as(t *testing.T, c Credential) *kubernetes.Clientset {
	t.Helper()
	cfg := rest.AnonymousClientConfig(shared.agent)
	cfg.BearerToken = c.Token
	client, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return client
}

func newUser() string { return identity.NewID(identity.User) }

// newNamespace makes a namespace that no other test has. It is not deleted: the
// cluster is.
func newNamespace(t *testing.T) string {
	t.Helper()
	name := strings.ToLower("ns-" + rand.Text()[:10])
	makeNamespace(t, name)
	return name
}

func makeNamespace(t *testing.T, name string) {
	t.Helper()
	_, err := shared.admin.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
}

// eventually waits for a condition with a deadline.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.NewTimer(10 * time.Second)
	defer deadline.Stop()
	for !ok() {
		select {
		case <-deadline.C:
			t.Fatalf("still not so after ten seconds: %s", what)
		case <-time.After(10 * time.Millisecond):
		}
	}
}
