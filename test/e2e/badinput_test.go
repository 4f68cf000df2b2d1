package e2e

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sallyport-mesh/sallyport/test/play"
)

// fails runs a binary of ours and wants one clear line, a hint, and an exit code
// that is not zero.
func fails(t *testing.T, env []string, line, hint string, program string, args ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(bin, program), args...)
	cmd.Env = append(os.Environ(), env...)
	out, err := cmd.CombinedOutput()
	if err == nil {
		t.Errorf("%s %v succeeded:\n%s", program, args, out)
		return
	}
	if ctx.Err() != nil {
		t.Errorf("%s %v went on for a minute:\n%s", program, args, out)
		return
	}
	var errors, hints []string
	for l := range strings.Lines(string(out)) {
		switch {
		case strings.HasPrefix(l, "error: "):
			errors = append(errors, l)
		case strings.HasPrefix(l, "hint: "):
			hints = append(hints, l)
		}
	}
	if len(errors) != 1 || !strings.Contains(errors[0], line) {
		t.Errorf("%s %v: want one error line with %q:\n%s", program, args, line, out)
	}
	if hint == "" || !strings.Contains(strings.Join(hints, ""), hint) {
		t.Errorf("%s %v: no hint with %q:\n%s", program, args, hint, out)
	}
	if strings.Contains(string(out), "panic") || strings.Contains(string(out), "goroutine ") {
		t.Errorf("%s %v crashed:\n%s", program, args, out)
	}
}

// nothingIn wants no file under dir, but for locks.
func nothingIn(t *testing.T, dir string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() && !strings.HasSuffix(path, "lock") {
			t.Errorf("%s was left behind", path)
		}
		return err
	})
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
}

// everything is what the directory holds, as its lists print it.
func everything(t *testing.T, w *play.World) string {
	t.Helper()
	var all strings.Builder
	for _, kind := range []string{"user", "group", "project", "cluster", "role", "grant", "device"} {
		r, err := w.Admin(t.Context(), "", kind, "list")
		if err != nil {
			t.Fatal(err)
		}
		all.WriteString(r.Stdout)
	}
	return all.String()
}

func TestCoordinatorRefusesBadInput(t *testing.T) {
	dir := t.TempDir()
	conf := func(text string) string {
		path := filepath.Join(t.TempDir(), "coordinator.yaml")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	fails(t, nil, "lisen", "docs/coordinator.md", "sallyport-coordinator", "--config", conf("lisen: 127.0.0.1:1\n"))
	fails(t, nil, "session.lifetime", "docs/coordinator.md", "sallyport-coordinator", "--config", conf("session: {lifetime: soon}\n"))
	fails(t, nil, "no-such-file", "docs/coordinator.md", "sallyport-coordinator", "--config", filepath.Join(dir, "no-such-file"))
	fails(t, nil, "flag provided but not defined", "--help", "sallyport-coordinator", "--bogus")
	fails(t, nil, "unexpected argument", "--help", "sallyport-coordinator", "start")

	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	data := filepath.Join(dir, "data")
	fails(t, nil, "in use", "--listen", "sallyport-coordinator", "--data-dir", data, "--listen", taken.Addr().String())
	if left, err := os.ReadDir(data); err == nil && len(left) > 0 {
		t.Errorf("a coordinator that could not listen left %v", left)
	}
}

func TestDataDirectoryBelongsToOneProcess(t *testing.T) {
	w := world(t, play.Config{})
	fails(t, nil, "another process holds", "data-dir", "sallyport-coordinator",
		"--data-dir", filepath.Join(w.Dir, "coordinator"), "--listen", "127.0.0.1:0", "--public-url", "https://127.0.0.1:1")
	// The first one has not noticed.
	if _, err := w.Admin(t.Context(), "", "whoami"); err != nil {
		t.Error(err)
	}
}

func TestPeopleAndAgentsRefuseBadInput(t *testing.T) {
	w := world(t, play.Config{})
	ctx := t.Context()
	p, err := w.NewUser(ctx, "pat")
	if err != nil {
		t.Fatal(err)
	}

	t.Run("a coordinator that is not one", func(t *testing.T) {
		web := httptest.NewTLSServer(http.NotFoundHandler())
		defer web.Close()
		fails(t, p.Env(), "root", "#sha256:", "sallyport", "login", "--no-browser", web.URL)
		fails(t, p.Env(), "nothing listens", "check the port", "sallyport", "login", "--no-browser", "https://127.0.0.1:1")
		fails(t, p.Env(), "pin", "ask who runs it", "sallyport", "login", "--no-browser", w.Coordinator.URL+"#sha256:"+strings.Repeat("0", 64))
		fails(t, p.Env(), "does not begin with https://", "sallyport login https://", "sallyport", "login", "--no-browser", "http://example.com")
		fails(t, p.Env(), "not logged in", "sallyport login", "sallyport", "up")
		nothingIn(t, p.Home)
	})
	t.Run("a wrong password", func(t *testing.T) {
		right := p.Password
		p.Password = "not the password"
		err := p.Login(ctx)
		if err == nil || !strings.Contains(err.Error(), "name and password do not belong together") {
			t.Errorf("got %v", err)
		}
		p.Password = right
		fails(t, p.Env(), "not logged in", "sallyport login", "sallyport", "status")
	})
	t.Run("a name that exists", func(t *testing.T) {
		admin := func(line, hint string, args ...string) {
			t.Helper()
			fails(t, []string{"SALLYPORT_SOCKET=" + w.Coordinator.Socket}, line, hint, "sallyportctl", args...)
		}
		before := everything(t, w)
		beside := filepath.Join(t.TempDir(), "token")
		admin("exists already", "sallyportctl user list", "user", "add", "pat")
		admin("name", "sallyportctl user add --help", "user", "add", "Not A Name")
		admin(`no project "nowhere"`, "sallyportctl project list", "cluster", "add", "edge-1", "--project", "nowhere", "--beside", beside)
		admin(`no ceiling "sky"`, "sallyportctl cluster add --help", "cluster", "add", "edge-1", "--project", "nowhere", "--ceiling", "sky")
		admin(`no role "king"`, "sallyportctl role list", "grant", "add", "--role", "king", "--user", "pat", "--project", "nowhere")
		admin("--role", "--help", "grant", "add", "--user", "pat")
		admin(`no user "nobody"`, "sallyportctl user list", "user", "suspend", "nobody")
		admin("--since", "sallyportctl audit search --help", "audit", "search", "--since", "yore")
		if _, err := os.Stat(beside); err == nil {
			t.Error("a cluster that was not added left a token file")
		}
		if after := everything(t, w); after != before {
			t.Errorf("refused commands left something behind:\n%s\nbefore:\n%s", after, before)
		}
	})
	t.Run("a join token that is used, expired or mangled", func(t *testing.T) {
		if _, err := w.Admin(ctx, "", "project", "add", "aws"); err != nil {
			t.Fatal(err)
		}
		c, err := w.StartCluster(ctx, "edge-1", "aws")
		if err != nil {
			t.Fatal(err)
		}
		if err := w.Import(ctx, c); err != nil {
			t.Fatal(err)
		}
		if err := w.StartAgent(ctx, c); err != nil {
			t.Fatal(err)
		}
		agents := filepath.Join(w.Dir, "agents", "edge-1")
		again := func(name, token, line, hint string) {
			t.Helper()
			data := filepath.Join(t.TempDir(), name)
			file := filepath.Join(t.TempDir(), "token")
			if err := os.WriteFile(file, []byte(token), 0o600); err != nil {
				t.Fatal(err)
			}
			fails(t, nil, line, hint, "sallyport-agent", "--data-dir", data, "--kubeconfig", filepath.Join(agents, "kubeconfig"), "--join-token-file", file)
			nothingIn(t, data)
		}
		used, err := os.ReadFile(filepath.Join(agents, "join-token"))
		if err != nil {
			t.Fatal(err)
		}
		again("used", string(used), "was used already", "sallyportctl cluster token")
		again("mangled", "sjt_nonsense", "join token", "sallyportctl cluster token")
		r, err := w.Admin(ctx, "", "cluster", "token", "edge-1", "--ttl", "1s")
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(1100 * time.Millisecond) // the token's own lifetime, which is what is tested
		again("expired", r.Stdout, "ran out", "sallyportctl cluster token")
		fails(t, nil, "another process holds", "data-dir", "sallyport-agent", "--data-dir", filepath.Join(agents, "data"),
			"--kubeconfig", filepath.Join(agents, "kubeconfig"))
		fails(t, nil, "kubeconfig", "kubectl create token", "sallyport-agent", "--data-dir", t.TempDir(), "--kubeconfig", "/no/such/file")
	})
}
