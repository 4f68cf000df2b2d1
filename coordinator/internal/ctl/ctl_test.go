package ctl

import (
	"encoding/json"
	"io"
	"strings"
	"testing"

	"github.com/urfave/cli/v2"
	"sigs.k8s.io/yaml"
)

// walk calls f for every command that does something.
func walk(commands []*cli.Command, path string, f func(path string, c *cli.Command)) {
	for _, c := range commands {
		p := path + " " + c.Name
		if len(c.Subcommands) > 0 {
			walk(c.Subcommands, p, f)
			continue
		}
		f(p, c)
	}
}

func TestEveryCommandHasAnExampleThatBeginsWithItself(t *testing.T) {
	app := App("test", io.Discard, io.Discard)
	walk(app.Commands, "sallyportctl", func(path string, c *cli.Command) {
		if c.Hidden {
			return
		}
		if c.Usage == "" {
			t.Errorf("%s does not say what it does", path)
		}
		example, ok := strings.CutPrefix(c.Description, "Example:\n  ")
		if !ok || !strings.Contains(example, path) {
			t.Errorf("%s: the example is not one of it: %q", path, c.Description)
		}
	})
}

// Names and ids, and every format, for every kind that has them.
func TestEveryNounShowsByNameAndIDInEveryFormat(t *testing.T) {
	w := newCoordinator(t)
	w.fill()
	id := func(kind, name string) string {
		for line := range strings.Lines(w.ok(kind, "list")) {
			if f := strings.Fields(line); len(f) > 1 && f[0] == name {
				return f[1]
			}
		}
		t.Fatalf("%s list does not hold %s", kind, name)
		return ""
	}
	grant := strings.TrimSpace(strings.Split(w.ok("grant", "list", "-o", "name"), "\n")[0])
	for kind, refs := range map[string][]string{
		"user":    {"shivam", id("user", "shivam")},
		"group":   {"aws-members", id("group", "aws-members")},
		"project": {"aws", id("project", "aws")},
		"cluster": {"edge-1"},
		"role":    {"edit"},
		"grant":   {grant},
		"ca":      {""},
	} {
		for _, ref := range refs {
			show := []string{kind, "show"}
			if ref != "" {
				show = append(show, ref)
			}
			if out := w.ok(show...); !strings.Contains(out, refs[0]) && kind != "role" {
				t.Errorf("%v does not show %s:\n%s", show, refs[0], out)
			}
			var fromJSON, fromYAML any
			if err := json.Unmarshal([]byte(w.ok(append(show, "-o", "json")...)), &fromJSON); err != nil {
				t.Errorf("%v -o json: %v", show, err)
			}
			if err := yaml.Unmarshal([]byte(w.ok(append(show, "-o", "yaml")...)), &fromYAML); err != nil {
				t.Errorf("%v -o yaml: %v", show, err)
			}
			if name := strings.TrimSpace(w.ok(append(show, "-o", "name")...)); name == "" || strings.ContainsAny(name, "\n ") {
				t.Errorf("%v -o name prints %q", show, name)
			}
		}
	}
	for _, kind := range []string{"user", "group", "project", "cluster", "role", "grant", "device", "session", "token"} {
		for _, format := range formats {
			w.ok(kind, "list", "-o", format)
		}
	}
	w.fails(2, "--output", "user", "list", "-o", "xml")
}

func TestExitCodes(t *testing.T) {
	w := newCoordinator(t)
	w.fill()
	w.fails(2, "USER is missing", "user", "show")
	w.fails(2, "no command", "user", "vanish")
	w.fails(2, "is not a name", "user", "add", "Not A Name")
	w.fails(2, "nothing to change", "user", "change", "shivam")
	w.fails(4, "no user", "user", "show", "nobody")
	w.fails(4, "no role", "role", "show", "nothing")
	w.fails(4, "no request", "audit", "show", "nothing")
	w.fails(5, "still has", "project", "remove", "aws", "--yes")
	w.fails(6, "exists already", "user", "add", "shivam")
	w.fails(6, "exists already", "user", "change", "virat", "--rename", "shivam")
	w.socket += ".gone"
	w.fails(1, "socket", "user", "list")
	gone := &coordinator{t: t, socket: w.socket}
	gone.fails(1, "opening the coordinator's socket", "user", "list")
}

func TestRemovalShowsFirstWhatItTakesAlong(t *testing.T) {
	w := newCoordinator(t)
	w.fill()
	before := w.dir.Snapshot().Revision
	r := w.fails(2, "hint: sallyportctl user remove shivam --yes", "user", "remove", "shivam")
	for _, want := range []string{"shivam", "aws-members", "changed", "role edit to user shivam on cluster edge-1"} {
		if !strings.Contains(r.stderr, want) {
			t.Errorf("the preview does not name %q:\n%s", want, r.stderr)
		}
	}
	if strings.Contains(r.stderr, "role view") {
		t.Errorf("the preview names a grant that stays:\n%s", r.stderr)
	}
	if out := w.ok("cluster", "remove", "edge-1", "--dry-run"); !strings.Contains(out, "join token") || !strings.Contains(out, "role edit") {
		t.Errorf("the dry run names neither token nor grant:\n%s", out)
	}
	if now := w.dir.Snapshot().Revision; now != before {
		t.Fatalf("previews changed something: revision %d after %d", now, before)
	}
	w.ok("user", "remove", "shivam", "--yes")
	w.fails(4, "no user", "user", "show", "shivam")
	w.fails(4, "no user", "user", "remove", "shivam")
	w.ok("group", "remove", "-y", "aws-members")
	w.ok("cluster", "remove", "edge-1", "--yes")
	w.ok("project", "remove", "aws", "--yes")
}

func TestChangesKeepTheIDAndWhatHangsOnIt(t *testing.T) {
	w := newCoordinator(t)
	w.fill()
	before := w.ok("grant", "list", "--user", "shivam", "-o", "name")
	w.ok("user", "change", "shivam", "--rename", "shiv", "--display-name", "Shiv")
	w.ok("group", "change", "aws-members", "--rename", "members")
	w.ok("project", "change", "aws", "--rename", "cloud")
	if after := w.ok("grant", "list", "--user", "shiv", "-o", "name"); after != before {
		t.Errorf("grants before:\n%safter:\n%s", before, after)
	}
	w.fails(4, "no user", "user", "show", "shivam")
	if out := w.ok("user", "show", "shiv"); !strings.Contains(out, "group members") || !strings.Contains(out, "project cloud") {
		t.Errorf("new names are not shown:\n%s", out)
	}
	w.ok("user", "add", "shivam") // the old name is free
	w.ok("cluster", "change", "edge-1", "--budget-exec", "5m")
	if out := w.ok("cluster", "show", "edge-1"); !strings.Contains(out, "reads 24h, writes 4h, exec 5m") {
		t.Errorf("budgets:\n%s", out)
	}
	w.fails(2, "exec at most as long as writes", "cluster", "change", "edge-1", "--budget-exec", "5h")
	w.fails(2, "between a minute and a week", "cluster", "change", "edge-1", "--budget-read", "900h")
}

func TestJoinTokensAreListedWithoutTheirSecretAndTakenBack(t *testing.T) {
	w := newCoordinator(t)
	w.fill()
	secret := strings.TrimSpace(w.ok("token", "add", "edge-1"))
	id := strings.Split(w.ok("token", "list", "-o", "name"), "\n")[0]
	for _, format := range formats {
		if out := w.ok("token", "list", "-o", format); strings.Contains(out, secret) || strings.Contains(out, "jtk-") {
			t.Errorf("token list -o %s holds the secret:\n%s", format, out)
		}
	}
	w.ok("token", "remove", id)
	w.fails(4, "no join token", "token", "remove", id)
}

func TestManifestOfAClusterThatIsThere(t *testing.T) {
	w := newCoordinator(t)
	w.fill()
	first := w.ok("cluster", "manifest", "edge-1")
	again := w.ok("cluster", "manifest", "edge-1")
	for _, m := range []string{first, again} {
		if !strings.Contains(m, "kind: Deployment") || !strings.Contains(m, "sallyport.io/ceiling: admin") {
			t.Errorf("not a manifest with the cluster's ceiling:\n%.400s", m)
		}
	}
	if first == again {
		t.Error("two manifests hold one join token")
	}
	w.fails(4, `no cluster "edge-9"`, "cluster", "manifest", "edge-9")
}
