package play

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/clientcmd/api"

	"github.com/sallyport-mesh/sallyport/pkg/pki"
	"github.com/sallyport-mesh/sallyport/test/parts"
)

// Cluster is a real Kubernetes cluster and the agent beside it.
type Cluster struct {
	*parts.Cluster
	Name    string
	Project string
	Agent   *Process

	dir string
}

// demo is what every cluster of the quickstart runs.
const demo = `apiVersion: apps/v1
kind: Deployment
metadata: {name: nginx, namespace: default, labels: {app: nginx}}
spec:
  replicas: 2
  selector: {matchLabels: {app: nginx}}
  template:
    metadata: {labels: {app: nginx}}
    spec:
      containers:
      - {name: nginx, image: nginx, ports: [{containerPort: 80}]}
`

// StartCluster starts a cluster with the demo Deployment. Its agent follows with
// StartAgent.
func (w *World) StartCluster(ctx context.Context, name, project string) (*Cluster, error) {
	dir := filepath.Join(w.Dir, "clusters", name)
	kube, err := parts.StartCluster(w.life, dir, name)
	if err != nil {
		return nil, fmt.Errorf("starting cluster %s: %w", name, err)
	}
	c := &Cluster{Cluster: kube, Name: name, Project: project, dir: filepath.Join(w.Dir, "agents", name)}
	w.mu.Lock()
	w.Clusters[name] = c
	w.mu.Unlock()
	if err := w.Apply(ctx, c, demo); err != nil {
		return nil, err
	}
	_, err = w.KubectlDirect(ctx, c, "rollout", "status", "deployment/nginx", "--timeout=60s")
	return c, err
}

// Import adds the cluster at the coordinator and applies the manifest, as a
// cluster's owner would; once.
func (w *World) Import(ctx context.Context, c *Cluster) error {
	if _, err := os.Stat(filepath.Join(c.dir, "kubeconfig")); err == nil {
		return nil
	}
	if err := os.MkdirAll(c.dir, 0o700); err != nil {
		return err
	}
	// An earlier start may have been interrupted anywhere in here; nothing has
	// joined yet, so the cluster is added anew.
	token := filepath.Join(c.dir, "join-token")
	if err := os.RemoveAll(token); err != nil {
		return err
	}
	if r, err := w.Admin(ctx, "", "cluster", "remove", "--yes", c.Name); err != nil && !strings.Contains(r.Stderr, "no cluster") {
		return err
	}
	r, err := w.Admin(ctx, "", "cluster", "add", "--project", c.Project, "--ceiling", "admin", "--beside", token, c.Name)
	if err != nil {
		return err
	}
	if err := w.Apply(ctx, c, r.Stdout); err != nil {
		return err
	}
	return w.agentKubeconfig(ctx, c)
}

// agentKubeconfig is for the agent's own account, so that the agent beside the
// cluster has no more rights there than it would have inside.
func (w *World) agentKubeconfig(ctx context.Context, c *Cluster) error {
	token, err := w.KubectlDirect(ctx, c, "create", "token", "sallyport-agent", "-n", "sallyport-system", "--duration=240h")
	if err != nil {
		return err
	}
	conf, err := clientcmd.LoadFromFile(c.Kubeconfig)
	if err != nil {
		return err
	}
	current := conf.Contexts[conf.CurrentContext]
	conf.AuthInfos = map[string]*api.AuthInfo{"sallyport-agent": {Token: strings.TrimSpace(token.Stdout)}}
	current.AuthInfo = "sallyport-agent"
	raw, err := clientcmd.Write(*conf)
	if err != nil {
		return err
	}
	return pki.WriteFile(filepath.Join(c.dir, "kubeconfig"), raw)
}

// StartAgent starts the cluster's agent, or starts it again on the same data.
func (w *World) StartAgent(ctx context.Context, c *Cluster) error {
	p, err := Start("agent "+c.Name, filepath.Join(w.Dir, "logs", "agent-"+c.Name+".log"), w.OverlayEnv(), w.bin("sallyport-agent"),
		"--data-dir", filepath.Join(c.dir, "data"), "--kubeconfig", filepath.Join(c.dir, "kubeconfig"), "--join-token-file", filepath.Join(c.dir, "join-token"))
	if err != nil {
		return err
	}
	c.Agent = p
	return until(ctx, p, func() error {
		r, err := w.Admin(ctx, "", "cluster", "list")
		if err != nil {
			return err
		}
		for line := range strings.Lines(r.Stdout) {
			if f := strings.Fields(line); len(f) > 2 && f[0] == c.Name && f[2] == "online" {
				return nil
			}
		}
		return errors.New("agent of " + c.Name + " is not online yet")
	})
}

// Apply applies a manifest with the cluster's own administrator.
func (w *World) Apply(ctx context.Context, c *Cluster, manifest string) error {
	_, err := run(ctx, nil, []byte(manifest), w.Kubectl, "--kubeconfig", c.Kubeconfig, "apply", "--server-side", "-f", "-")
	return err
}

// KubectlDirect runs kubectl past Sallyport, as the cluster's own administrator.
func (w *World) KubectlDirect(ctx context.Context, c *Cluster, args ...string) (Result, error) {
	return run(ctx, nil, nil, w.Kubectl, append([]string{"--kubeconfig", c.Kubeconfig}, args...)...)
}
