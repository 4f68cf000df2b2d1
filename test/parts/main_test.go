package parts

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

func TestMain(m *testing.M) {
	if role := os.Getenv("PARTS_TEST_ROLE"); role != "" {
		victim(role)
		return
	}
	os.Exit(run(m))
}

// One cluster serves the tests that do not harm it; the first of them starts it.
var (
	sharedOnce    sync.Once
	sharedDir     string
	sharedCluster *Cluster
	errShared     error
)

func run(m *testing.M) int {
	var err error
	if sharedDir, err = os.MkdirTemp("", "parts-test-"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(sharedDir)
	code := m.Run()
	if sharedCluster != nil {
		sharedCluster.Stop()
	}
	return code
}

func shared(t *testing.T) *Cluster {
	t.Helper()
	sharedOnce.Do(func() {
		// Not t.Context(): it outlives the test that happens to come first.
		sharedCluster, errShared = StartCluster(context.Background(), filepath.Join(sharedDir, "shared"), "shared")
	})
	if errShared != nil {
		t.Fatal(errShared)
	}
	return sharedCluster
}

// kubectlOf runs kubectl and returns its standard output; a failure ends the test.
func kubectlOf(t *testing.T, c *Cluster, stdin string, args ...string) string {
	t.Helper()
	out, errOut, err := tryKubectl(t, c, stdin, args...)
	if err != nil {
		t.Fatalf("kubectl %s: %v\n%s%s", strings.Join(args, " "), err, out, errOut)
	}
	return out
}

func tryKubectl(t *testing.T, c *Cluster, stdin string, args ...string) (out, errOut string, err error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cmd, err := c.Kubectl(ctx, args...)
	if err != nil {
		t.Fatal(err)
	}
	var o, e bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &o, &e
	err = cmd.Run()
	return o.String(), e.String(), err
}

// deploy rolls out a deployment and returns the name of its pod.
func deploy(t *testing.T, c *Cluster, name string) string {
	t.Helper()
	kubectlOf(t, c, fmt.Sprintf(deployment, name), "apply", "-f", "-")
	kubectlOf(t, c, "", "rollout", "status", "deployment/"+name, "--timeout=90s")
	pod := kubectlOf(t, c, "", "get", "pods", "-l", "app="+name, "-o", "jsonpath={.items[0].metadata.name}")
	if pod == "" {
		t.Fatalf("deployment %s has no pod", name)
	}
	return pod
}

const deployment = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: %[1]s}
spec:
  replicas: 1
  selector: {matchLabels: {app: %[1]s}}
  template:
    metadata: {labels: {app: %[1]s}}
    spec:
      containers:
      - {name: web, image: nginx, ports: [{containerPort: 80}]}
`

// eventually waits for a condition; what it last said explains a failure.
func eventually(t *testing.T, within time.Duration, what string, ok func() error) {
	t.Helper()
	deadline := time.Now().Add(within)
	for {
		err := ok()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within %v: %v", what, within, err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// gone waits until a process has ended. One that was not waited for counts as ended.
func gone(t *testing.T, name string, pid int) {
	t.Helper()
	eventually(t, 20*time.Second, fmt.Sprintf("end of %s (%d)", name, pid), func() error {
		err := syscall.Kill(pid, 0)
		if errors.Is(err, syscall.ESRCH) || isZombie(pid) {
			return nil
		}
		return fmt.Errorf("still there (%v)", err)
	})
}

func isZombie(pid int) bool {
	out, err := exec.Command("ps", "-o", "stat=", "-p", fmt.Sprint(pid)).Output()
	return err == nil && strings.HasPrefix(strings.TrimSpace(string(out)), "Z")
}
