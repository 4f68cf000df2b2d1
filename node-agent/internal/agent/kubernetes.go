package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/transport"

	"github.com/sallyport-mesh/sallyport/deploy/manifest"
	"github.com/sallyport-mesh/sallyport/pkg/pki"
	"github.com/sallyport-mesh/sallyport/pkg/process"
)

// clusterTimeout bounds each question to the apiserver during the start.
const clusterTimeout = 10 * time.Second

// cluster is the Kubernetes cluster, as the agent's own account.
type cluster struct {
	rest   *rest.Config
	client kubernetes.Interface
}

func openCluster(kubeconfig, version string) (*cluster, error) {
	cfg, err := restConfig(kubeconfig)
	if err != nil {
		return nil, err
	}
	cfg.UserAgent = "sallyport-agent/" + version
	rereadToken(cfg)
	client, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		return nil, kubeconfigHint(fmt.Errorf("reading kubeconfig: %w", err))
	}
	return &cluster{cfg, client}, nil
}

// rereadToken has our own requests take the token from its file, each minute and
// whenever the apiserver refuses the one in hand. client-go alone keeps a refused
// token to the end of its minute, so an edge that slept through a token's life
// would refuse everybody for as long. Requests of people never come here: theirs
// go out on rest.AnonymousClientConfig, which takes no wrapper along.
func rereadToken(cfg *rest.Config) {
	if cfg.BearerTokenFile == "" {
		return
	}
	cfg.Wrap(transport.ResettableTokenSourceWrapTransport(transport.NewCachedFileTokenSource(cfg.BearerTokenFile)))
	cfg.BearerToken, cfg.BearerTokenFile = "", ""
}

func restConfig(kubeconfig string) (*rest.Config, error) {
	if kubeconfig == "" {
		cfg, err := rest.InClusterConfig()
		if err != nil {
			return nil, process.Hint(errors.New("not in a cluster, and no kubeconfig given"), "beside a cluster: sallyport-agent --kubeconfig FILE")
		}
		return cfg, nil
	}
	raw, err := clientcmd.LoadFromFile(kubeconfig)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, kubeconfigHint(fmt.Errorf("kubeconfig %s does not exist", kubeconfig))
	}
	if err != nil {
		return nil, kubeconfigHint(fmt.Errorf("reading kubeconfig %s: %w", kubeconfig, err))
	}
	cfg, err := clientcmd.NewDefaultClientConfig(*raw, nil).ClientConfig()
	if err != nil {
		return nil, kubeconfigHint(fmt.Errorf("reading kubeconfig %s: %w", kubeconfig, err))
	}
	return cfg, nil
}

func kubeconfigHint(err error) error {
	return process.Hint(err, "make one for the agent's account, with a token of: kubectl create token "+manifest.AgentAccount+" -n "+manifest.SystemNamespace+" --duration 8760h")
}

// errWrongAccount says that the apiserver takes us for somebody else than the
// account that the manifest's rights and fences are for.
var errWrongAccount = errors.New("the agent must be " + manifest.AgentUser)

// whoAmI checks that the apiserver knows us as the agent's account. With another
// identity, an administrator's above all, no ceiling would hold.
func (c *cluster) whoAmI(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, clusterTimeout)
	defer cancel()
	res, err := c.client.AuthenticationV1().SelfSubjectReviews().Create(ctx, &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{})
	switch {
	case apierrors.IsUnauthorized(err):
		return kubeconfigHint(fmt.Errorf("the apiserver at %s does not take these credentials: %w", c.rest.Host, errWrongAccount))
	case err != nil:
		return c.unreachable(err)
	case res.Status.UserInfo.Username != manifest.AgentUser:
		return kubeconfigHint(fmt.Errorf("the apiserver at %s knows us as %s: %w", c.rest.Host, res.Status.UserInfo.Username, errWrongAccount))
	}
	return nil
}

func (c *cluster) unreachable(err error) error {
	return process.Hint(fmt.Errorf("asking the apiserver at %s: %w", c.rest.Host, err), "check that the cluster runs and that the kubeconfig is its own")
}

// uid is the cluster's identity.
func (c *cluster) uid(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, clusterTimeout)
	defer cancel()
	ns, err := c.client.CoreV1().Namespaces().Get(ctx, metav1.NamespaceSystem, metav1.GetOptions{})
	if apierrors.IsForbidden(err) {
		return "", applyHint(fmt.Errorf("the agent's account lacks its rights: %w", err))
	}
	if err != nil {
		return "", c.unreachable(err)
	}
	return string(ns.UID), nil
}

func applyHint(err error) error {
	return process.Hint(err, "apply the manifest: sallyportctl cluster add NAME --project PROJECT | kubectl apply -f -")
}

// joinSecret reads the join token that the manifest brought.
func (c *cluster) joinSecret(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, clusterTimeout)
	defer cancel()
	s, err := c.client.CoreV1().Secrets(manifest.SystemNamespace).Get(ctx, manifest.JoinSecret, metav1.GetOptions{})
	if apierrors.IsNotFound(err) || apierrors.IsForbidden(err) {
		return "", applyHint(fmt.Errorf("no join token: there is no Secret %s in namespace %s", manifest.JoinSecret, manifest.SystemNamespace))
	}
	if err != nil {
		return "", c.unreachable(err)
	}
	return strings.TrimSpace(string(s.Data[manifest.JoinSecretKey])), nil
}

// forgetJoinSecret deletes the token, which has been used, if it is the one that
// the manifest brought.
func (c *cluster) forgetJoinSecret(ctx context.Context, used pki.JoinToken) error {
	ctx, cancel := context.WithTimeout(ctx, clusterTimeout)
	defer cancel()
	secrets := c.client.CoreV1().Secrets(manifest.SystemNamespace)
	s, err := secrets.Get(ctx, manifest.JoinSecret, metav1.GetOptions{})
	if apierrors.IsNotFound(err) || err == nil && strings.TrimSpace(string(s.Data[manifest.JoinSecretKey])) != used.String() {
		return nil
	}
	if err == nil {
		err = secrets.Delete(ctx, manifest.JoinSecret, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &s.UID}})
	}
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("deleting the used join token: %w", err)
	}
	return nil
}
