package node

import (
	"context"
	"embed"
	"fmt"
	"os"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/utils/clock"

	"sigs.k8s.io/kwok/pkg/apis/internalversion"
	"sigs.k8s.io/kwok/pkg/client/clientset/versioned"
	"sigs.k8s.io/kwok/pkg/config"
	"sigs.k8s.io/kwok/pkg/kwok/controllers"
	"sigs.k8s.io/kwok/pkg/log"
	"sigs.k8s.io/kwok/pkg/utils/client"
	"sigs.k8s.io/kwok/pkg/utils/informer"
)

//go:embed stages/*.yaml
var stageFiles embed.FS

// podCIDR lies in 198.18.0.0/15, which RFC 2544 keeps for benchmarks: no pod address of ours
// is ever a machine on somebody's network.
const podCIDR = "198.18.0.1/16"

// leaseSeconds is the kubelet's own default.
const leaseSeconds = 40

// pods are those on this node now. kwok's cache can be a moment behind the status that kwok
// itself wrote, so what it does not have is asked of the apiserver.
type pods struct {
	node   string
	cache  informer.Getter[*corev1.Pod]
	client kubernetes.Interface
}

func (p *pods) get(ctx context.Context, namespace, name string) (*corev1.Pod, error) {
	if pod, ok := p.cache.GetWithNamespace(name, namespace); ok {
		return pod, nil
	}
	pod, err := p.client.CoreV1().Pods(namespace).Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) || (err == nil && pod.Spec.NodeName != p.node) {
		return nil, fmt.Errorf("pod %s/%s: %w", namespace, name, errNotFound)
	}
	if err != nil {
		return nil, fmt.Errorf("asking for pod %s/%s: %w", namespace, name, err)
	}
	return pod, nil
}

func loadStages() (map[internalversion.StageResourceRef][]*internalversion.Stage, error) {
	entries, err := stageFiles.ReadDir("stages")
	if err != nil {
		return nil, fmt.Errorf("listing stages: %w", err)
	}
	stages := map[internalversion.StageResourceRef][]*internalversion.Stage{}
	for _, e := range entries {
		raw, err := stageFiles.ReadFile("stages/" + e.Name())
		if err != nil {
			return nil, fmt.Errorf("reading stage %s: %w", e.Name(), err)
		}
		stage, err := config.UnmarshalWithType[*internalversion.Stage](raw)
		if err != nil {
			return nil, fmt.Errorf("parsing stage %s: %w", e.Name(), err)
		}
		ref := stage.Spec.ResourceRef
		stages[ref] = append(stages[ref], stage)
	}
	return stages, nil
}

// startKwok starts kwok's controllers for one node and returns its view of the pods on it.
func startKwok(ctx context.Context, c Config, kubeletPort int) (*pods, error) {
	ctx = log.NewContext(ctx, log.NewLogger(os.Stderr, log.LevelWarn))
	stages, err := loadStages()
	if err != nil {
		return nil, err
	}
	set, err := client.NewClientset("", c.Kubeconfig)
	if err != nil {
		return nil, fmt.Errorf("making kwok's clients: %w", err)
	}
	restConfig, err := set.ToRESTConfig()
	if err != nil {
		return nil, fmt.Errorf("reading kubeconfig: %w", err)
	}
	dynamicClient, err := set.ToDynamicClient()
	if err != nil {
		return nil, fmt.Errorf("making dynamic client: %w", err)
	}
	mapper, err := set.ToRESTMapper()
	if err != nil {
		return nil, fmt.Errorf("making REST mapper: %w", err)
	}
	restClient, err := rest.RESTClientFor(restConfig)
	if err != nil {
		return nil, fmt.Errorf("making REST client: %w", err)
	}
	typed, err := kubernetes.NewForConfig(restConfig)
	if err != nil {
		return nil, fmt.Errorf("making typed client: %w", err)
	}
	kwokClient, err := versioned.NewForConfig(restConfig)
	if err != nil {
		return nil, fmt.Errorf("making kwok client: %w", err)
	}
	ctr, err := controllers.NewController(controllers.Config{
		Clock:                      clock.RealClock{},
		DynamicClient:              dynamicClient,
		RESTClient:                 restClient,
		RESTMapper:                 mapper,
		ImpersonatingDynamicClient: set.ToImpersonatingDynamicClient(),
		ImpersonatingTypedClient:   set.ToImpersonatingTypedClient(),
		TypedClient:                typed,
		TypedKwokClient:            kwokClient,
		ManageSingleNode:           c.Name,
		CIDR:                       podCIDR,
		NodeIP:                     "127.0.0.1",
		NodeName:                   c.Name,
		NodePort:                   kubeletPort,
		LocalStages:                stages,
		PodPlayStageParallelism:    4,
		NodePlayStageParallelism:   1,
		NodeLeaseDurationSeconds:   leaseSeconds,
		NodeLeaseParallelism:       1,
		PodsOnNodeSyncParallelism:  1,
		ID:                         "devcluster-" + c.Name,
		EnablePodCache:             true,
	})
	if err != nil {
		return nil, fmt.Errorf("making kwok's controllers: %w", err)
	}
	if err := ctr.Start(ctx); err != nil {
		return nil, fmt.Errorf("starting kwok's controllers: %w", err)
	}
	return &pods{node: c.Name, cache: ctr.GetPodCache(), client: typed}, nil
}
