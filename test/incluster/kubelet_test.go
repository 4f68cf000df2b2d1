package incluster

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/sallyport-mesh/sallyport/test/play"
)

// kubelet is the hand that does for one pod what a kubelet does: it reads the
// pod, makes its volumes, and has its container started. Towards the apiserver
// it is the node that the pod was scheduled to, so the node authorizer and the
// NodeRestriction admission see to it that it reads and mints no more than a
// kubelet could.
type kubelet struct {
	// dir is the pod's.
	dir    string
	client kubernetes.Interface
	// token asks for a token of the pod's account.
	token func(context.Context, *corev1.Pod, *corev1.ServiceAccountTokenProjection) (string, error)
}

func newKubelet(c *play.Cluster, dir string) (*kubelet, error) {
	cfg, err := clientcmd.BuildConfigFromFlags("", c.Kubeconfig)
	if err != nil {
		return nil, err
	}
	cfg.Impersonate = rest.ImpersonationConfig{UserName: "system:node:" + c.Node, Groups: []string{"system:nodes", "system:authenticated"}}
	client, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		return nil, err
	}
	k := &kubelet{dir: dir, client: client}
	k.token = k.boundToken
	for path, content := range map[string]string{
		"hosts": "127.0.0.1\tlocalhost\n",
		// The cluster's DNS, which nobody serves here: what needs it would wait.
		"resolv.conf": "nameserver " + dnsIP + "\nsearch sallyport-system.svc.cluster.local svc.cluster.local cluster.local\noptions ndots:5\n",
	} {
		if err := os.MkdirAll(filepath.Join(dir, "etc"), 0o755); err != nil {
			return nil, err
		}
		if err := os.WriteFile(filepath.Join(dir, "etc", path), []byte(content), 0o644); err != nil {
			return nil, err
		}
	}
	return k, nil
}

func (k *kubelet) etc() []bind {
	return []bind{
		{filepath.Join(k.dir, "etc", "hosts"), "/etc/hosts", false},
		{filepath.Join(k.dir, "etc", "resolv.conf"), "/etc/resolv.conf", false},
	}
}

// pod reads the pod from the apiserver.
func (k *kubelet) pod(ctx context.Context, namespace, name string) (*corev1.Pod, error) {
	return k.client.CoreV1().Pods(namespace).Get(ctx, name, metav1.GetOptions{})
}

// mountVolumes makes the pod's volumes, or makes those anew that Kubernetes
// keeps current. An emptyDir stays for as long as the pod does.
func (k *kubelet) mountVolumes(ctx context.Context, pod *corev1.Pod) error {
	if err := os.MkdirAll(k.volume(""), 0o755); err != nil {
		return err
	}
	group := int(*pod.Spec.SecurityContext.FSGroup)
	for _, v := range pod.Spec.Volumes {
		var err error
		switch {
		case v.PersistentVolumeClaim != nil:
			err = k.claimed(ctx, pod, v.Name, v.PersistentVolumeClaim.ClaimName)
		case v.EmptyDir != nil && v.EmptyDir.Medium == corev1.StorageMediumDefault:
			err = k.emptyDir(v.Name, group)
		case v.Projected != nil:
			err = k.project(ctx, pod, v.Name, v.Projected)
		default:
			err = errors.New("a kind of volume that is unknown here")
		}
		if err != nil {
			return fmt.Errorf("volume %s: %w", v.Name, err)
		}
	}
	return nil
}

// emptyDir is as a kubelet leaves one for a pod with an fsGroup: root's, open to
// all, and its group's for what is made in it.
func (k *kubelet) emptyDir(name string, group int) error {
	path := k.volume(name)
	if _, err := os.Stat(path); err == nil {
		return nil
	}
	return errors.Join(os.Mkdir(path, 0o755), os.Chown(path, 0, group), os.Chmod(path, 0o777|os.ModeSetgid))
}

// claimed is the directory of the local volume that a claim is bound to. The
// first pod finds it as the disk's owner made it, and gets it by its fsGroup; a
// later one finds it so, and with OnRootMismatch nothing in it is touched.
func (k *kubelet) claimed(ctx context.Context, pod *corev1.Pod, name, claim string) error {
	pvc, err := k.client.CoreV1().PersistentVolumeClaims(pod.Namespace).Get(ctx, claim, metav1.GetOptions{})
	if err != nil {
		return err
	}
	pv, err := k.client.CoreV1().PersistentVolumes().Get(ctx, pvc.Spec.VolumeName, metav1.GetOptions{})
	if err != nil {
		return err
	}
	if pv.Spec.Local == nil || *pod.Spec.SecurityContext.FSGroupChangePolicy != corev1.FSGroupChangeOnRootMismatch {
		return errors.New("not a local volume that keeps its files' modes")
	}
	info, err := os.Stat(pv.Spec.Local.Path)
	if err != nil {
		return err
	}
	group := int(*pod.Spec.SecurityContext.FSGroup)
	const opened = 0o770 | os.ModeSetgid
	if info.Sys().(*syscall.Stat_t).Gid != uint32(group) || info.Mode()&opened != opened {
		if err := errors.Join(os.Chown(pv.Spec.Local.Path, -1, group), os.Chmod(pv.Spec.Local.Path, info.Mode()|opened)); err != nil {
			return err
		}
	}
	if err := os.Symlink(pv.Spec.Local.Path, k.volume(name)); !errors.Is(err, os.ErrExist) {
		return err
	}
	return nil
}

// project gathers a projected volume's sources and swaps them in at once, with
// the kubelet's own arrangement of links.
func (k *kubelet) project(ctx context.Context, pod *corev1.Pod, name string, v *corev1.ProjectedVolumeSource) error {
	files := map[string]string{}
	for _, s := range v.Sources {
		switch {
		case s.ServiceAccountToken != nil:
			token, err := k.token(ctx, pod, s.ServiceAccountToken)
			if err != nil {
				return err
			}
			files[s.ServiceAccountToken.Path] = token
		case s.ConfigMap != nil:
			m, err := k.client.CoreV1().ConfigMaps(pod.Namespace).Get(ctx, s.ConfigMap.Name, metav1.GetOptions{})
			if err != nil {
				return err
			}
			for _, item := range s.ConfigMap.Items {
				files[item.Path] = m.Data[item.Key]
			}
		case s.DownwardAPI != nil:
			for _, item := range s.DownwardAPI.Items {
				if item.FieldRef == nil || item.FieldRef.FieldPath != "metadata.namespace" {
					return fmt.Errorf("%s asks for something unknown", item.Path)
				}
				files[item.Path] = pod.Namespace
			}
		default:
			return errors.New("a source that is unknown here")
		}
	}
	return k.swap(name, files, int(*pod.Spec.SecurityContext.RunAsUser), int(*pod.Spec.SecurityContext.FSGroup))
}

// boundToken asks for what a projected volume asks for: a token bound to the pod.
func (k *kubelet) boundToken(ctx context.Context, pod *corev1.Pod, p *corev1.ServiceAccountTokenProjection) (string, error) {
	request := authenticationv1.TokenRequestSpec{
		ExpirationSeconds: p.ExpirationSeconds,
		BoundObjectRef:    &authenticationv1.BoundObjectReference{Kind: "Pod", APIVersion: "v1", Name: pod.Name, UID: pod.UID},
	}
	if p.Audience != "" {
		request.Audiences = []string{p.Audience}
	}
	got, err := k.client.CoreV1().ServiceAccounts(pod.Namespace).CreateToken(ctx, pod.Spec.ServiceAccountName, &authenticationv1.TokenRequest{Spec: request}, metav1.CreateOptions{})
	if err != nil {
		return "", err
	}
	if !equality.Semantic.DeepEqual(got.Spec.BoundObjectRef, request.BoundObjectRef) {
		return "", errors.New("the token is not bound to the pod")
	}
	return got.Status.Token, nil
}

// swap writes a new generation of files and points ..data at it, so that a
// reader sees the old ones or the new ones. A token is its user's alone.
func (k *kubelet) swap(volume string, files map[string]string, user, group int) error {
	dir := k.volume(volume)
	generation := "..g" + strconv.FormatInt(time.Now().UnixNano(), 10)
	if err := os.MkdirAll(filepath.Join(dir, generation), 0o755); err != nil {
		return err
	}
	for name, content := range files {
		path := filepath.Join(dir, generation, name)
		mode := os.FileMode(0o644)
		if name == "token" {
			mode = 0o600
		}
		if err := errors.Join(os.WriteFile(path, []byte(content), mode), os.Chown(path, user, group)); err != nil {
			return err
		}
		if err := os.Symlink(filepath.Join("..data", name), filepath.Join(dir, name)); err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
	}
	next := filepath.Join(dir, "..data_tmp")
	return errors.Join(os.Symlink(generation, next), os.Rename(next, filepath.Join(dir, "..data")))
}
