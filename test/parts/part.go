package parts

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// Part is something that Binary can build.
type Part string

const (
	// Devcluster runs a Kubernetes control plane and one node.
	Devcluster Part = "devcluster"
	// Hydra runs Ory Hydra with a database of its own.
	Hydra Part = "hydra"
	// Helm is helm itself.
	Helm Part = "helm"
	// Kubectl is the one in PATH if it works, else one built with Devcluster.
	Kubectl Part = "kubectl"
)

// All are the parts in the order in which to build them.
var All = []Part{Devcluster, Hydra, Kubectl, Helm}

// recipe says how a part is built.
type recipe struct {
	part   Part
	module string // directory of its module below the repository's root
	pkg    string // package to build, relative to the module
	binary string // name of the file
	flags  []string
	env    []string
	usual  string // how long it takes when nothing is cached
}

const (
	kubernetesVersion = "v1.36.3"
	helmVersion       = "v4.2.4"
)

// recipeFor also reports what the build will lack, for the person who waits for it.
func recipeFor(p Part) (r recipe, note string, err error) {
	switch p {
	case Devcluster:
		version := "k8s.io/component-base/version"
		return recipe{
			part: p, module: "test/devcluster", pkg: "./cmd/devcluster", binary: "devcluster",
			// Without these kubectl and the apiserver would call themselves v0.0.0.
			flags: []string{"-ldflags=-s -w" +
				" -X " + version + ".gitVersion=" + kubernetesVersion +
				" -X " + version + ".gitMajor=1 -X " + version + ".gitMinor=36"},
			env:   []string{"CGO_ENABLED=0"},
			usual: "6 to 12 minutes on two cores",
		}, "", nil
	case Helm:
		return recipe{
			part: p, module: "test/helm", pkg: "helm.sh/helm/v4/cmd/helm", binary: "helm",
			flags: []string{"-ldflags=-s -w -X helm.sh/helm/v4/internal/version.version=" + helmVersion},
			env:   []string{"CGO_ENABLED=0"},
			usual: "a minute on two cores after devcluster, three without",
		}, "", nil
	case Hydra:
		r = recipe{
			part: p, module: "test/hydra", pkg: "./cmd/hydra-dev", binary: "hydra-dev",
			flags: []string{"-ldflags=-s -w"},
			usual: "about two minutes on two cores",
		}
		if why := noCompiler(); why != "" {
			r.env = []string{"CGO_ENABLED=0"}
			return r, why + ", so this Hydra has no SQLite and needs PostgreSQL installed", nil
		}
		r.flags = append(r.flags, "-tags=sqlite,sqlite_omit_load_extension")
		r.env = []string{"CGO_ENABLED=1"}
		return r, "", nil
	}
	return recipe{}, "", fmt.Errorf("unknown part %q", p)
}

// noCompiler says why SQLite cannot be built in, or nothing.
func noCompiler() string {
	if os.Getenv("CGO_ENABLED") == "0" {
		return "CGO_ENABLED is 0"
	}
	cc := os.Getenv("CC")
	if cc == "" {
		cc = "gcc"
	}
	if _, err := exec.LookPath(strings.Fields(cc)[0]); err != nil {
		return "no C compiler (" + cc + ") is installed"
	}
	return ""
}

// Binary returns the path of the part, building it first when the cache has none. It says on
// standard error what takes so long.
func Binary(ctx context.Context, p Part) (string, error) {
	if p == Kubectl {
		return kubectl(ctx)
	}
	r, note, err := recipeFor(p)
	if err != nil {
		return "", err
	}
	root, err := repository()
	if err != nil {
		return "", err
	}
	return build(ctx, root, r, note)
}

func kubectl(ctx context.Context) (string, error) {
	if path, err := exec.LookPath("kubectl"); err == nil && works(ctx, path) {
		return path, nil
	}
	devcluster, err := Binary(ctx, Devcluster)
	if err != nil {
		return "", err
	}
	// The binary is kubectl when it is called by that name.
	link := filepath.Join(filepath.Dir(devcluster), "kubectl")
	if err := os.Symlink(filepath.Base(devcluster), link); err != nil && !errors.Is(err, os.ErrExist) {
		return "", fmt.Errorf("linking kubectl: %w", err)
	}
	return link, nil
}

var working sync.Map // paths of kubectls that have been tried

func works(ctx context.Context, kubectl string) bool {
	if _, ok := working.Load(kubectl); ok {
		return true
	}
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	if exec.CommandContext(ctx, kubectl, "version", "--client").Run() != nil {
		return false
	}
	working.Store(kubectl, true)
	return true
}

const modulePath = "github.com/sallyport-mesh/sallyport"

// repository finds the root of our module above the working directory, which for a test is the
// directory of its package.
func repository() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", fmt.Errorf("finding repository: %w", err)
	}
	for from := dir; ; {
		raw, err := os.ReadFile(filepath.Join(dir, "go.mod"))
		if err == nil && strings.HasPrefix(string(raw), "module "+modulePath+"\n") {
			return dir, nil
		}
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return "", fmt.Errorf("finding repository: %w", err)
		}
		if dir == filepath.Dir(dir) {
			return "", fmt.Errorf("finding repository: no go.mod of %s above %s", modulePath, from)
		}
		dir = filepath.Dir(dir)
	}
}
