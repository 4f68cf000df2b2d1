// Package e2e runs Sallyport's scenarios on the built binaries, real Kubernetes
// clusters, a real Hydra and plain kubectl.
package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sallyport-mesh/sallyport/test/play"
)

var bin string

func TestMain(m *testing.M) {
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "sallyport-e2e-")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(dir)
		bin = filepath.Join(dir, "bin")
		build := exec.Command("go", "build", "-o", bin+"/",
			"./coordinator/cmd/...", "./node-agent/cmd/...", "./client/cmd/...")
		build.Dir, build.Env = filepath.Join("..", ".."), append(os.Environ(), "CGO_ENABLED=0") // as make build does
		build.Stdout, build.Stderr = os.Stderr, os.Stderr
		if err := build.Run(); err != nil {
			fmt.Fprintln(os.Stderr, "building the binaries:", err)
			return 1
		}
		return m.Run()
	}())
}

// world starts Hydra and a coordinator of this test's own.
func world(t *testing.T, cfg play.Config) *play.World {
	t.Helper()
	if err := play.LookAtSource(filepath.Join("..", "..")); err != nil {
		t.Fatal(err)
	}
	// Unix sockets have short paths, so this is not t.TempDir.
	dir, err := os.MkdirTemp("", "sp-")
	if err != nil {
		t.Fatal(err)
	}
	cfg.Dir, cfg.Bin, cfg.Progress = dir, bin, func(what string) { t.Log(what) }
	w, err := play.New(t.Context(), cfg)
	if err != nil {
		logs(t, dir)
		t.Fatal(err)
	}
	t.Cleanup(func() {
		w.Stop()
		if t.Failed() {
			logs(t, dir)
		}
		os.RemoveAll(dir)
	})
	return w
}

func logs(t *testing.T, dir string) {
	files, _ := filepath.Glob(filepath.Join(dir, "logs", "*.log")) // the pattern is well-formed
	for _, f := range files {
		raw, err := os.ReadFile(f)
		if err != nil {
			continue
		}
		lines := strings.Split(strings.TrimSpace(string(raw)), "\n")
		t.Logf("--- %s\n%s", filepath.Base(f), strings.Join(lines[max(0, len(lines)-40):], "\n"))
	}
}

func quickstart(t *testing.T) *play.World {
	t.Helper()
	w := world(t, play.Config{})
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	if err := w.Quickstart(ctx); err != nil {
		t.Fatal(err)
	}
	return w
}

func person(t *testing.T, w *play.World, name string) *play.Person {
	t.Helper()
	p, err := w.Person(name)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// ok runs kubectl as a person and wants it to succeed.
func ok(t *testing.T, p *play.Person, args ...string) play.Result {
	t.Helper()
	r, err := p.Kubectl(t.Context(), args...)
	if err != nil {
		t.Fatalf("%s: %v", p.Name, err)
	}
	return r
}

// refused runs kubectl as a person and wants it to fail, saying all of words.
func refused(t *testing.T, p *play.Person, words []string, args ...string) {
	t.Helper()
	r, err := p.Kubectl(t.Context(), args...)
	if err == nil {
		t.Fatalf("%s: kubectl %v succeeded:\n%s", p.Name, args, r.Stdout)
	}
	for _, word := range words {
		if !strings.Contains(r.Stdout+r.Stderr, word) {
			t.Errorf("%s: kubectl %v does not say %q:\n%s%s", p.Name, args, word, r.Stdout, r.Stderr)
		}
	}
}

// ctl runs sallyportctl with a person's own login.
func ctl(t *testing.T, p *play.Person, args ...string) string {
	t.Helper()
	r, err := p.Run(t.Context(), "sallyportctl", args...)
	if err != nil {
		t.Fatalf("%s: %v", p.Name, err)
	}
	return r.Stdout
}

// eventually waits for a state that another process brings about.
func eventually(t *testing.T, what string, f func() error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for {
		err := f()
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("%s: %v", what, err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// accounts lists what Sallyport has made in a cluster: service accounts and
// bindings, as the cluster's own administrator sees them.
func accounts(t *testing.T, w *play.World, cluster string) []string {
	t.Helper()
	var all []string
	for _, args := range [][]string{
		{"get", "serviceaccounts", "-n", "sallyport-users"},
		{"get", "clusterrolebindings"},
		{"get", "rolebindings", "-A"},
	} {
		r, err := w.KubectlDirect(t.Context(), w.Clusters[cluster], append(args, "-o", "json")...)
		if err != nil {
			t.Fatal(err)
		}
		var list struct {
			Items []struct {
				Kind     string
				Metadata struct{ Name string }
			}
		}
		if err := json.Unmarshal([]byte(r.Stdout), &list); err != nil {
			t.Fatal(err)
		}
		for _, it := range list.Items {
			if strings.HasPrefix(it.Metadata.Name, "sp-") {
				all = append(all, it.Kind+"/"+it.Metadata.Name)
			}
		}
	}
	slices.Sort(all)
	return all
}

// of keeps the entries that name a person.
func of(all []string, name string) []string {
	return slices.DeleteFunc(slices.Clone(all), func(s string) bool { return !strings.Contains(s, "/sp-"+name+"-") })
}

// record is a line of `sallyportctl audit search -o json`.
type record struct {
	Log     string
	Seq     uint64
	Cluster string
	Intent  event
	Outcome *event
}

type event struct {
	AuditID   string
	Verb      string
	SourceIPs []string

	RequestReceivedTimestamp time.Time
	User                     struct{ Username string }
	ObjectRef                *struct{ Resource, Namespace, Name, Subresource string }
	ResponseStatus           *struct{ Code int }
	Ext                      struct{ Device, Account, TokenID, Decision, Cluster, CloseReason string }
}

func search(t *testing.T, p *play.Person, args ...string) []record {
	t.Helper()
	out := ctl(t, p, append([]string{"-o", "json", "audit", "search"}, args...)...)
	var all []record
	d := json.NewDecoder(strings.NewReader(out))
	for d.More() {
		var r record
		if err := d.Decode(&r); err != nil {
			t.Fatalf("%v in %s", err, out)
		}
		all = append(all, r)
	}
	return all
}

// says is nil once a file holds text.
func says(path, text string) error {
	raw, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if !strings.Contains(string(raw), text) {
		return fmt.Errorf("%s does not say %q yet", filepath.Base(path), text)
	}
	return nil
}
