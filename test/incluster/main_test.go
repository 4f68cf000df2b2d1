package incluster

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sallyport-mesh/sallyport/test/play"
)

var (
	bin string
	// archive is the agent's image, as `make images` packs it.
	archive string
)

// insideEnv marks the process that becomes a container's.
const insideEnv = "SALLYPORT_TEST_CONTAINER=1"

func TestMain(m *testing.M) {
	if os.Getenv(strings.TrimSuffix(insideEnv, "=1")) != "" {
		fmt.Fprintln(os.Stderr, "starting container:", enter(os.NewFile(3, "spec")))
		os.Exit(70)
	}
	os.Exit(func() int {
		if os.Geteuid() != 0 {
			fmt.Fprintln(os.Stderr, "running a pod's container needs root: sudo -E go test ./test/incluster")
			return 1
		}
		dir, err := os.MkdirTemp("", "sallyport-incluster-")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(dir)
		bin, archive = filepath.Join(dir, "bin"), filepath.Join(dir, "sallyport-agent.tar")
		root := filepath.Join("..", "..")
		for _, step := range [][]string{
			{"go", "build", "-o", bin + "/", "./coordinator/cmd/...", "./client/cmd/..."},
			{"go", "-C", "tools", "run", "./image", "-out", dir, "sallyport-agent"},
		} {
			cmd := exec.Command(step[0], step[1:]...)
			cmd.Dir, cmd.Env = root, append(os.Environ(), "CGO_ENABLED=0") // as make build does
			cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
			if err := cmd.Run(); err != nil {
				fmt.Fprintln(os.Stderr, step, err)
				return 1
			}
		}
		return m.Run()
	}())
}

// world starts Hydra and a coordinator.
func world(t *testing.T) *play.World {
	t.Helper()
	if err := play.LookAtSource(filepath.Join("..", "..")); err != nil {
		t.Fatal(err)
	}
	// Unix sockets have short paths, so this is not t.TempDir.
	dir, err := os.MkdirTemp("", "sp-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	w, err := play.New(t.Context(), play.Config{Dir: dir, Bin: bin, Progress: func(what string) { t.Log(what) }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.Stop)
	return w
}

// admin runs sallyportctl on the coordinator's socket.
func admin(t *testing.T, w *play.World, args ...string) string {
	t.Helper()
	r, err := w.Admin(t.Context(), "", args...)
	if err != nil {
		t.Fatal(err)
	}
	return r.Stdout
}

// direct runs kubectl as the cluster's own administrator.
func direct(t *testing.T, w *play.World, c *play.Cluster, args ...string) string {
	t.Helper()
	r, err := w.KubectlDirect(t.Context(), c, args...)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(r.Stdout)
}

// eventually waits for a state that another process brings about.
func eventually(t *testing.T, what string, f func() error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for {
		err := f()
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("%s: %v", what, err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}
