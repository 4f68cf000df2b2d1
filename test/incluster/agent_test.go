package incluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/sallyport-mesh/sallyport/test/play"
)

// Addresses in the cluster's range of Services: what the apiserver's own
// certificate is made out to, and where DNS would be.
const (
	serviceIP = "198.19.0.1"
	dnsIP     = "198.19.0.10"
)

// podOnNode is a pod and the node's hand.
type podOnNode struct {
	pod      *corev1.Pod
	kubelet  *kubelet
	network  *network
	image    *image
	rootfs   string
	extraEnv []string
}

// The agent runs from its image in the pod that the manifest makes, joins with
// the token it finds in the cluster, serves people, comes back after a death
// without a token, and goes on when the kubelet changes its credentials.
func TestAgentRunsInTheClusterAsTheManifestSays(t *testing.T) {
	w := world(t)
	c, err := w.StartCluster(t.Context(), "edge-1", "aws")
	if err != nil {
		t.Fatal(err)
	}
	admin(t, w, "project", "add", "aws")
	nadia, omar := user(t, w, "nadia"), user(t, w, "omar")

	// The cluster's owner applies what is printed, and loads the image.
	manifest := admin(t, w, "cluster", "add", "edge-1", "--project", "aws", "--empty-dir")
	if err := w.Apply(t.Context(), c, manifest); err != nil {
		t.Fatal(err)
	}
	rootfs := filepath.Join(w.Dir, "rootfs")
	img, err := unpack(archive, rootfs)
	if err != nil {
		t.Fatal(err)
	}
	p := scheduled(t, w, c, img, rootfs)
	first := p.run(t)
	online(t, w, first)

	// It used the token and took it away.
	eventually(t, "the used join token is deleted", func() error {
		if got := direct(t, w, c, "get", "secrets", "-n", "sallyport-system", "-o", "name"); got != "" {
			return errors.New("there is " + got)
		}
		return nil
	})
	walls(t, p, first)

	// Somebody logs in and works through it.
	arrive(t, nadia)
	works(t, w, nadia, "first")

	// The container dies, and starts again in the same pod: there is no token
	// any more, and what it has is on its volume. This time it starts on a
	// credential that can be taken back.
	direct(t, w, c, "create", "secret", "generic", "hold", "-n", "sallyport-system")
	old := direct(t, w, c, "create", "token", "sallyport-agent", "-n", "sallyport-system", "--bound-object-kind", "Secret", "--bound-object-name", "hold")
	p.kubelet.token = func(context.Context, *corev1.Pod, *corev1.ServiceAccountTokenProjection) (string, error) {
		return old, nil
	}
	first.kill()
	second := p.run(t)
	online(t, w, second)
	works(t, w, nadia, "second")

	// The kubelet puts another token in its place, and the old one ends. What the
	// agent does then for somebody new, it does with the new one.
	p.kubelet.token = p.kubelet.boundToken
	if err := p.kubelet.mountVolumes(t.Context(), p.pod); err != nil {
		t.Fatal(err)
	}
	direct(t, w, c, "delete", "secret", "hold", "-n", "sallyport-system")
	arrive(t, omar)
	eventually(t, "the old token ends", func() error { return refusedBy(t, c, old) })
	works(t, w, omar, "third")
	if err := seenBy(c, p.kubelet.current(t)); err != nil {
		t.Error(err)
	}

	// The same cluster imported anew, as the manifest is by default: data lies on
	// a claim, for which the owner has a disk.
	if _, err := w.Admin(t.Context(), "", "cluster", "remove", "--yes", "edge-1"); err != nil {
		t.Fatalf("removing the cluster: %v", err)
	}
	second.kill()
	if err := w.Apply(t.Context(), c, admin(t, w, "cluster", "add", "edge-1", "--project", "aws")+localVolume(t, w, c)); err != nil {
		t.Fatal(err)
	}
	p = scheduled(t, w, c, img, rootfs)
	third := p.run(t)
	online(t, w, third)
	works(t, w, nadia, "fourth")

	// The pod goes, and another comes in its place, without a token.
	if err := third.terminate(p.pod); err != nil {
		t.Errorf("at SIGTERM: %v", err)
	}
	direct(t, w, c, "delete", "pod", p.pod.Name, "-n", "sallyport-system")
	p = scheduled(t, w, c, img, rootfs)
	fourth := p.run(t)
	online(t, w, fourth)
	works(t, w, nadia, "fifth")
}

// localVolume is a disk in the cluster's node: a directory here.
func localVolume(t *testing.T, w *play.World, c *play.Cluster) string {
	t.Helper()
	disk := filepath.Join(w.Dir, "disk")
	if err := os.Mkdir(disk, 0o755); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf(`
---
apiVersion: v1
kind: PersistentVolume
metadata: {name: disk}
spec:
  capacity: {storage: 8Gi}
  accessModes: [ReadWriteOnce]
  local: {path: %s}
  nodeAffinity:
    required:
      nodeSelectorTerms:
      - matchExpressions:
        - {key: kubernetes.io/hostname, operator: In, values: [%s]}
`, disk, c.Node)
}

// user is somebody who may edit in the project.
func user(t *testing.T, w *play.World, name string) *play.Person {
	t.Helper()
	p, err := w.NewUser(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	admin(t, w, "grant", "add", "--role", "edit", "--user", name, "--project", "aws")
	return p
}

// arrive logs somebody in and joins the overlay.
func arrive(t *testing.T, p *play.Person) {
	t.Helper()
	if err := p.Login(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := p.Up(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// scheduled waits until the controllers have made the agent's pod and the
// scheduler has bound it, and hands it to its node.
func scheduled(t *testing.T, w *play.World, c *play.Cluster, img *image, rootfs string) *podOnNode {
	t.Helper()
	name := ""
	ran := map[string]bool{}
	for _, before := range podsBefore(t, w) {
		ran[before] = true
	}
	eventually(t, "the agent's pod is bound to the node", func() error {
		got := strings.Fields(direct(t, w, c, "get", "pods", "-n", "sallyport-system", "-l", "app.kubernetes.io/name=sallyport-agent",
			"-o", "jsonpath={range .items[*]}{.metadata.name} {.spec.nodeName} {.metadata.deletionTimestamp}{end}"))
		if len(got) != 2 || got[1] != c.Node || ran[got[0]] {
			return fmt.Errorf("pods and their nodes: %v", got)
		}
		name = got[0]
		return nil
	})
	k, err := newKubelet(c, filepath.Join(w.Dir, "pods", name))
	if err != nil {
		t.Fatal(err)
	}
	pod, err := k.pod(t.Context(), "sallyport-system", name)
	if err != nil {
		t.Fatal(err)
	}
	n, err := newNetwork()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(n.close)
	// The Service `kubernetes`, and the way to the coordinator.
	coordinator := strings.TrimPrefix(w.Coordinator.URL, "https://")
	for _, err := range []error{
		n.address(net.ParseIP(serviceIP)),
		n.forward(net.JoinHostPort(serviceIP, "443"), strings.TrimPrefix(c.APIServer, "https://")),
		n.forward(coordinator, coordinator),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	return &podOnNode{pod: pod, kubelet: k, network: n, image: img, rootfs: rootfs, extraEnv: w.OverlayEnv()}
}

// podsBefore are the pods that were here and are over.
func podsBefore(t *testing.T, w *play.World) []string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(w.Dir, "pods", "*"))
	if err != nil {
		t.Fatal(err)
	}
	for i := range found {
		found[i] = filepath.Base(found[i])
	}
	return found
}

func online(t *testing.T, w *play.World, running *container) {
	t.Helper()
	eventually(t, "the agent is online", func() error {
		if err := running.ended(); err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(admin(t, w, "cluster", "list")) {
			if f := strings.Fields(line); len(f) > 2 && f[0] == "edge-1" && f[2] == "online" {
				return nil
			}
		}
		return errors.New("it is not")
	})
}

// works has a person make something, read it, and run a command in a pod, and
// looks for the reading at the coordinator.
func works(t *testing.T, w *play.World, person *play.Person, name string) {
	t.Helper()
	k := func(args ...string) error {
		_, err := person.Kubectl(t.Context(), append([]string{"--context", "sallyport/edge-1"}, args...)...)
		return err
	}
	eventually(t, "kubectl through the agent", func() error { return k("create", "configmap", name) })
	if err := errors.Join(k("get", "configmap", name), k("exec", "deployment/nginx", "--", "true")); err != nil {
		t.Error(err)
	}
	eventually(t, "the record at the coordinator", func() error {
		out := admin(t, w, "-o", "json", "audit", "search", "--user", person.Name, "--cluster", "edge-1", "--verb", "get", "--resource", "configmaps")
		for d := json.NewDecoder(strings.NewReader(out)); d.More(); {
			var record struct {
				Intent  struct{ ObjectRef struct{ Name string } }
				Outcome *struct{ ResponseStatus struct{ Code int } }
			}
			if err := d.Decode(&record); err != nil {
				t.Fatal(err)
			}
			if record.Intent.ObjectRef.Name == name && record.Outcome != nil && record.Outcome.ResponseStatus.Code == 200 {
				return nil
			}
		}
		return errors.New("it is not there:\n" + out)
	})
}

// walls asks the kernel whether the spec holds for the process.
func walls(t *testing.T, p *podOnNode, running *container) {
	t.Helper()
	status := running.status(t)
	for field, want := range map[string]string{
		"Name": "sallyport-agent", "Uid": "65532 65532 65532 65532", "Gid": "65532 65532 65532 65532", "Groups": "65532 65532",
		"CapPrm": "0000000000000000", "CapEff": "0000000000000000", "CapBnd": "0000000000000000", "CapAmb": "0000000000000000",
		"NoNewPrivs": "1", "Seccomp": "2",
	} {
		if status[field] != want {
			t.Errorf("%s of the agent's process is %q, want %q", field, status[field], want)
		}
	}
	peak, err := strconv.ParseInt(strings.TrimSuffix(status["VmHWM"], " kB"), 10, 64)
	limit := p.pod.Spec.Containers[0].Resources.Limits.Memory().Value()
	if err != nil || peak<<10 >= limit {
		t.Errorf("memory peaked at %s, the limit is %d MiB", status["VmHWM"], limit>>20)
	}
	mounts, err := os.ReadFile(fmt.Sprintf("/proc/%d/mounts", running.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		if f := strings.Fields(line); f[1] == "/" && !strings.HasPrefix(f[3], "ro,") {
			t.Errorf("the root is writable: %s", line)
		}
	}
}
