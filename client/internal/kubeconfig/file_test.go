package kubeconfig

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

func entryFor(home, cluster string) Entry {
	return Entry{
		Cluster: cluster, Server: "https://" + cluster + ".sallyport.internal", RootPEM: "-----BEGIN CERTIFICATE-----\n",
		ProxyURL: "socks5://sallyport:secret@127.0.0.1:1080", Command: "/usr/local/bin/sallyport",
		Args: []string{"credential", "--cluster", cluster}, Env: map[string]string{"SALLYPORT_HOME": home},
	}
}

func apply(t *testing.T, f File, clusters ...string) Change {
	t.Helper()
	var entries []Entry
	for _, c := range clusters {
		entries = append(entries, entryFor(f.Owner, c))
	}
	change, err := f.Apply(t.Context(), entries)
	if err != nil {
		t.Fatal(err)
	}
	return change
}

func load(t *testing.T, path string) *clientcmdapi.Config {
	t.Helper()
	c, err := clientcmd.LoadFromFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// layouts are kubeconfigs as they are found in the wild.
func layouts(t *testing.T) map[string][]byte {
	t.Helper()
	paths, err := filepath.Glob("testdata/*.kubeconfig")
	if err != nil || len(paths) < 8 {
		t.Fatalf("found %d kubeconfigs: %v", len(paths), err)
	}
	out := map[string][]byte{}
	for _, p := range paths {
		data, err := os.ReadFile(p)
		if err != nil {
			t.Fatal(err)
		}
		out[strings.TrimSuffix(filepath.Base(p), ".kubeconfig")] = data
	}
	return out
}

func TestForeignEntriesStayAsTheyWere(t *testing.T) {
	for name, before := range layouts(t) {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			f := File{Path: filepath.Join(dir, "config"), Owner: dir}
			if err := os.WriteFile(f.Path, before, 0o644); err != nil {
				t.Fatal(err)
			}
			foreign := load(t, f.Path)

			change := apply(t, f, "edge-1", "edge-2")
			if want := []string{"sallyport/edge-1", "sallyport/edge-2"}; !reflect.DeepEqual(change.Added, want) {
				t.Errorf("added %v, want %v", change.Added, want)
			}
			with := load(t, f.Path)
			for _, n := range change.Added {
				c, u, x := with.Clusters[n], with.AuthInfos[n], with.Contexts[n]
				if c == nil || u == nil || x == nil || x.Cluster != n || x.AuthInfo != n || u.Exec == nil {
					t.Fatalf("%s is not whole: %v %v %v", n, c, u, x)
				}
				delete(with.Clusters, n)
				delete(with.AuthInfos, n)
				delete(with.Contexts, n)
			}
			sameConfig(t, foreign, with)

			apply(t, f, "edge-2")
			apply(t, f)
			sameConfig(t, foreign, load(t, f.Path))
			if info, err := os.Stat(f.Path); err != nil || info.Mode().Perm() != 0o600 {
				t.Errorf("mode %v, %v", info.Mode(), err)
			}
			if left, _ := filepath.Glob(filepath.Join(dir, "*")); len(left) != 1 {
				t.Errorf("left behind: %v", left)
			}
		})
	}
}

func sameConfig(t *testing.T, want, got *clientcmdapi.Config) {
	t.Helper()
	if !reflect.DeepEqual(want, got) {
		w, _ := clientcmd.Write(*want)
		g, _ := clientcmd.Write(*got)
		t.Errorf("changed from\n%s\nto\n%s", w, g)
	}
}

// Where the layout is plain, not only the meaning stays but every byte.
func TestPlainLayoutsStayByteForByte(t *testing.T) {
	for name, before := range layouts(t) {
		if strings.HasPrefix(name, "odd-") {
			continue
		}
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			f := File{Path: filepath.Join(dir, "config"), Owner: dir}
			if err := os.WriteFile(f.Path, before, 0o600); err != nil {
				t.Fatal(err)
			}
			apply(t, f, "edge-1", "edge-2")
			with, err := os.ReadFile(f.Path)
			if err != nil {
				t.Fatal(err)
			}
			golden := filepath.Join("testdata", name+".golden")
			shown := bytes.ReplaceAll(with, []byte(dir), []byte("HOME"))
			if os.Getenv("UPDATE_GOLDEN") != "" {
				if err := os.WriteFile(golden, shown, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(shown, want) {
				t.Errorf("with our contexts it reads\n%s\nwant\n%s", shown, want)
			}

			rest := string(with)
			for line := range strings.Lines(string(before)) {
				i := strings.Index(rest, line)
				if i < 0 && (strings.HasSuffix(line, ": []\n") || strings.HasSuffix(line, ": null\n") || !strings.HasSuffix(line, "\n")) {
					continue // an empty list that is not empty any more
				}
				if i < 0 {
					t.Fatalf("lost the line %q", line)
				}
				rest = rest[i+len(line):]
			}
			apply(t, f)
			after, err := os.ReadFile(f.Path)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(after, before) && !strings.HasPrefix(name, "list-") {
				t.Errorf("removing what was added gives\n%s\nnot\n%s", after, before)
			}
		})
	}
}

func TestUnchangedContextsDoNotTouchTheFile(t *testing.T) {
	dir := t.TempDir()
	f := File{Path: filepath.Join(dir, "deep", "config"), Owner: dir}
	apply(t, f, "edge-1")
	past := time.Now().Add(-time.Hour)
	if err := os.Chtimes(f.Path, past, past); err != nil {
		t.Fatal(err)
	}
	if change := apply(t, f, "edge-1"); !reflect.DeepEqual(change, Change{}) {
		t.Errorf("changed %+v", change)
	}
	if info, _ := os.Stat(f.Path); time.Since(info.ModTime()) < time.Minute {
		t.Error("the file was written again")
	}
}

func TestNothingIsMadeForNobody(t *testing.T) {
	dir := t.TempDir()
	f := File{Path: filepath.Join(dir, "deep", "config"), Owner: dir}
	apply(t, f)
	if _, err := os.Stat(filepath.Dir(f.Path)); !os.IsNotExist(err) {
		t.Errorf("made %s", filepath.Dir(f.Path))
	}
}

// A context that was written by hand under a name of ours is not ours, even when
// the cluster opens later.
func TestHandMadeContextIsLeftAloneAndReported(t *testing.T) {
	dir := t.TempDir()
	f := File{Path: filepath.Join(dir, "config"), Owner: dir}
	apply(t, f, "edge-1")
	c := load(t, f.Path)
	c.Contexts["sallyport/edge-3"] = &clientcmdapi.Context{Cluster: "sallyport/edge-1", AuthInfo: "mine"}
	c.AuthInfos["mine"] = &clientcmdapi.AuthInfo{Token: "t"}
	if err := clientcmd.WriteToFile(*c, f.Path); err != nil {
		t.Fatal(err)
	}
	change := apply(t, f, "edge-1", "edge-3")
	if !reflect.DeepEqual(change, Change{Blocked: []string{"sallyport/edge-3"}}) {
		t.Errorf("change %+v", change)
	}
	apply(t, f)
	after := load(t, f.Path)
	if after.Contexts["sallyport/edge-3"] == nil || after.AuthInfos["mine"] == nil || len(after.Contexts) != 1 {
		t.Errorf("contexts left: %v", after.Contexts)
	}
}

// kubectl writes the file anew when it changes something in it; ours are still
// ours then.
func TestOursAreKnownAfterKubectlWroteTheFile(t *testing.T) {
	dir := t.TempDir()
	f := File{Path: filepath.Join(dir, "config"), Owner: dir}
	apply(t, f, "edge-1", "edge-2")
	c := load(t, f.Path)
	c.CurrentContext = "sallyport/edge-1"
	c.Contexts["sallyport/edge-1"].Namespace = "team-a"
	if err := clientcmd.WriteToFile(*c, f.Path); err != nil {
		t.Fatal(err)
	}
	change := apply(t, f, "edge-1")
	if !reflect.DeepEqual(change, Change{Removed: []string{"sallyport/edge-2"}}) {
		t.Errorf("change %+v", change)
	}
	after := load(t, f.Path)
	if after.CurrentContext != "sallyport/edge-1" || after.Contexts["sallyport/edge-1"].Namespace != "team-a" || len(after.Clusters) != 1 {
		t.Errorf("after: %+v", after)
	}
}

func TestTwoHomesShareAFile(t *testing.T) {
	dir, a, b := t.TempDir(), t.TempDir(), t.TempDir()
	path := filepath.Join(dir, "config")
	apply(t, File{path, a}, "edge-1")
	change := apply(t, File{path, b}, "edge-1", "edge-2")
	if want := (Change{Added: []string{"sallyport/edge-2"}, Blocked: []string{"sallyport/edge-1"}}); !reflect.DeepEqual(change, want) {
		t.Errorf("change %+v, want %+v", change, want)
	}
	if err := os.RemoveAll(a); err != nil {
		t.Fatal(err)
	}
	// The other home is gone, and with it whoever could remove its entries.
	if change := apply(t, File{path, b}, "edge-1", "edge-2"); len(change.Blocked) != 0 {
		t.Errorf("still blocked: %v", change.Blocked)
	}
}

func TestBrokenFilesAreLeftAlone(t *testing.T) {
	for name, text := range map[string]string{
		"not yaml":      "clusters: [",
		"a list":        "- a\n",
		"two documents": "a: 1\n---\nb: 2\n",
		"no list":       "clusters: 7\n",
		"two clusters":  "clusters: []\nclusters: []\n",
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			f := File{Path: filepath.Join(dir, "config"), Owner: dir}
			if err := os.WriteFile(f.Path, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			if _, err := f.Apply(t.Context(), []Entry{entryFor(dir, "edge-1")}); err == nil {
				t.Error("no error")
			}
			if after, _ := os.ReadFile(f.Path); string(after) != text {
				t.Errorf("now it reads %q", after)
			}
		})
	}
}

func TestLinkedKubeconfigStaysALink(t *testing.T) {
	dir := t.TempDir()
	target, link := filepath.Join(dir, "target"), filepath.Join(dir, "config")
	if err := os.WriteFile(target, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(target, link); err != nil {
		t.Fatal(err)
	}
	apply(t, File{link, dir}, "edge-1")
	if info, _ := os.Lstat(link); info.Mode()&os.ModeSymlink == 0 {
		t.Error("the link was replaced")
	}
	if len(load(t, target).Contexts) != 1 {
		t.Error("the target was not written")
	}
}

func TestWritersTakeTurns(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "config")
	homes := make([]string, 8)
	var wg sync.WaitGroup
	for i := range homes {
		homes[i] = t.TempDir()
		wg.Go(func() {
			f := File{path, homes[i]}
			name := "edge-" + string(rune('a'+i))
			if _, err := f.Apply(context.WithoutCancel(t.Context()), []Entry{entryFor(homes[i], name)}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if n := len(load(t, path).Contexts); n != len(homes) {
		t.Errorf("%d contexts of %d writers", n, len(homes))
	}
}

func TestLockOfAKilledWriterIsTakenOver(t *testing.T) {
	dir := t.TempDir()
	f := File{Path: filepath.Join(dir, "config"), Owner: dir}
	lock := f.Path + ".lock"
	if err := os.WriteFile(lock, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	past := time.Now().Add(-time.Minute)
	if err := os.Chtimes(lock, past, past); err != nil {
		t.Fatal(err)
	}
	apply(t, f, "edge-1")
	if _, err := os.Stat(lock); !os.IsNotExist(err) {
		t.Error("the lock is still there")
	}
}

func FuzzEdit(f *testing.F) {
	paths, _ := filepath.Glob("testdata/*.kubeconfig")
	for _, p := range paths {
		data, err := os.ReadFile(p)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		const home = "/home/of/somebody"
		before, err := clientcmd.Load(data)
		if err != nil {
			return
		}
		out, change, err := edit(data, home, []Entry{entryFor(home, "edge-1")})
		if err != nil {
			return
		}
		after, err := clientcmd.Load(out)
		if err != nil {
			t.Fatalf("kubectl cannot read\n%s\n%v", out, err)
		}
		if len(change.Added) == 1 {
			for _, n := range change.Added {
				delete(after.Clusters, n)
				delete(after.AuthInfos, n)
				delete(after.Contexts, n)
			}
			for _, n := range change.Removed {
				delete(before.Clusters, n)
				delete(before.AuthInfos, n)
				delete(before.Contexts, n)
			}
			if len(change.Removed) == 0 {
				sameConfig(t, before, after)
			}
		}
		if again, _, err := edit(out, home, []Entry{entryFor(home, "edge-1")}); err != nil || !bytes.Equal(again, out) {
			t.Fatalf("a second edit (%v) changes\n%s\nto\n%s", err, out, again)
		}
	})
}
