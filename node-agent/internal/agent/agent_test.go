package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/clientcmd/api"

	"github.com/sallyport-mesh/sallyport/deploy/manifest"
	"github.com/sallyport-mesh/sallyport/node-agent/internal/config"
	"github.com/sallyport-mesh/sallyport/node-agent/internal/enroll/enrolltest"
	"github.com/sallyport-mesh/sallyport/pkg/pki"
	"github.com/sallyport-mesh/sallyport/pkg/process"
	"github.com/sallyport-mesh/sallyport/test/parts"
)

// surroundings are a real cluster with the manifest applied, and a coordinator
// as far as enrolment goes.
type surroundings struct {
	coordinator *enrolltest.Coordinator
	owner       *kubernetes.Clientset
	admin       string // kubeconfig of system:masters
	agent       string // kubeconfig of the agent's account
	dir         string
}

func newSurroundings(t *testing.T) *surroundings {
	t.Helper()
	s := &surroundings{coordinator: enrolltest.New(t), dir: t.TempDir()}
	part, err := parts.StartCluster(t.Context(), filepath.Join(s.dir, "cluster"), "agent")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(part.Stop)
	s.admin = part.Kubeconfig
	cfg, err := clientcmd.BuildConfigFromFlags("", s.admin)
	if err != nil {
		t.Fatal(err)
	}
	if s.owner, err = kubernetes.NewForConfig(cfg); err != nil {
		t.Fatal(err)
	}
	out, err := manifest.Render(manifest.Params{Cluster: "edge-1", Ceiling: manifest.Admin, Beside: true, JoinToken: s.coordinator.NewToken().String()})
	if err != nil {
		t.Fatal(err)
	}
	apply, err := part.Kubectl(t.Context(), "apply", "-f", "-")
	if err != nil {
		t.Fatal(err)
	}
	apply.Stdin = strings.NewReader(string(out))
	if said, err := apply.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, said)
	}
	create, err := part.Kubectl(t.Context(), "create", "token", manifest.AgentAccount, "-n", manifest.SystemNamespace, "--duration", "1h")
	if err != nil {
		t.Fatal(err)
	}
	token, err := create.Output()
	if err != nil {
		t.Fatal(err)
	}
	s.agent = s.kubeconfig(t, "agent", strings.TrimSpace(string(token)))
	return s
}

// kubeconfig writes one for a bearer token.
func (s *surroundings) kubeconfig(t *testing.T, name, token string) string {
	t.Helper()
	c, err := clientcmd.LoadFromFile(s.admin)
	if err != nil {
		t.Fatal(err)
	}
	for user := range c.AuthInfos {
		c.AuthInfos[user] = &api.AuthInfo{Token: token}
	}
	path := filepath.Join(s.dir, name+".kubeconfig")
	if err := clientcmd.WriteToFile(*c, path); err != nil {
		t.Fatal(err)
	}
	return path
}

func (s *surroundings) file(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(s.dir, name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func run(ctx context.Context, c config.Config, log *slog.Logger) error {
	if err := c.Complete(); err != nil {
		return err
	}
	return Run(ctx, c, "test", log)
}

// heard is a log that tells when something was said.
type heard struct {
	slog.Handler
	mu   sync.Mutex
	said map[string]chan struct{}
}

func listen() *heard {
	return &heard{Handler: slog.DiscardHandler, said: map[string]chan struct{}{}}
}

func (h *heard) Enabled(context.Context, slog.Level) bool { return true }
func (h *heard) WithAttrs([]slog.Attr) slog.Handler       { return h }
func (h *heard) Handle(_ context.Context, r slog.Record) error {
	c := h.channel(r.Message)
	h.mu.Lock()
	defer h.mu.Unlock()
	select {
	case <-c:
	default:
		close(c)
	}
	return nil
}

func (h *heard) channel(message string) chan struct{} {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.said[message] == nil {
		h.said[message] = make(chan struct{})
	}
	return h.said[message]
}

// started runs an agent until stop is called, which returns what Run did.
func started(t *testing.T, c config.Config) (stop func() error) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	log := listen()
	done := make(chan error, 1)
	go func() { done <- run(ctx, c, slog.New(log)) }()
	select {
	case <-log.channel("serving"):
	case err := <-done:
		t.Fatalf("the agent ended: %v", err)
	case <-time.After(30 * time.Second):
		t.Fatal("the agent does not serve")
	}
	return sync.OnceValue(func() error { cancel(); return <-done })
}

func TestAgentOnARealCluster(t *testing.T) {
	s := newSurroundings(t)
	t.Run("a start that fails says why in one line and leaves nothing", s.testFailedStarts)
	t.Run("the first start enrols and later ones do not", s.testStarts)
}

func (s *surroundings) testFailedStarts(t *testing.T) {
	used := s.coordinator.NewToken()
	stop := started(t, config.Config{DataDir: filepath.Join(s.dir, "first"), Kubeconfig: s.agent, JoinToken: used.String()})
	defer stop()
	taken := filepath.Join(s.dir, "first")

	web := httptest.NewTLSServer(http.NotFoundHandler())
	defer web.Close()
	webToken := pki.JoinToken{Link: pki.Link{URL: web.URL, Pin: pki.Pin(web.Certificate())}, Secret: "x"}
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()
	nobody := pki.JoinToken{Link: pki.Link{URL: "https://" + closed.Addr().String()}, Secret: "x"}
	good := s.coordinator.NewToken().String()

	for name, test := range map[string]struct {
		config config.Config
		says   string
	}{
		"used token":             {config.Config{Kubeconfig: s.agent, JoinToken: used.String()}, "used already"},
		"token cut off":          {config.Config{Kubeconfig: s.agent, JoinToken: good[:40]}, "not a join token"},
		"no token file":          {config.Config{Kubeconfig: s.agent, JoinTokenFile: "/nowhere"}, "no such file"},
		"nobody there":           {config.Config{Kubeconfig: s.agent, JoinToken: nobody.String()}, "nothing listens at"},
		"not a coordinator":      {config.Config{Kubeconfig: s.agent, JoinToken: webToken.String()}, "is not"},
		"no kubeconfig":          {config.Config{JoinToken: good}, "not in a cluster"},
		"kubeconfig not there":   {config.Config{Kubeconfig: "/nowhere", JoinToken: good}, "does not exist"},
		"kubeconfig unreadable":  {config.Config{Kubeconfig: s.file(t, "bad", "a: [b"), JoinToken: good}, "reading kubeconfig"},
		"kubeconfig of nobody":   {config.Config{Kubeconfig: s.kubeconfig(t, "nobody", "x"), JoinToken: good}, "does not take these credentials"},
		"kubeconfig of an admin": {config.Config{Kubeconfig: s.admin, JoinToken: good}, "the agent must be system:serviceaccount:sallyport-system:sallyport-agent"},
		"directory taken":        {config.Config{DataDir: taken, Kubeconfig: s.agent, JoinToken: good}, "another process holds the data directory"},
		"directory is a file":    {config.Config{DataDir: s.file(t, "file", ""), Kubeconfig: s.agent, JoinToken: good}, "data directory"},
	} {
		t.Run(name, func(t *testing.T) {
			if test.config.DataDir == "" {
				test.config.DataDir = filepath.Join(t.TempDir(), "data")
			}
			err := run(t.Context(), test.config, slog.New(slog.DiscardHandler))
			if err == nil || !strings.Contains(err.Error(), test.says) || strings.Contains(err.Error(), "\n") {
				t.Errorf("got %q, want %q", fmt.Sprint(err), test.says)
			}
			if n := len(process.Hints(err)); n != 1 || process.ExitCode(err) != 1 {
				t.Errorf("%d hints, exit code %d: %v", n, process.ExitCode(err), process.Hints(err))
			}
			if strings.HasPrefix(name, "directory") {
				return
			}
			if _, err := os.Stat(test.config.DataDir); !errors.Is(err, os.ErrNotExist) {
				entries, _ := os.ReadDir(test.config.DataDir)
				t.Errorf("left behind: %v", entries)
			}
		})
	}
	if err := stop(); err != nil {
		t.Errorf("the agent that ran all along: %v", err)
	}
}

func (s *surroundings) testStarts(t *testing.T) {
	// The token is the one that the manifest brought.
	cfg := config.Config{DataDir: filepath.Join(t.TempDir(), "data"), Kubeconfig: s.agent}
	before := s.coordinator.Enrolls
	stop := started(t, cfg)
	if _, err := s.owner.CoreV1().Secrets(manifest.SystemNamespace).Get(t.Context(), manifest.JoinSecret, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("the used join token is still there: %v", err)
	}
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	if err := started(t, cfg)(); err != nil {
		t.Fatal(err)
	}
	if n := s.coordinator.Enrolls - before; n != 1 {
		t.Errorf("%d enrolments", n)
	}

	// Another cluster behind the same name is never served.
	path := filepath.Join(cfg.DataDir, "enrolment.json")
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	ns, err := s.owner.CoreV1().Namespaces().Get(t.Context(), metav1.NamespaceSystem, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	moved := strings.ReplaceAll(string(raw), string(ns.UID), "00000000-0000-0000-0000-000000000000")
	if err := os.WriteFile(path, []byte(moved), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if err := run(ctx, cfg, slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), "is of another cluster than edge-1") {
		t.Errorf("%v", err)
	}
}
