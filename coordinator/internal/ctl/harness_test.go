package ctl

import (
	"bytes"
	"context"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sallyport-mesh/sallyport/coordinator/internal/adminapi"
	"github.com/sallyport-mesh/sallyport/coordinator/internal/caller"
	"github.com/sallyport-mesh/sallyport/coordinator/internal/directory"
	"github.com/sallyport-mesh/sallyport/coordinator/internal/store/storetest"
	apiv1 "github.com/sallyport-mesh/sallyport/pkg/api/sallyport/v1"
	"github.com/sallyport-mesh/sallyport/pkg/api/sallyport/v1/apiv1connect"
	record "github.com/sallyport-mesh/sallyport/pkg/audit"
	"github.com/sallyport-mesh/sallyport/pkg/pki"
	"github.com/sallyport-mesh/sallyport/pkg/policy"
	"github.com/sallyport-mesh/sallyport/pkg/process"
)

// coordinator is the admin service on a real directory behind a real unix socket;
// agents are away.
type coordinator struct {
	t      *testing.T
	dir    *directory.Directory
	socket string
}

func newCoordinator(t *testing.T) *coordinator {
	t.Helper()
	dir, err := directory.Open(t.Context(), directory.Config{Store: storetest.New(t), Builtin: policy.Builtin()})
	if err != nil {
		t.Fatal(err)
	}
	// Unix sockets have short paths, so this is not t.TempDir.
	tmp, err := os.MkdirTemp("", "ctl-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(tmp) })
	w := &coordinator{t: t, dir: dir, socket: filepath.Join(tmp, "admin.sock")}
	_, handler := apiv1connect.NewAdminServiceHandler(adminapi.New(adminapi.Config{
		Directory: dir,
		Effects: func(_ context.Context, rev uint64, send func(*apiv1.Effect) error) error {
			return send(&apiv1.Effect{Kind: &apiv1.Effect_Committed{Committed: &apiv1.Committed{Revision: rev}}})
		},
		Unclean:        func(context.Context, string) ([]string, error) { return nil, nil },
		Agent:          func(string) *apiv1.AgentStatus { return &apiv1.AgentStatus{} },
		Addresses:      func(string) (bool, []string) { return false, nil },
		Forget:         func(context.Context, string) error { return nil },
		BundleRevision: func(string) uint64 { return 0 },
		Find:           func(context.Context, string) (*apiv1.AuditRecord, string, error) { return nil, "", nil },
		CA: func() *apiv1.CAInfo {
			return &apiv1.CAInfo{TrustDomain: "example.test", LoginUrl: "https://example.test", RootPem: "pem"}
		},
		Record: func(context.Context, *record.Event) error { return nil },
		JoinToken: func(secret string) string {
			return pki.JoinToken{Link: pki.Link{URL: "https://example.test"}, Secret: secret}.String()
		},
		WelcomeURL: func(secret string) string { return "https://example.test/welcome?token=" + secret },
		Log:        slog.New(slog.DiscardHandler),
	}))
	listener, err := net.Listen("unix", w.socket)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		handler.ServeHTTP(rw, r.WithContext(caller.With(r.Context(), &caller.Caller{Local: true})))
	})}
	go server.Serve(listener) // ends with Close
	t.Cleanup(func() { server.Close() })
	return w
}

// result is what a command printed and how it ended.
type result struct {
	stdout, stderr string
	code           int
}

// run runs sallyportctl as main does.
func (w *coordinator) run(stdin string, args ...string) result {
	w.t.Helper()
	var stdout, stderr bytes.Buffer
	app := App("test", &stdout, &stderr)
	app.Reader = strings.NewReader(stdin)
	err := app.RunContext(w.t.Context(), process.Arrange(app, append([]string{"sallyportctl", "--socket", w.socket}, args...)))
	process.Print(&stderr, err)
	return result{stdout.String(), stderr.String(), process.ExitCode(err)}
}

// ok runs what must succeed and returns what it printed.
func (w *coordinator) ok(args ...string) string {
	w.t.Helper()
	r := w.run("", args...)
	if r.code != 0 {
		w.t.Fatalf("%v: exit code %d\n%s%s", args, r.code, r.stdout, r.stderr)
	}
	return r.stdout
}

// fails runs what must end with a code and a text on standard error.
func (w *coordinator) fails(code int, text string, args ...string) result {
	w.t.Helper()
	r := w.run("", args...)
	if r.code != code || !strings.Contains(r.stderr, text) {
		w.t.Errorf("%v: exit code %d, want %d with %q\n%s%s", args, r.code, code, text, r.stdout, r.stderr)
	}
	return r
}

func (w *coordinator) fill() {
	w.t.Helper()
	for _, args := range [][]string{
		{"project", "add", "aws"},
		{"cluster", "add", "edge-1", "--project", "aws"},
		{"user", "add", "shivam", "--display-name", "Shivam S."},
		{"user", "add", "virat"},
		{"group", "add", "aws-members"},
		{"group", "join", "aws-members", "shivam"},
		{"grant", "add", "--role", "view", "--group", "aws-members", "--project", "aws"},
		{"grant", "add", "--role", "edit", "--user", "shivam", "--cluster", "edge-1", "-n", "default"},
		{"user", "admin", "virat", "project-manager", "--project", "aws"},
	} {
		w.ok(args...)
	}
}
