package cluster

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/sallyport-mesh/sallyport/test/devcluster/internal/component"
)

// startTimeout bounds each wait of a start. A cluster takes seconds; a machine with eight
// others building on it takes a minute.
const startTimeout = 3 * time.Minute

type clusterClient struct{ kubernetes.Interface }

func (o Options) connect() (*clusterClient, error) {
	config, err := clientcmd.BuildConfigFromFlags("", o.path(AdminKubeconfig))
	if err != nil {
		return nil, fmt.Errorf("reading admin kubeconfig: %w", err)
	}
	config.QPS, config.Burst = 100, 200
	set, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("making client: %w", err)
	}
	return &clusterClient{set}, nil
}

// until asks again every 50 ms; the last refusal explains a timeout.
func until(ctx context.Context, what string, ask func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	t := time.NewTicker(50 * time.Millisecond)
	defer t.Stop()
	for {
		err := ask(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting for %s: %w (last answer: %v)", what, ctx.Err(), err)
		case <-t.C:
		}
	}
}

func (o Options) waitForEtcd(ctx context.Context) error {
	return until(ctx, "etcd", func(context.Context) error {
		_, err := os.Stat(o.path(component.EtcdSocket))
		return err
	})
}

func (c *clusterClient) waitForAPIServer(ctx context.Context) error {
	return until(ctx, "the apiserver", func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
		defer cancel()
		return c.Discovery().RESTClient().Get().AbsPath("/readyz").Do(ctx).Error()
	})
}

// registerNode makes the Node object. One from an earlier start may still call itself ready: it
// is told otherwise, so that its readiness is this start's.
func (c *clusterClient) registerNode(ctx context.Context, name string) error {
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{
		Name: name,
		Labels: map[string]string{
			"kubernetes.io/hostname": name,
			"kubernetes.io/os":       "linux", // of the pods it claims to run,
			"kubernetes.io/arch":     runtime.GOARCH,
			"type":                   "kwok",
		},
	}}
	_, err := c.CoreV1().Nodes().Create(ctx, node, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		patch := []byte(`{"status":{"conditions":[{"type":"Ready","status":"False","reason":"DevclusterStarting"}]}}`)
		_, err = c.CoreV1().Nodes().Patch(ctx, name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status")
	}
	if err != nil {
		return fmt.Errorf("registering node: %w", err)
	}
	return nil
}

// waitForNode waits until pods can be scheduled: ready, and its taint taken away.
func (c *clusterClient) waitForNode(ctx context.Context, name string) error {
	return until(ctx, "the node", func(ctx context.Context) error {
		node, err := c.CoreV1().Nodes().Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		if len(node.Spec.Taints) > 0 {
			return fmt.Errorf("taint %s: %w", node.Spec.Taints[0].Key, errNotReady)
		}
		for _, cond := range node.Status.Conditions {
			if cond.Type == corev1.NodeReady && cond.Status == corev1.ConditionTrue {
				return nil
			}
		}
		return errNotReady
	})
}

func (c *clusterClient) waitForDefaultAccount(ctx context.Context) error {
	return until(ctx, "the default service account", func(ctx context.Context) error {
		_, err := c.CoreV1().ServiceAccounts(metav1.NamespaceDefault).Get(ctx, "default", metav1.GetOptions{})
		return err
	})
}
