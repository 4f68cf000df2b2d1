package ctl

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func write(t *testing.T, dir, name, text string) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

const head = "apiVersion: sallyport.io/v1\nkind: "

func TestWhatIsExportedAppliesWithoutAChange(t *testing.T) {
	w := newCoordinator(t)
	w.fill()
	dir := t.TempDir()
	role := write(t, dir, "role.yaml", "description: x\nrules:\n- apiGroups: [apps]\n  resources: [deployments]\n  resourceNames: ['web-*']\n  verbs: [get, patch]\n")
	w.ok("role", "add", "web-operator", "-f", role)
	w.ok("grant", "add", "--role", "web-operator", "--user", "virat", "--project", "aws", "--for", "8h", "--reason", "deploys")
	w.ok("grant", "add", "--role", "web-operator", "--user", "virat", "--project", "aws", "--reason", "the same for ever")
	w.ok("cluster", "change", "edge-1", "--budget-exec", "5m")
	w.ok("user", "suspend", "virat")
	exported := w.ok("get", "all", "-o", "yaml")
	all := write(t, dir, "all.yaml", exported)
	before := w.dir.Snapshot().Revision
	if out := w.ok("apply", "-f", all); strings.Count(out, "unchanged") != strings.Count(exported, "\nkind: ") || strings.Contains(out, "changed at") {
		t.Errorf("apply of what was exported:\n%s", out)
	}
	if now := w.dir.Snapshot().Revision; now != before {
		t.Errorf("apply of what was exported moved the revision from %d to %d", before, now)
	}
	if out := w.ok("diff", "-f", all); out != "" {
		t.Errorf("diff:\n%s", out)
	}
	for _, secret := range []string{"jtk-", "wlc-", "password", "usr-", "prj-", "grt-"} {
		if strings.Contains(exported, secret) {
			t.Errorf("the export holds %q:\n%s", secret, exported)
		}
	}
	// A second coordinator becomes the same.
	other := newCoordinator(t)
	other.ok("apply", "-f", all)
	if again := other.ok("get", "all", "-o", "yaml"); again != exported {
		t.Errorf("the second coordinator declares\n%s\nthe first\n%s", again, exported)
	}
}

func TestDiffShowsWhatApplyThenDoes(t *testing.T) {
	w := newCoordinator(t)
	w.fill()
	file := write(t, t.TempDir(), "x.yaml", head+"Group\nmetadata:\n  name: aws-members\nspec:\n  members: [virat]\n---\n"+
		head+"Cluster\nmetadata: {name: edge-2}\nspec: {project: aws, ceiling: view}\n---\n"+
		head+"Grant\nspec: {role: view, group: aws-members, project: aws, reason: audit}\n")
	r := w.run("", "diff", "-f", file)
	for _, want := range []string{"-    - shivam\n", "+    - virat\n", "+  reason: audit\n", "+  ceiling: view\n", "+++ " + file + ":1 group aws-members"} {
		if r.code != 1 || !strings.Contains(r.stdout, want) || r.stderr != "" {
			t.Errorf("diff has no %q (exit code %d):\n%s%s", want, r.code, r.stdout, r.stderr)
		}
	}
	before := strings.Count(w.ok("grant", "list", "-o", "name"), "grt-")
	out := w.ok("apply", "-f", file)
	if !strings.Contains(out, "committed at revision") {
		t.Errorf("apply does not wait for the agents:\n%s", out)
	}
	if after := strings.Count(w.ok("grant", "list", "-o", "name"), "grt-"); after != before {
		t.Errorf("a grant with another reason is another grant: %d after %d", after, before)
	}
	if out := w.ok("diff", "-f", file); out != "" {
		t.Errorf("after apply, diff shows\n%s", out)
	}
	if out := w.ok("group", "show", "aws-members"); strings.Contains(out, "shivam") || !strings.Contains(out, "virat") {
		t.Errorf("members:\n%s", out)
	}
}

func TestASetThatCannotBeTouchesNothingAndSaysWhere(t *testing.T) {
	w := newCoordinator(t)
	w.fill()
	before := w.dir.Snapshot().Revision
	dir := t.TempDir()
	write(t, dir, "a.yaml", head+"User\nmetadata: {name: ann}\nspec: {}\n")
	people := write(t, dir, "people.yaml", head+"Group\nmetadata: {name: g}\nspec:\n  members:\n  - ann\n  - shivam\n  - bob\n")
	r := w.fails(2, people+":8: spec.members[2]: no user \"bob\"", "apply", "-f", dir)
	if !strings.Contains(r.stderr, "hint: ") {
		t.Error(r.stderr)
	}
	for text, want := range map[string]string{
		"Grant\nspec: {role: nothing, user: shivam, project: aws}\n":                                         `:4: spec.role: no role "nothing"`,
		"Grant\nspec: {role: view, project: aws}\n":                                                          ":4: spec: a grant is for one user or one group",
		"Grant\nspec: {role: view, user: shivam, project: aws, expiresAt: 2001-01-01T00:00:00Z}\n":           ":4: spec.expiresAt: is in the past",
		"Grant\nmetadata: {name: x}\nspec: {role: view, user: shivam, project: aws}\n":                       ":4: metadata.name: a grant has no name",
		"Role\nmetadata: {name: view}\nspec: {}\n":                                                           ":4: metadata.name: role \"view\" is built in",
		"Role\nmetadata: {name: own}\nspec:\n  rules:\n  - apiGroups: ['']\n    resources: [pods]\n":         ":7: spec.rules[0].verbs: name at least one",
		"Cluster\nmetadata: {name: edge-1}\nspec: {project: aws, ceiling: view}\n":                           ":5: spec.ceiling: is admin",
		"Cluster\nmetadata: {name: edge-9}\nspec:\n  project: aws\n  ceiling: view\n  budgets: {exec: 1s}\n": ":8: spec.budgets.exec: 1s is not between",
		"User\nmetadata: {name: eve}\nspec:\n  admin:\n  - role: king\n":                                     ":7: spec.admin[0].role: no admin role",
		"User\nmetadata: {name: usr-aaaaaaaaaaaaaaaa}\n":                                                     "looks like an id",
		"Project\nmetadata: {name: p}\n---\n" + head + "Project\nmetadata: {name: p}\n":                      "stands twice",
	} {
		file := write(t, t.TempDir(), "x.yaml", "---\n"+head+text)
		w.fails(2, want, "apply", "-f", file)
	}
	w.fails(2, "spec.x: no such field", "apply", "-f", write(t, dir, "b.yaml", head+"Project\nmetadata: {name: p}\nspec: {x: 1}\n"))
	if now := w.dir.Snapshot().Revision; now != before {
		t.Fatalf("a refused set changed something: revision %d after %d", now, before)
	}
}

func TestAFileResumesNobody(t *testing.T) {
	w := newCoordinator(t)
	w.fill()
	file := write(t, t.TempDir(), "x.yaml", w.ok("get", "users", "-o", "yaml"))
	w.ok("user", "suspend", "shivam")
	w.ok("apply", "-f", file)
	if out := w.ok("user", "show", "shivam"); !strings.Contains(out, "suspended\n") {
		t.Errorf("an older file resumed a suspended user:\n%s", out)
	}
}

func TestAHundredUsersAreImportedAtOnceOrNotAtAll(t *testing.T) {
	w := newCoordinator(t)
	w.fill()
	var csv strings.Builder
	csv.WriteString("name,display_name,groups\n")
	for i := range 100 {
		fmt.Fprintf(&csv, "user%d,\"User, No. %d\",aws-members;people\n", i, i)
	}
	dir := t.TempDir()
	file, links := write(t, dir, "users.csv", csv.String()), filepath.Join(dir, "links.csv")
	before := w.dir.Snapshot().Revision
	bad := write(t, dir, "bad.csv", csv.String()+"user7,again,\nNot A Name,,\nshivam,,\n")
	w.fails(2, bad+":102: name: \"user7\" stands in line 9 already", "import", "-f", bad)
	bad = write(t, dir, "bad.csv", csv.String()+"Not A Name,,\nshivam,,\n")
	r := w.fails(2, bad+":102: metadata.name: \"Not A Name\" is not a name", "import", "-f", bad)
	if !strings.Contains(r.stderr, bad+":103: metadata.name: user \"shivam\" exists already") {
		t.Errorf("the user who exists is not named by line:\n%s", r.stderr)
	}
	w.fails(2, `no such column "mail"`, "import", "-f", write(t, dir, "mail.csv", "name,mail\na,b\n"))
	if now := w.dir.Snapshot().Revision; now != before {
		t.Fatalf("a refused import changed something: revision %d after %d", now, before)
	}
	r = w.run("", "import", "-f", file, "--links", links)
	if r.code != 0 || !strings.Contains(r.stderr, "100 users made") || strings.Contains(r.stdout+r.stderr, "wlc-") {
		t.Fatalf("import: exit code %d\n%s%s", r.code, r.stdout, r.stderr)
	}
	if now := w.dir.Snapshot().Revision; now != before+1 {
		t.Errorf("the import took %d commits", now-before)
	}
	info, err := os.Stat(links)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("links: %v %v", info, err)
	}
	raw, err := os.ReadFile(links)
	if err != nil || strings.Count(string(raw), "/welcome?token=wlc-") != 100 || !strings.Contains(string(raw), "\nuser42,") {
		t.Errorf("links (%v):\n%s", err, raw)
	}
	if out := w.ok("group", "show", "aws-members"); !strings.Contains(out, "user99") || !strings.Contains(out, "shivam") {
		t.Errorf("group:\n%s", out)
	}
	w.fails(6, "is there already", "import", "-f", write(t, dir, "one.csv", "name\none\n"), "--links", links)
	w.fails(4, "no user", "user", "show", "one")
	if out := w.ok("import", "-f", filepath.Join(dir, "one.csv")); !strings.HasPrefix(out, "name,link\none,https://") || strings.Count(out, "\n") != 2 {
		t.Errorf("links on standard output:\n%s", out)
	}
}

func TestCompletionOffersWhatMayStandThere(t *testing.T) {
	w := newCoordinator(t)
	w.fill()
	for words, want := range map[string]string{
		"":                        "user",
		"us":                      "user",
		"user ":                   "suspend",
		"user show ":              "shivam",
		"user suspend shivam --":  "--project",
		"user suspend --project ": "aws",
		"group join aws-members ": "virat",
		"grant list -o ":          "yaml",
		"cluster show ":           "edge-1",
		"grant add --role ":       "cluster-admin",
		"completion ":             "fish",
		"get ":                    "grants",
	} {
		out := w.ok(append([]string{"__complete", "--", "--socket", w.socket}, strings.Split(words, " ")...)...)
		if !strings.Contains("\n"+out, "\n"+want+"\n") {
			t.Errorf("%q does not offer %q:\n%s", words, want, out)
		}
	}
	// The script, in a real shell, with a sallyportctl that answers as ours does.
	dir := t.TempDir()
	write(t, dir, "script", w.ok("completion", "bash"))
	answer := write(t, dir, "sallyportctl", "#!/bin/sh\n[ \"$*\" = '__complete -- user show sh' ] && printf 'shivam\\nvirat\\n'\n")
	if err := os.Chmod(answer, 0o700); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "bash", "-c", "source "+filepath.Join(dir, "script")+
		"; COMP_WORDS=("+answer+" user show sh); COMP_CWORD=3; _sallyportctl; echo \"${COMPREPLY[@]}\"")
	out, err := cmd.CombinedOutput()
	if err != nil || string(out) != "shivam\n" {
		t.Errorf("bash completes to %q (%v)", out, err)
	}
}
