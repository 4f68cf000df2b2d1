package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/sallyport-mesh/sallyport/test/play"
)

// teams is what edge-1 holds for the scenarios: two namespaces, and in each a
// Deployment whose pods run, a ConfigMap and a Secret.
const teams = `apiVersion: v1
kind: Namespace
metadata: {name: %[1]s, labels: {team: %[1]s}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: %[1]s, labels: {app: web}}
spec:
  replicas: 1
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
      - {name: web, image: nginx, ports: [{containerPort: 80}]}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: settings, namespace: %[1]s}
data: {color: blue}
---
apiVersion: v1
kind: Secret
metadata: {name: password, namespace: %[1]s}
stringData: {password: hunter2}
`

// Scenarios C, D and E, and what kubectl prints where somebody is refused, in
// one world: project aws with three clusters.
func TestScenariosOfRolesAndGrants(t *testing.T) {
	w := world(t, play.Config{})
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	admin(t, w, "project", "add", "aws")
	clusters, cctx := errgroup.WithContext(ctx)
	for _, name := range []string{"edge-1", "edge-2", "edge-3"} {
		clusters.Go(func() error {
			c, err := w.StartCluster(cctx, name, "aws")
			if err != nil {
				return err
			}
			if err := w.Import(cctx, c); err != nil {
				return err
			}
			return w.StartAgent(cctx, c)
		})
	}
	if _, err := w.NewUser(ctx, "alice", "--admin"); err != nil {
		t.Fatal(err)
	}
	if err := person(t, w, "alice").Login(ctx); err != nil {
		t.Fatal(err)
	}
	if err := clusters.Wait(); err != nil {
		t.Fatal(err)
	}
	for _, team := range []string{"team-a", "team-b"} {
		if err := w.Apply(ctx, w.Clusters["edge-1"], fmt.Sprintf(teams, team)); err != nil {
			t.Fatal(err)
		}
	}
	for _, team := range []string{"team-a", "team-b"} {
		if _, err := w.KubectlDirect(ctx, w.Clusters["edge-1"], "-n", team, "rollout", "status", "deployment/web", "--timeout=60s"); err != nil {
			t.Fatal(err)
		}
	}
	admin(t, w, "role", "add", "web-names", "-f", roleFile(t, patternRole))
	admin(t, w, "role", "add", "no-prod-names", "-f", roleFile(t, hidingRole))

	t.Run("C, the way back", func(t *testing.T) { scenarioC(t, w) })
	t.Run("D, many clusters", func(t *testing.T) { scenarioD(t, w) })
	t.Run("E, a namespace", func(t *testing.T) { scenarioE(t, w) })
	t.Run("namespaces by label", func(t *testing.T) { namespacesByLabel(t, w) })
	t.Run("names by pattern", func(t *testing.T) { namesByPattern(t, w) })
	t.Run("refusals", func(t *testing.T) { refusals(t, w) })
}

// admin runs sallyportctl over the coordinator's socket.
func admin(t *testing.T, w *play.World, args ...string) string {
	t.Helper()
	r, err := w.Admin(t.Context(), "", args...)
	if err != nil {
		t.Fatal(err)
	}
	return r.Stdout
}

// arrive adds a user, if he is not there yet, who logs in and joins.
func arrive(t *testing.T, w *play.World, name string) *play.Person {
	t.Helper()
	p, err := w.NewUser(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Login(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := p.Up(t.Context()); err != nil {
		t.Fatal(err)
	}
	return p
}

// roleFile writes a role's YAML.
func roleFile(t *testing.T, yaml string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "role.yaml")
	if err := os.WriteFile(path, []byte(yaml), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// cani is what `kubectl auth can-i` answers, "yes" or "no".
func cani(t *testing.T, p *play.Person, args ...string) string {
	t.Helper()
	r, err := p.Kubectl(t.Context(), append([]string{"--context", "sallyport/edge-1", "auth", "can-i"}, args...)...)
	answer, _, _ := strings.Cut(strings.TrimSpace(r.Stdout), " ")
	if (err == nil) != (answer == "yes") {
		t.Fatalf("can-i %v: %q, %v", args, r.Stdout, err)
	}
	return answer
}

// grantID is the id of a person's only grant that a line of `grant list` with
// the words describes.
func grantID(t *testing.T, w *play.World, words ...string) string {
	t.Helper()
	var found []string
	for line := range strings.Lines(admin(t, w, "grant", "list")) {
		all := true
		for _, word := range words {
			all = all && strings.Contains(line, word)
		}
		if all {
			found = append(found, strings.Fields(line)[0])
		}
	}
	if len(found) != 1 {
		t.Fatalf("grants with %q: %v", words, found)
	}
	return found[0]
}
