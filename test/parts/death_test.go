package parts

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// victim is what this test binary does when it was started to be killed.
func victim(role string) {
	dir := os.Getenv("PARTS_TEST_DIR")
	ctx := context.Background()
	var err error
	var supervisor int
	switch role {
	case "cluster":
		var c *Cluster
		if c, err = StartCluster(ctx, dir, "victim"); err == nil {
			supervisor = c.PID()
		}
	case "hydra":
		var h *RunningHydra
		if h, err = StartHydra(ctx, hydraConfig(dir, "auto")); err == nil {
			supervisor = h.PID()
		}
	default:
		err = fmt.Errorf("unknown role %q", role)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println(supervisor)
	select {}
}

// startVictim starts this binary once more and returns it with its part's supervisor.
func startVictim(t *testing.T, role, dir string) (cmd *exec.Cmd, supervisor int) {
	t.Helper()
	cmd = exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "PARTS_TEST_ROLE="+role, "PARTS_TEST_DIR="+dir)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatalf("victim said nothing: %v", err)
	}
	if _, err := fmt.Sscan(line, &supervisor); err != nil {
		t.Fatalf("victim said %q: %v", line, err)
	}
	return cmd, supervisor
}

func processesIn(t *testing.T, dir string) map[string]int {
	t.Helper()
	pids, err := (&Cluster{Dir: dir}).Processes()
	if err != nil {
		t.Fatal(err)
	}
	return pids
}

func TestNoClusterOutlivesAKilledTestProcess(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "c")
	cmd, _ := startVictim(t, "cluster", dir)
	pids := processesIn(t, dir)
	c := &Cluster{Dir: dir, Kubeconfig: filepath.Join(dir, "admin.kubeconfig")}
	pod := deploy(t, c, "left")
	running := read(t, c, nil, "exec", pod, "--", "sh", "-c", "echo pid $$; sleep 1000 & wait")
	var shell int
	if _, err := fmt.Sscanf(<-running.lines, "pid %d", &shell); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	for name, pid := range pids {
		gone(t, name, pid)
	}
	gone(t, "exec'd shell", shell)
	nothingIn(t, dir)
}

// nothingIn waits until no process works in dir or below, or names it on its command line.
func nothingIn(t *testing.T, dir string) {
	t.Helper()
	real, err := filepath.EvalSymlinks(dir)
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, 20*time.Second, "end of all processes in "+dir, func() error {
		procs, err := filepath.Glob("/proc/[0-9]*")
		if err != nil || len(procs) == 0 {
			out, err := exec.Command("pgrep", "-f", dir).Output() // no /proc
			if err == nil && len(out) > 0 {
				return fmt.Errorf("processes %q", out)
			}
			return nil
		}
		for _, p := range procs {
			if p == fmt.Sprintf("/proc/%d", os.Getpid()) {
				continue
			}
			cwd, _ := os.Readlink(p + "/cwd")
			args, _ := os.ReadFile(p + "/cmdline")
			if strings.HasPrefix(cwd, real) || strings.Contains(string(args), real) {
				return fmt.Errorf("%s in %q: %q", p, cwd, args)
			}
		}
		return nil
	})
}

func TestKilledSupervisorTakesItsComponentsAlongAndStartsAgain(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "c")
	c, err := StartCluster(t.Context(), dir, "phoenix")
	if err != nil {
		t.Fatal(err)
	}
	url := c.APIServer
	uid := kubectlOf(t, c, "", "get", "namespace", "kube-system", "-o", "jsonpath={.metadata.uid}")
	kubectlOf(t, c, "", "create", "configmap", "memory", "--from-literal=of=before")
	pids := processesIn(t, dir)
	if err := syscall.Kill(pids["supervisor"], syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	<-c.Done()
	if c.Err() == nil {
		t.Error("a killed cluster reports no error")
	}

	// At once, while the components are still ending.
	c, err = StartCluster(t.Context(), dir, "phoenix")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Stop()
	for name, pid := range pids {
		gone(t, name, pid)
	}
	if c.APIServer != url {
		t.Errorf("apiserver moved from %s to %s", url, c.APIServer)
	}
	if got := kubectlOf(t, c, "", "get", "namespace", "kube-system", "-o", "jsonpath={.metadata.uid}"); got != uid {
		t.Errorf("kube-system is another: %s, was %s", got, uid)
	}
	if got := kubectlOf(t, c, "", "get", "configmap", "memory", "-o", "jsonpath={.data.of}"); got != "before" {
		t.Errorf("configmap says %q", got)
	}
	kubectlOf(t, c, "", "exec", deploy(t, c, "reborn"), "--", "true")
}

func TestEndOfAnyComponentEndsTheClusterWithAReason(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "c")
	for _, name := range []string{"etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "node"} {
		c, err := StartCluster(t.Context(), dir, "fragile")
		if err != nil {
			t.Fatalf("after the death of the one before %s: %v", name, err)
		}
		pids := processesIn(t, dir)
		if err := syscall.Kill(pids[name], syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		select {
		case <-c.Done():
		case <-time.After(time.Minute):
			t.Fatalf("the cluster goes on without its %s", name)
		}
		if err := c.Err(); err == nil || !strings.Contains(err.Error(), name+" ended: signal: killed") {
			t.Errorf("death of %s is explained as: %v", name, err)
		}
		for other, pid := range pids {
			gone(t, other, pid)
		}
	}
}

func TestStoppedClusterLeavesNothingRunning(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "c")
	ctx, cancel := context.WithCancel(t.Context())
	c, err := StartCluster(ctx, dir, "brief")
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	<-c.Done()
	if err := c.Err(); err != nil {
		t.Errorf("a cluster that was asked to stop reports %v", err)
	}
	nothingIn(t, dir)
}

func TestSecondStartInARunningDirectoryIsRefused(t *testing.T) {
	t.Parallel()
	c := shared(t)
	_, err := StartCluster(t.Context(), c.Dir, c.Name)
	if err == nil || !strings.Contains(err.Error(), "already running") {
		t.Errorf("second start: %v", err)
	}
	kubectlOf(t, c, "", "get", "nodes")
}

func TestUpOutlivesItsCallerUntilDown(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "c")
	path, err := Binary(t.Context(), Devcluster)
	if err != nil {
		t.Fatal(err)
	}
	up := func() {
		t.Helper()
		if out, err := exec.Command(path, "up", "--dir", dir, "--name", "detached").CombinedOutput(); err != nil {
			t.Fatalf("up: %v\n%s", err, out)
		}
	}
	up()
	first := processesIn(t, dir)
	up() // it runs already
	if again := processesIn(t, dir); fmt.Sprint(again) != fmt.Sprint(first) {
		t.Errorf("a second up replaced %v by %v", first, again)
	}
	c := &Cluster{Dir: dir, Kubeconfig: filepath.Join(dir, "admin.kubeconfig")}
	out, err := exec.Command(path, "kubectl", "--kubeconfig", c.Kubeconfig, "version", "-o", "json").Output()
	if err != nil {
		t.Fatal(err)
	}
	var versions struct {
		ClientVersion, ServerVersion struct{ GitVersion string }
	}
	if err := json.Unmarshal(out, &versions); err != nil {
		t.Fatal(err)
	}
	if versions.ClientVersion.GitVersion != kubernetesVersion || versions.ServerVersion.GitVersion != kubernetesVersion {
		t.Errorf("versions %+v, want %s", versions, kubernetesVersion)
	}
	if out, err := exec.Command(path, "down", "--dir", dir).CombinedOutput(); err != nil {
		t.Fatalf("down: %v\n%s", err, out)
	}
	for name, pid := range first {
		gone(t, name, pid)
	}
	nothingIn(t, dir)
}
