package parts

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// Cluster is a running Kubernetes cluster.
type Cluster struct {
	*process

	// Dir holds everything of the cluster; starting in it again resumes.
	Dir string
	// Name is the cluster's name, and that of the context in Kubeconfig.
	Name string
	// Kubeconfig is the path of a kubeconfig that may do everything.
	Kubeconfig string
	// APIServer is its URL, https on a port of 127.0.0.1.
	APIServer string
	// AuditLog is the path of the apiserver's own audit log, an event in JSON on each line. A
	// request that has been answered is in it.
	AuditLog string
	// Node is the name of the one node.
	Node string
}

// StartCluster starts the cluster called name in dir and returns when pods can be scheduled: the
// binary is built first if need be, then it takes seconds.
func StartCluster(ctx context.Context, dir, name string) (*Cluster, error) {
	path, err := Binary(ctx, Devcluster)
	if err != nil {
		return nil, err
	}
	var answer struct{ Name, Kubeconfig, APIServer, AuditLog, Node string }
	p, err := launch(ctx, "cluster "+name, &answer, path, "run", "--dir", dir, "--name", name)
	if err != nil {
		return nil, err
	}
	return &Cluster{
		process: p, Dir: dir, Name: answer.Name, Kubeconfig: answer.Kubeconfig,
		APIServer: answer.APIServer, AuditLog: answer.AuditLog, Node: answer.Node,
	}, nil
}

// Kubectl prepares a kubectl command with the cluster's administrator.
func (c *Cluster) Kubectl(ctx context.Context, args ...string) (*exec.Cmd, error) {
	path, err := Binary(ctx, Kubectl)
	if err != nil {
		return nil, err
	}
	return exec.CommandContext(ctx, path, append([]string{"--kubeconfig", c.Kubeconfig}, args...)...), nil
}

// Processes are the process ids by component: supervisor, etcd, kube-apiserver,
// kube-controller-manager, kube-scheduler, node. A test can stop one (SIGSTOP) to see what an
// apiserver that does not answer does; when one ends, the whole cluster does.
func (c *Cluster) Processes() (map[string]int, error) {
	raw, err := os.ReadFile(filepath.Join(c.Dir, "processes.json"))
	if err != nil {
		return nil, fmt.Errorf("reading process ids: %w", err)
	}
	pids := map[string]int{}
	if err := json.Unmarshal(raw, &pids); err != nil {
		return nil, fmt.Errorf("reading process ids: %w", err)
	}
	return pids, nil
}
