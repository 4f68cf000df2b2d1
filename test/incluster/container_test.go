package incluster

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// container is a running one.
type container struct {
	cmd  *exec.Cmd
	log  *bytes.Buffer // written until done
	done chan struct{}
	err  error
}

// run starts the pod's container, as at the pod's start and after each death.
func (p *podOnNode) run(t *testing.T) *container {
	t.Helper()
	if err := p.kubelet.mountVolumes(t.Context(), p.pod); err != nil {
		t.Fatal(err)
	}
	s, err := p.kubelet.plan(p.pod, p.image, p.rootfs)
	if err != nil {
		t.Fatal(err)
	}
	if !s.ReadOnlyRoot {
		t.Fatal("the container may change its root, which would show after a restart here")
	}
	s.Env = append(s.Env, p.extraEnv...)
	spec, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	in, out, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	c := &container{log: &bytes.Buffer{}, done: make(chan struct{})}
	c.cmd = exec.Command("/proc/self/exe")
	c.cmd.Env = []string{insideEnv}
	c.cmd.Stdout, c.cmd.Stderr, c.cmd.ExtraFiles = c.log, c.log, []*os.File{in}
	c.cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWPID | syscall.CLONE_NEWIPC | syscall.CLONE_NEWUTS,
		Pdeathsig:  syscall.SIGKILL,
	}
	if err := p.network.start(c.cmd); err != nil {
		t.Fatalf("starting the container: %v", err)
	}
	if _, err := out.Write(spec); err != nil {
		t.Fatal(err)
	}
	_ = out.Close()
	go func() {
		c.err = c.cmd.Wait()
		close(c.done)
	}()
	t.Cleanup(func() {
		c.kill()
		if t.Failed() {
			t.Logf("--- the container's log\n%s", c.log)
		}
	})
	return c
}

// ended is how it ended, if it has.
func (c *container) ended() error {
	select {
	case <-c.done:
		return fmt.Errorf("the container ended: %w\n%s", errors.Join(c.err, errors.New("its log:")), c.log)
	default:
		return nil
	}
}

// kill ends it as the kernel's out-of-memory killer would.
func (c *container) kill() {
	_ = c.cmd.Process.Kill()
	<-c.done
}

// terminate ends it as a kubelet would, within the pod's grace period.
func (c *container) terminate(pod *corev1.Pod) error {
	_ = c.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-c.done:
		return c.err
	case <-time.After(time.Duration(*pod.Spec.TerminationGracePeriodSeconds) * time.Second):
		c.kill()
		return errors.New("it did not end within the pod's grace period")
	}
}

// status is the kernel's view of the container's first process.
func (c *container) status(t *testing.T) map[string]string {
	t.Helper()
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", c.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	fields := map[string]string{}
	for line := range strings.Lines(string(raw)) {
		key, value, _ := strings.Cut(line, ":")
		fields[key] = strings.Join(strings.Fields(value), " ")
	}
	return fields
}
