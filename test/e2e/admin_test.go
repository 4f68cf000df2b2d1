package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sallyport-mesh/sallyport/test/play"
)

// The directory as a platform team fills it: from files, checked before anything
// changes, and taken away with what hangs on it in sight.
func TestDirectoryFromFilesOnARealCoordinator(t *testing.T) {
	w := world(t, play.Config{})
	dir := t.TempDir()
	run := func(code int, args ...string) play.Result {
		t.Helper()
		r, err := w.Admin(t.Context(), "", args...)
		if r.Code != code {
			t.Fatalf("%v: exit code %d, want %d (%v)\n%s%s", args, r.Code, code, err, r.Stdout, r.Stderr)
		}
		return r
	}
	write := func(name, text string) string {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	// 1. A hundred people in one command.
	people := "name,display_name,groups\n"
	for i := range 100 {
		people += fmt.Sprintf("person%d,Person %d,aws-members\n", i, i)
	}
	links := filepath.Join(dir, "links.csv")
	run(0, "import", "-f", write("users.csv", people), "--links", links)
	if raw, err := os.ReadFile(links); err != nil || strings.Count(string(raw), "/welcome/") != 100 {
		t.Errorf("links: %v\n%s", err, raw)
	}
	// 2. The rest from a file.
	head := "---\napiVersion: sallyport.io/v1\nkind: "
	access := write("access.yaml", head+"Project\nmetadata: {name: aws}\n"+
		head+"Cluster\nmetadata: {name: edge-1}\nspec: {project: aws, ceiling: admin}\n"+
		head+"Grant\nspec: {role: view, group: aws-members, project: aws}\n")
	if r := run(1, "diff", "-f", access); !strings.Contains(r.Stdout, "+kind: Grant") {
		t.Errorf("diff:\n%s", r.Stdout)
	}
	run(0, "apply", "-f", access)
	run(0, "diff", "-f", access)
	// 3. What is exported is what is there.
	all := write("all.yaml", run(0, "get", "all", "-o", "yaml").Stdout)
	if r := run(0, "apply", "-f", all); strings.Contains(r.Stdout, "created") || strings.Contains(r.Stdout, "changed at") {
		t.Errorf("apply of what was exported:\n%s", r.Stdout)
	}
	// 4. A removal says what it takes along, and waits for a yes.
	r := run(2, "user", "remove", "person7")
	if !strings.Contains(r.Stderr, "aws-members") || !strings.Contains(r.Stderr, "hint: sallyportctl user remove person7 --yes") {
		t.Errorf("removal without --yes:\n%s", r.Stderr)
	}
	run(0, "user", "show", "person7")
	run(0, "user", "remove", "person7", "--yes")
	run(4, "user", "show", "person7")
	// 5. It is all on record, each object by itself.
	r = run(0, "audit", "search", "--log", "coordinator", "--limit", "1000", "-o", "json")
	for _, want := range []string{"user person42 (apply)", "cluster edge-1 (apply)", "role view to aws-members on aws (apply)", "preview of removing user person7"} {
		if !strings.Contains(r.Stdout, want) {
			t.Errorf("not on record: %s", want)
		}
	}
	id := ""
	for line := range strings.Lines(run(0, "audit", "search", "--log", "coordinator").Stdout) {
		if f := strings.Fields(line); strings.Contains(line, "user.delete") {
			id = f[len(f)-1]
		}
	}
	if r := run(0, "audit", "show", id); !strings.Contains(r.Stdout, "admin.user.delete") {
		t.Errorf("audit show %s:\n%s", id, r.Stdout)
	}
	// 6. The pin in the login URL is the one that people were given.
	if r := run(0, "ca", "show"); !strings.Contains(r.Stdout, w.Coordinator.Login) {
		t.Errorf("ca show does not show %s:\n%s", w.Coordinator.Login, r.Stdout)
	}
}
