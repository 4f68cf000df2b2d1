package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/remotecommand"

	"github.com/sallyport-mesh/sallyport/test/parts"
	"github.com/sallyport-mesh/sallyport/test/play"
)

// Helm knows nothing of Sallyport: it is given a context's name.
func helm(t *testing.T, p *play.Person, args ...string) string {
	t.Helper()
	program, err := parts.Binary(t.Context(), parts.Helm)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), program, append([]string{"--kube-context", "sallyport/edge-1", "--namespace", "shop"}, args...)...)
	cmd.Env = append(cmd.Environ(), append(p.Env(), "HOME="+t.TempDir())...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("helm %v: %v\n%s%s", args, err, out, &stderr)
	}
	return string(out)
}

func helmWorks(t *testing.T, virat *play.Person) {
	greeting := func() string {
		return ok(t, virat, edge1, "-n", "shop", "get", "configmap", "web", "-o", "jsonpath={.data.greeting}").Stdout
	}
	chart := filepath.Join("testdata", "chart")
	helm(t, virat, "install", "web", chart, "--create-namespace", "--wait", "--timeout", "60s")
	if got := greeting(); got != "hello" {
		t.Errorf("installed: %q", got)
	}
	helm(t, virat, "upgrade", "web", chart, "--set", "greeting=welcome,replicas=2", "--wait", "--timeout", "60s")
	if got := greeting(); got != "welcome" {
		t.Errorf("upgraded: %q", got)
	}
	var releases []struct{ Name, Revision, Status string }
	if out := helm(t, virat, "list", "-o", "json"); json.Unmarshal([]byte(out), &releases) != nil || len(releases) != 1 || releases[0].Revision != "2" || releases[0].Status != "deployed" {
		t.Errorf("list: %s", out)
	}
	helm(t, virat, "rollback", "web", "1", "--wait", "--timeout", "60s")
	if got := greeting(); got != "hello" {
		t.Errorf("rolled back: %q", got)
	}
	if out := helm(t, virat, "history", "web", "-o", "json"); strings.Count(out, `"revision"`) != 3 {
		t.Errorf("history: %s", out)
	}
	helm(t, virat, "uninstall", "web", "--wait", "--timeout", "60s")
	refused(t, virat, []string{"NotFound"}, edge1, "-n", "shop", "get", "deployment", "web")
}

// program is what any client-go program does with a kubeconfig.
func program(t *testing.T, p *play.Person) *rest.Config {
	t.Helper()
	cfg, err := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(
		&clientcmd.ClientConfigLoadingRules{ExplicitPath: filepath.Join(p.Home, "kubeconfig")},
		&clientcmd.ConfigOverrides{CurrentContext: "sallyport/edge-1"},
	).ClientConfig()
	if err != nil {
		t.Fatal(err)
	}
	return cfg
}

// informed follows the ConfigMaps of a namespace as a controller does.
func informed(t *testing.T, cfg *rest.Config) (has func(name string) error) {
	t.Helper()
	client, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		t.Fatal(err)
	}
	factory := informers.NewSharedInformerFactoryWithOptions(client, 0, informers.WithNamespace("default"))
	maps := factory.Core().V1().ConfigMaps()
	informer := maps.Informer()
	ctx, cancel := context.WithCancel(t.Context())
	factory.Start(ctx.Done())
	t.Cleanup(func() { cancel(); factory.Shutdown() })
	syncing, enough := context.WithTimeout(ctx, 30*time.Second)
	defer enough()
	if !cache.WaitForCacheSync(syncing.Done(), informer.HasSynced) {
		t.Fatal("the informer has not synced")
	}
	return func(name string) error {
		_, err := maps.Lister().ConfigMaps("default").Get(name)
		return err
	}
}

func clientGoWorks(t *testing.T, virat *play.Person) {
	cfg := program(t, virat)
	has := informed(t, cfg)

	// The dynamic client, and what the informer sees of it.
	client, err := dynamic.NewForConfig(cfg)
	if err != nil {
		t.Fatal(err)
	}
	maps := client.Resource(schema.GroupVersionResource{Version: "v1", Resource: "configmaps"}).Namespace("default")
	ok(t, virat, edge1, "create", "configmap", "dynamic", "--from-literal=a=b")
	eventually(t, "the informer hears of it", func() error { return has("dynamic") })
	got, err := maps.Get(t.Context(), "dynamic", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	got.SetLabels(map[string]string{"seen": "yes"})
	if _, err := maps.Update(t.Context(), got, metav1.UpdateOptions{}); err != nil {
		t.Error(err)
	}
	if err := maps.Delete(t.Context(), "dynamic", metav1.DeleteOptions{}); err != nil {
		t.Error(err)
	}
	eventually(t, "the informer hears of that too", func() error {
		if has("dynamic") == nil {
			return fmt.Errorf("it is there")
		}
		return nil
	})

	// Exec, by WebSocket.
	pod := aPod(t, virat, "edge-1")
	core, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		t.Fatal(err)
	}
	url := core.CoreV1().RESTClient().Get().Resource("pods").Namespace("default").Name(pod).SubResource("exec").
		VersionedParams(&corev1.PodExecOptions{Command: []string{"cat"}, Stdin: true, Stdout: true}, scheme.ParameterCodec).URL()
	exec, err := remotecommand.NewWebSocketExecutor(cfg, "GET", url.String())
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	err = exec.StreamWithContext(t.Context(), remotecommand.StreamOptions{Stdin: strings.NewReader("typed"), Stdout: &out})
	if err != nil || out.String() != "typed" {
		t.Errorf("exec said %q: %v", &out, err)
	}
}
