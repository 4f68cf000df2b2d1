package parts

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// tiny is a part that builds in a second.
func tiny(t *testing.T) (root string, r recipe) {
	t.Helper()
	root = t.TempDir()
	write(t, filepath.Join(root, "tiny", "go.mod"), "module example.test/tiny\n\ngo 1.26\n")
	write(t, filepath.Join(root, "tiny", "main.go"), "package main\n\nfunc main() { println(\"tiny\") }\n")
	return root, recipe{part: "tiny", module: "tiny", pkg: ".", binary: "tiny", env: []string{"CGO_ENABLED=0"}, usual: "a second"}
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

// listen collects what people who wait are told.
type listener struct {
	mu   sync.Mutex
	said strings.Builder
}

func (l *listener) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.said.Write(b)
}

func listenIn(t *testing.T) *listener {
	l := &listener{}
	stderr = l
	t.Cleanup(func() { stderr = os.Stderr })
	return l
}

func TestAskingAtTheSameTimeBuildsOnce(t *testing.T) {
	t.Setenv("SALLYPORT_CACHE", t.TempDir())
	l := listenIn(t)
	root, r := tiny(t)
	var wg sync.WaitGroup
	paths := make([]string, 8)
	for i := range paths {
		wg.Go(func() {
			path, err := build(t.Context(), root, r, "")
			if err != nil {
				t.Error(err)
			}
			paths[i] = path
		})
	}
	wg.Wait()
	if n := strings.Count(l.said.String(), "built in"); n != 1 {
		t.Errorf("built %d times:\n%s", n, l.said.String())
	}
	for _, path := range paths {
		if path != paths[0] {
			t.Errorf("paths %q and %q", path, paths[0])
		}
	}
	if out, err := exec.Command(paths[0]).CombinedOutput(); err != nil || string(out) != "tiny\n" {
		t.Errorf("binary says %q, %v", out, err)
	}
}

func TestKeyChangesWithWhatTheBinaryIsMadeOf(t *testing.T) {
	t.Parallel()
	root, r := tiny(t)
	key := func(r recipe) string {
		t.Helper()
		k, err := r.key(t.Context(), root)
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	before := key(r)
	if key(r) != before {
		t.Error("key is not stable")
	}
	flagged := r
	flagged.flags = []string{"-tags=more"}
	if key(flagged) == before {
		t.Error("a build flag does not count")
	}
	cgo := r
	cgo.env = []string{"CGO_ENABLED=1"}
	if key(cgo) == before {
		t.Error("cgo does not count")
	}
	for _, name := range []string{"main_test.go", "README.md", "testdata/x.go"} {
		write(t, filepath.Join(root, "tiny", name), "anything")
		if key(r) != before {
			t.Errorf("%s counts, though no binary holds it", name)
		}
	}
	for _, name := range []string{"go.sum", "other.go", "embedded.yaml", "sub/x.go"} {
		was := key(r)
		write(t, filepath.Join(root, "tiny", name), "anything")
		if key(r) == was {
			t.Errorf("%s does not count", name)
		}
	}
}

func TestFailedBuildShowsWhyAndLeavesNothing(t *testing.T) {
	cache := t.TempDir()
	t.Setenv("SALLYPORT_CACHE", cache)
	listenIn(t)
	root, r := tiny(t)
	write(t, filepath.Join(root, "tiny", "broken.go"), "package main\n\nvar x = undefinedName\n")
	_, err := build(t.Context(), root, r, "")
	if err == nil || !strings.Contains(err.Error(), "undefinedName") {
		t.Errorf("error does not show the compiler's: %v", err)
	}
	onlyTheLock(t, cache)
}

func TestInterruptedBuildLeavesNothing(t *testing.T) {
	cache := t.TempDir()
	t.Setenv("SALLYPORT_CACHE", cache)
	listenIn(t)
	root, r := tiny(t)
	// The compiler is made to tell that it has begun, and then to take its time.
	begun := filepath.Join(t.TempDir(), "begun")
	tool := filepath.Join(t.TempDir(), "tool")
	write(t, tool, "#!/bin/sh\ncase \"$*\" in *-V=full*) exec \"$@\";; esac\ntouch "+begun+"\nexec sleep 5\n")
	if err := os.Chmod(tool, 0o755); err != nil {
		t.Fatal(err)
	}
	r.flags = []string{"-toolexec=" + tool}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	failed := make(chan error, 1)
	go func() {
		_, err := build(ctx, root, r, "")
		failed <- err
	}()
	eventually(t, time.Minute, "the compiler's start", func() error {
		_, err := os.Stat(begun)
		return err
	})
	cancel()
	if err := <-failed; !errors.Is(err, context.Canceled) {
		t.Errorf("interrupted build: %v", err)
	}
	onlyTheLock(t, cache)
}

func TestWhatAKilledBuildLeftIsRemoved(t *testing.T) {
	cache := t.TempDir()
	t.Setenv("SALLYPORT_CACHE", cache)
	listenIn(t)
	root, r := tiny(t)
	left := filepath.Join(cache, "parts", ".tiny-123", "tiny")
	write(t, left, "half a binary")
	if _, err := build(t.Context(), root, r, ""); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(left); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("it is still there: %v", err)
	}
}

func onlyTheLock(t *testing.T, cache string) {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join(cache, "parts"))
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	for _, e := range entries {
		if e.Name() != "tiny.lock" {
			t.Errorf("%s is left in the cache", e.Name())
		}
	}
}

func TestOnlyTheBuildsUsedLastAreKept(t *testing.T) {
	cache := t.TempDir()
	t.Setenv("SALLYPORT_CACHE", cache)
	listenIn(t)
	root, r := tiny(t)
	var paths []string
	for _, tag := range []string{"one", "two", "three", "four"} {
		r.flags = []string{"-tags=" + tag}
		path, err := build(t.Context(), root, r, "")
		if err != nil {
			t.Fatal(err)
		}
		// Builds of the same second must still be told apart.
		at := time.Now().Add(time.Duration(len(paths)-10) * time.Minute)
		if err := os.Chtimes(filepath.Dir(path), at, at); err != nil {
			t.Fatal(err)
		}
		paths = append(paths, path)
	}
	for i, path := range paths {
		_, err := os.Stat(path)
		if kept := err == nil; kept != (i > 0) {
			t.Errorf("build %d of 4: kept is %v", i+1, kept)
		}
	}
}

func TestMissingGoNamesTheNextStep(t *testing.T) {
	t.Setenv("SALLYPORT_CACHE", t.TempDir())
	t.Setenv("PATH", t.TempDir())
	root, r := tiny(t)
	_, err := build(t.Context(), root, r, "")
	if err == nil || !strings.Contains(err.Error(), "hint: install Go") {
		t.Errorf("error gives no hint: %v", err)
	}
}

func TestHydraWithoutCompilerSaysWhatItLacks(t *testing.T) {
	t.Setenv("CC", "no-such-compiler")
	t.Setenv("CGO_ENABLED", "1")
	r, note, err := recipeFor(Hydra)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Join(r.env, " ") != "CGO_ENABLED=0" || !strings.Contains(note, "no-such-compiler") || !strings.Contains(note, "PostgreSQL") {
		t.Errorf("recipe %+v, note %q", r, note)
	}
}

func TestBuiltKubectlStandsInWhereNoneIsInstalled(t *testing.T) {
	// PATH keeps what Binary needs, but for a kubectl.
	bin := t.TempDir()
	goBinary, err := exec.LookPath("go")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(goBinary, filepath.Join(bin, "go")); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(bin, "kubectl"), "#!/bin/sh\nexit 1\n") // one that does not work
	if err := os.Chmod(filepath.Join(bin, "kubectl"), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", bin)
	path, err := Binary(t.Context(), Kubectl)
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(path, "version", "--client").CombinedOutput()
	if err != nil || !strings.Contains(string(out), kubernetesVersion) {
		t.Errorf("built kubectl says %q, %v", out, err)
	}
}
