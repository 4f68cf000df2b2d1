package e2e

import (
	"encoding/json"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/sallyport-mesh/sallyport/test/play"
)

var update = flag.Bool("update", false, "write what kubectl prints now into testdata/refusals")

// changing is what differs between two runs of the same refusal.
var changing = []struct {
	what *regexp.Regexp
	as   string
}{
	{regexp.MustCompile(`[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}`), "REQUEST-ID"},
	{regexp.MustCompile(`\b(grt|usr|dev|ses|agt|cls|prj|grp)-[0-9a-z]{16}\b`), "$1-ID"},
	{regexp.MustCompile(`\b[EWI]\d{4} \d\d:\d\d:\d\d\.\d+ +\d+ `), "KLOG "},
	{regexp.MustCompile(`\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)?`), "TIME"},
	{regexp.MustCompile(`\b(Mon|Tue|Wed|Thu|Fri|Sat|Sun) \d\d:\d\d\b`), "TIME"},
	{regexp.MustCompile(`\b(100\.\d+\.\d+\.\d+|127\.0\.0\.1):\d+`), "ADDRESS"},
	{regexp.MustCompile(`(settings +1 +)\d+m?(\d+)?s?\b`), "${1}AGE"},
	{regexp.MustCompile(`web-[0-9a-f]+-[0-9a-z]{5}`), "web-POD"},
	{regexp.MustCompile(`revision \d+`), "revision N"},
}

// prints holds what kubectl prints to a golden file: the command, and then all
// of its standard error.
func prints(t *testing.T, p *play.Person, name string, args ...string) {
	t.Helper()
	r, err := p.Kubectl(t.Context(), args...)
	if err == nil {
		t.Errorf("%s: kubectl %v succeeded:\n%s", name, args, r.Stdout)
		return
	}
	golden(t, p, name, args, r.Stdout+r.Stderr)
}

// cut is kubectl that runs, and is to print what it prints when it is cut.
type cut struct {
	name string
	args []string
	*play.Process
}

func toBeCut(t *testing.T, p *play.Person, name, says string, args ...string) cut {
	t.Helper()
	return cut{name, args, running(t, p, name, says, args...)}
}

// prints waits for the end of kubectl, and holds all that it printed to a golden
// file.
func (c cut) prints(t *testing.T, p *play.Person) {
	t.Helper()
	ended(t, c.Process)
	raw, err := os.ReadFile(c.Log)
	if err != nil {
		t.Fatal(err)
	}
	golden(t, p, c.name, c.args, string(raw))
}

func golden(t *testing.T, p *play.Person, name string, args []string, printed string) {
	t.Helper()
	got := "$ kubectl " + strings.Join(args, " ") + "\n" + printed
	for _, c := range changing {
		got = c.what.ReplaceAllString(got, c.as)
	}
	got = strings.NewReplacer(p.Home, "HOME", bin, "BIN").Replace(got)
	path := filepath.Join("testdata", "refusals", name+".txt")
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s is refused with\n%s\n--- the golden file has (go test -update writes it anew)\n%s", name, got, want)
	}
}

// What kubectl prints, whole, wherever somebody is refused.
func refusals(t *testing.T, w *play.World) {
	const edge = "--context=sallyport/edge-1"
	rex, rob, mia := arrive(t, w, "rex"), arrive(t, w, "rob"), arrive(t, w, "mia")
	for _, args := range [][]string{
		{"--role", "view", "--user", "rex", "--cluster", "edge-1", "-n", "team-a", "-n", "team-b"},
		{"--role", "no-prod-names", "--user", "rex", "--cluster", "edge-1", "-n", "team-b"},
		{"--role", "view", "--user", "mia", "--cluster", "edge-2"},
		{"--role", "cluster-admin", "--user", "rob", "--cluster", "edge-1"},
		{"--role", "view", "--user", "rob", "--cluster", "edge-1", "-n", "default"},
	} {
		admin(t, w, append([]string{"grant", "add"}, args...)...)
	}
	eventually(t, "contexts", func() error { return sameContexts(t, rex, "sallyport/edge-1") })
	eventually(t, "contexts", func() error { return sameContexts(t, mia, "sallyport/edge-2") })
	eventually(t, "contexts", func() error { return sameContexts(t, rob, "sallyport/edge-1") })
	ok(t, rex, edge, "-n", "team-a", "get", "pods")
	ok(t, rob, edge, "get", "pods")

	prints(t, rex, "missing-grant", edge, "-n", "team-a", "delete", "deployment", "web")
	prints(t, rex, "missing-grant-elsewhere", edge, "-n", "default", "get", "pods")
	prints(t, rex, "deny-rule", edge, "-n", "team-b", "get", "configmap", "prod-1")
	prints(t, rex, "list-with-denied-names", edge, "-n", "team-b", "get", "configmaps")
	prints(t, rex, "list-of-all-namespaces", edge, "get", "pods", "-A")
	prints(t, rex, "as-somebody-else", edge, "-n", "team-a", "get", "pods", "--as", "root")
	prints(t, rob, "all-secrets", edge, "get", "secrets", "-A")
	prints(t, rob, "our-namespace", edge, "-n", "sallyport-system", "get", "pods")
	prints(t, rob, "must-be-named", edge, "create", "clusterrolebinding", "x", "--clusterrole=cluster-admin", "--user=rob")
	prints(t, rex, "exec", edge, "-n", "team-a", "exec", "deployment/web", "--", "true")
	ok(t, rob, edge, "get", "secrets", "-A", "--field-selector", "metadata.namespace!=sallyport-system,metadata.namespace!=sallyport-users")
	prints(t, rex, "port-forward", edge, "-n", "team-a", "port-forward", "deployment/web", ":80")

	// What runs when access ends says why.
	team := []string{edge, "-n", "team-a"}
	streams := []cut{
		toBeCut(t, rob, "cut-watch", "settings", append(team, "get", "configmaps", "-w", "--no-headers", "--field-selector", "metadata.name=settings")...),
		toBeCut(t, rob, "cut-exec", "started", append(team, "exec", "deployment/web", "--", "sh", "-c", "echo started; exec sleep 600")...),
		toBeCut(t, rob, "cut-logs", "", append(team, "logs", "-f", "--tail=1", "deployment/web")...),
	}
	admin(t, w, "grant", "remove", grantID(t, w, "rob", "cluster-admin"))
	for _, c := range streams {
		c.prints(t, rob)
	}

	// A login whose time has come.
	expire(t, rob)
	prints(t, rob, "expired-login", edge, "get", "pods")
	restore(t, rob)

	// A device that was revoked, and a user who is suspended.
	devices := admin(t, w, "-o", "name", "device", "list", "--user", "rob")
	admin(t, w, "device", "revoke", strings.TrimSpace(devices))
	eventually(t, "rob's daemon knows", said(t, rob))
	prints(t, rob, "revoked-device", edge, "get", "pods")
	admin(t, w, "user", "suspend", "rex")
	eventually(t, "rex's daemon knows", said(t, rex))
	prints(t, rex, "suspended-user", edge, "-n", "team-a", "get", "pods")

	// An agent that is away.
	if err := w.Clusters["edge-2"].Agent.Stop(); err != nil {
		t.Error(err)
	}
	eventually(t, "edge-2 is away", func() error {
		for line := range strings.Lines(admin(t, w, "cluster", "list")) {
			if f := strings.Fields(line); f[0] == "edge-2" && f[2] != "online" {
				return nil
			}
		}
		return errStill
	})
	prints(t, mia, "agent-away", "--context=sallyport/edge-2", "get", "pods")
}

// said is nil once a person's daemon says that the session is over.
func said(t *testing.T, p *play.Person) func() error {
	return func() error {
		r, err := p.Run(t.Context(), "sallyport", "status")
		if err == nil {
			return errors.New("status is well:\n" + r.Stdout)
		}
		return nil
	}
}

// expire makes a session's end one of the past, as time would.
func expire(t *testing.T, p *play.Person)  { setExpiry(t, p, time.Now().Add(-time.Minute)) }
func restore(t *testing.T, p *play.Person) { setExpiry(t, p, time.Now().Add(time.Hour)) }

func setExpiry(t *testing.T, p *play.Person, at time.Time) {
	t.Helper()
	path := filepath.Join(p.Home, "profile.json")
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var profile map[string]any
	if err := json.Unmarshal(raw, &profile); err != nil {
		t.Fatal(err)
	}
	session, _ := profile["session"].(map[string]any)
	session["expires"] = at
	if raw, err = json.Marshal(profile); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, raw, 0o600); err != nil {
		t.Fatal(err)
	}
}
