// Package arrows holds the shape of the repository: who may import whom, and
// that each heavy dependency has one owner in each component.
package arrows

import (
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/sallyport-mesh/sallyport/"

// imports lists, for every package of the product, what it imports outside of
// its tests.
func imports(t *testing.T) map[string][]string {
	t.Helper()
	cmd := exec.Command("go", "list", "-f", `{{.ImportPath}} {{join .Imports " "}}`, "./coordinator/...", "./node-agent/...", "./client/...", "./pkg/...", "./deploy/...")
	cmd.Dir = filepath.Join("..", "..")
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	all := map[string][]string{}
	for line := range strings.Lines(string(out)) {
		fields := strings.Fields(line)
		all[strings.TrimPrefix(fields[0], module)] = fields[1:]
	}
	if len(all) < 20 {
		t.Fatalf("go list found only %d packages", len(all))
	}
	return all
}

func TestComponentsDoNotKnowEachOther(t *testing.T) {
	components := []string{"coordinator/", "node-agent/", "client/"}
	for pkg, list := range imports(t) {
		for _, imp := range list {
			imp, ours := strings.CutPrefix(imp, module)
			if !ours {
				continue
			}
			for _, c := range components {
				if strings.HasPrefix(imp, c) && !strings.HasPrefix(pkg, c) {
					t.Errorf("%s imports %s", pkg, imp)
				}
			}
			if strings.HasPrefix(imp, "test/") {
				t.Errorf("%s imports %s", pkg, imp)
			}
		}
	}
}

// Only what wires a component knows its configuration.
func TestLeavesDoNotKnowTheConfiguration(t *testing.T) {
	may := []string{
		"coordinator/cmd/sallyport-coordinator", "coordinator/internal/server", "node-agent/cmd/sallyport-agent", "node-agent/internal/agent",
	}
	for pkg, list := range imports(t) {
		for _, imp := range list {
			if strings.HasPrefix(imp, module) && strings.HasSuffix(imp, "/internal/config") && !slices.Contains(may, pkg) {
				t.Errorf("%s imports %s", pkg, imp)
			}
		}
	}
}

// A heavy dependency has one owner in each component, so that it can be
// replaced, bounded and audited in one place.
func TestHeavyDependenciesHaveOneOwner(t *testing.T) {
	owners := map[string][]string{
		"github.com/dgraph-io/badger/v4":      {"pkg/badgerdir", "coordinator/internal/store", "coordinator/internal/auditstore", "node-agent/internal/auditlog"},
		"github.com/casbin/casbin/v2":         {"pkg/policy", "coordinator/internal/adminapi"},
		"github.com/ory/hydra-client-go/v2":   {"coordinator/internal/login"},
		"tailscale.com/tsnet":                 {"pkg/overlay"},
		"tailscale.com/tailcfg":               {"pkg/overlay", "coordinator/internal/tailnet"},
		"tailscale.com/control/controlhttp":   {"coordinator/internal/tailnet"},
		"github.com/transparency-dev/formats": {"pkg/audit"},
	}
	seen := map[string]bool{}
	for pkg, list := range imports(t) {
		for _, imp := range list {
			for dep, may := range owners {
				if imp != dep && !strings.HasPrefix(imp, dep+"/") {
					continue
				}
				seen[dep] = true
				if !slices.Contains(may, pkg) {
					t.Errorf("%s imports %s, which belongs to %v", pkg, imp, may)
				}
			}
		}
	}
	for dep := range owners {
		if !seen[dep] {
			t.Errorf("nothing imports %s any more: take it off this list", dep)
		}
	}
}
