package kubeconfig

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/api/equality"
)

// Choosing a context changes the choice and nothing else, however the file is
// laid out.
func TestUseChangesTheChoiceAlone(t *testing.T) {
	for name, before := range layouts(t) {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			f := File{Path: filepath.Join(dir, "config"), Owner: dir}
			if err := os.WriteFile(f.Path, before, 0o600); err != nil {
				t.Fatal(err)
			}
			apply(t, f, "edge-1", "edge-2")
			want := load(t, f.Path)
			for _, namespace := range []string{"", "web", "123", ""} { // the third is a number to YAML
				if err := f.Use(t.Context(), "sallyport/edge-2", namespace); err != nil {
					t.Fatal(err)
				}
				want.CurrentContext = "sallyport/edge-2"
				if namespace != "" {
					want.Contexts["sallyport/edge-2"].Namespace = namespace
				}
				if got := load(t, f.Path); !equality.Semantic.DeepEqual(got, want) {
					t.Errorf("with namespace %q:\n got %+v\nwant %+v", namespace, got, want)
				}
			}
			if current, err := f.Current(); err != nil || current != "sallyport/edge-2" {
				t.Errorf("current %q, %v", current, err)
			}
			// The daemon's next look at the file changes neither.
			apply(t, f, "edge-1", "edge-2")
			if got := load(t, f.Path); !equality.Semantic.DeepEqual(got, want) {
				t.Errorf("after the daemon:\n got %+v\nwant %+v", got, want)
			}
			for _, foreign := range []string{"mine", "sallyport/edge-9", ""} {
				if err := f.Use(t.Context(), foreign, ""); !errors.Is(err, ErrNoContext) {
					t.Errorf("%q: %v", foreign, err)
				}
			}
		})
	}
}

func TestUseOfAContextThatSomebodyElseMadeIsRefused(t *testing.T) {
	dir := t.TempDir()
	f := File{Path: filepath.Join(dir, "config"), Owner: dir}
	apply(t, f, "edge-1")
	other := File{Path: f.Path, Owner: t.TempDir()}
	if err := other.Use(t.Context(), "sallyport/edge-1", "web"); !errors.Is(err, ErrNoContext) {
		t.Errorf("error %v", err)
	}
	if err := (File{Path: filepath.Join(dir, "none"), Owner: dir}).Use(t.Context(), "sallyport/edge-1", ""); !errors.Is(err, ErrNoContext) {
		t.Errorf("error %v", err)
	}
}

// Two coordinators may both have an edge-1.
func TestProfilesDoNotCollide(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "config")
	work := filepath.Join(dir, "profiles", "work")
	if err := os.MkdirAll(work, 0o700); err != nil {
		t.Fatal(err)
	}
	apply(t, File{Path: path, Owner: dir}, "edge-1")
	entry := entryFor(work, "edge-1")
	entry.Profile = "work"
	if _, err := (File{Path: path, Owner: work}).Apply(t.Context(), []Entry{entry}); err != nil {
		t.Fatal(err)
	}
	apply(t, File{Path: path, Owner: dir}, "edge-1")
	var names []string
	for n, c := range load(t, path).Contexts {
		names = append(names, n)
		if c.Cluster != n || c.AuthInfo != n {
			t.Errorf("%s mixes %s and %s", n, c.Cluster, c.AuthInfo)
		}
	}
	if got := strings.Join(names, " "); len(names) != 2 || !strings.Contains(got, "sallyport/edge-1") || !strings.Contains(got, "sallyport/work/edge-1") {
		t.Errorf("contexts %v", names)
	}
}
