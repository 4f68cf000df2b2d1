package namespaces

import (
	"context"
	"fmt"
	"net"
	"path/filepath"
	"sync"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/sallyport-mesh/sallyport/pkg/policy"
	"github.com/sallyport-mesh/sallyport/test/parts"
)

// heard is what was told last.
type heard struct {
	mu      sync.Mutex
	now     policy.Namespaces
	changed chan struct{}
}

func (h *heard) tell(ns policy.Namespaces) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.now = ns
	close(h.changed)
	h.changed = make(chan struct{})
}

// until waits until what was told is as asked.
func (h *heard) until(t *testing.T, what string, ok func(policy.Namespaces) bool) policy.Namespaces {
	t.Helper()
	deadline := time.NewTimer(time.Minute)
	defer deadline.Stop()
	for {
		h.mu.Lock()
		now, changed := h.now, h.changed
		h.mu.Unlock()
		if ok(now) {
			return now
		}
		select {
		case <-changed:
		case <-deadline.C:
			t.Fatalf("never told: %s; the last word is %v", what, now)
		}
	}
}

// lines are connections that can be cut.
type lines struct {
	mu   sync.Mutex
	open []net.Conn
}

func (l *lines) dial(ctx context.Context, network, address string) (net.Conn, error) {
	c, err := (&net.Dialer{}).DialContext(ctx, network, address)
	if err == nil {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.open = append(l.open, c)
	}
	return c, err
}

func (l *lines) cut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, c := range l.open {
		c.Close()
	}
	l.open = nil
}

func must[T any](t *testing.T) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// watcher is an account that may do nothing until its binding is made.
func watcher(t *testing.T, admin kubernetes.Interface, cfg *rest.Config) (own *rest.Config, bind, unbind func()) {
	t.Helper()
	ctx := t.Context()
	must[*corev1.ServiceAccount](t)(admin.CoreV1().ServiceAccounts("default").Create(ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "watcher"}}, metav1.CreateOptions{}))
	must[*rbacv1.ClusterRole](t)(admin.RbacV1().ClusterRoles().Create(ctx, &rbacv1.ClusterRole{
		ObjectMeta: metav1.ObjectMeta{Name: "watcher"},
		Rules:      []rbacv1.PolicyRule{{Verbs: []string{"list", "watch"}, APIGroups: []string{""}, Resources: []string{"namespaces"}}},
	}, metav1.CreateOptions{}))
	token := must[*authenticationv1.TokenRequest](t)(admin.CoreV1().ServiceAccounts("default").CreateToken(ctx, "watcher", &authenticationv1.TokenRequest{}, metav1.CreateOptions{}))
	own = rest.AnonymousClientConfig(cfg)
	own.BearerToken = token.Status.Token
	bind = func() {
		t.Helper()
		must[*rbacv1.ClusterRoleBinding](t)(admin.RbacV1().ClusterRoleBindings().Create(ctx, &rbacv1.ClusterRoleBinding{
			ObjectMeta: metav1.ObjectMeta{Name: "watcher"},
			Subjects:   []rbacv1.Subject{{Kind: "ServiceAccount", Name: "watcher", Namespace: "default"}},
			RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "watcher"},
		}, metav1.CreateOptions{}))
	}
	unbind = func() {
		t.Helper()
		if err := admin.RbacV1().ClusterRoleBindings().Delete(ctx, "watcher", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	return own, bind, unbind
}

func TestTellsWhatTheClusterHasAndThatItMayNotLook(t *testing.T) {
	part, err := parts.StartCluster(t.Context(), filepath.Join(t.TempDir(), "c"), "labels")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(part.Stop)
	cfg := must[*rest.Config](t)(clientcmd.BuildConfigFromFlags("", part.Kubeconfig))
	admin := must[*kubernetes.Clientset](t)(kubernetes.NewForConfig(cfg))
	namespaces := admin.CoreV1().Namespaces()
	create := func(name, team string) {
		t.Helper()
		must[*corev1.Namespace](t)(namespaces.Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"team": team}}}, metav1.CreateOptions{}))
	}
	own, bind, unbind := watcher(t, admin, cfg)
	l := &lines{}
	own.Dial = l.dial

	h := &heard{changed: make(chan struct{})}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- Follow(ctx, Config{REST: own, Tell: h.tell}) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})

	// 1. Not before it may look, and then all at once.
	create("web", "a")
	h.mu.Lock()
	if h.now != nil {
		t.Errorf("told %v without the right to look", h.now)
	}
	h.mu.Unlock()
	bind()
	first := h.until(t, "all there are", func(ns policy.Namespaces) bool { return ns["web"]["team"] == "a" && ns["default"] != nil })

	// 2. What changes; what was told stays as it was.
	patch := func(team string) {
		t.Helper()
		must[*corev1.Namespace](t)(namespaces.Patch(t.Context(), "web", types.MergePatchType, fmt.Appendf(nil, `{"metadata":{"labels":{"team":%q}}}`, team), metav1.PatchOptions{}))
	}
	patch("b")
	h.until(t, "another label", func(ns policy.Namespaces) bool { return ns["web"]["team"] == "b" })
	create("api", "a")
	h.until(t, "a new one", func(ns policy.Namespaces) bool { return ns["api"]["team"] == "a" })
	if err := namespaces.Delete(t.Context(), "api", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	h.until(t, "one that went", func(ns policy.Namespaces) bool { _, there := ns["api"]; return !there })
	if first["web"]["team"] != "a" || first["api"] != nil {
		t.Errorf("what was told has changed to %v", first)
	}

	// 3. A line that breaks is no reason to forget; a right that is gone is.
	l.cut()
	patch("c")
	h.until(t, "a change behind a broken line", func(ns policy.Namespaces) bool { return ns["web"]["team"] == "c" })
	unbind()
	l.cut()
	h.until(t, "that it may not look", func(ns policy.Namespaces) bool { return ns == nil })
	patch("d")
	bind()
	h.until(t, "all there are, again", func(ns policy.Namespaces) bool { return ns["web"]["team"] == "d" && ns["default"] != nil })
}
