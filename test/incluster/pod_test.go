package incluster

import (
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
)

// plan is what a pod's spec asks for, in a container runtime's terms. A field
// that this hand does not know is an error, never ignored: whoever adds one to
// the manifest teaches it here, or the proof would be of another pod.
func (k *kubelet) plan(pod *corev1.Pod, img *image, rootfs string) (*sandbox, error) {
	if err := known(pod.Spec.DeepCopy()); err != nil {
		return nil, err
	}
	p, c := pod.Spec.SecurityContext, pod.Spec.Containers[0]
	if normal(c.Image) != img.name {
		return nil, fmt.Errorf("the pod wants image %s, loaded is %s", normal(c.Image), img.name)
	}
	if c.ImagePullPolicy == corev1.PullAlways {
		return nil, fmt.Errorf("the kubelet would try to pull %s, though it is loaded", c.Image)
	}
	s := &sandbox{
		Root: rootfs, Hostname: pod.Name, Dir: img.config.WorkingDir, Args: append(img.config.Entrypoint, img.config.Cmd...),
		UID: int(*p.RunAsUser), GID: int(*p.RunAsGroup),
		Groups:           []int{int(*p.RunAsGroup), int(*p.FSGroup)},
		ReadOnlyRoot:     *c.SecurityContext.ReadOnlyRootFilesystem,
		NoNewPrivileges:  !*c.SecurityContext.AllowPrivilegeEscalation,
		DropCapabilities: equality.Semantic.DeepEqual(c.SecurityContext.Capabilities.Drop, []corev1.Capability{"ALL"}),
		Refused:          refusedByDefault,
		Mounts:           k.etc(),
		// As runtimes and kubelets order them: the image's, the services', the pod's.
		Env: append([]string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOSTNAME=" + pod.Name}, img.config.Env...),
	}
	if s.UID == 0 {
		return nil, errors.New("the pod says runAsNonRoot, and runs as root")
	}
	s.Env = append(s.Env, serviceEnv...)
	for _, e := range c.Env {
		if e.ValueFrom != nil || strings.Contains(e.Value, "$(") {
			return nil, fmt.Errorf("environment variable %s is not a plain value", e.Name)
		}
		s.Env = append(s.Env, e.Name+"="+e.Value)
	}
	for _, m := range c.VolumeMounts {
		readOnly := m.ReadOnly
		m.ReadOnly = false
		if !equality.Semantic.DeepEqual(m, corev1.VolumeMount{Name: m.Name, MountPath: m.MountPath}) {
			return nil, fmt.Errorf("volume mount %s says something unknown: %+v", m.Name, m)
		}
		s.Mounts = append(s.Mounts, bind{k.volume(m.Name), m.MountPath, readOnly})
	}
	return s, nil
}

// serviceEnv is what every container is told of the Service `kubernetes`.
var serviceEnv = []string{
	"KUBERNETES_SERVICE_HOST=" + serviceIP, "KUBERNETES_SERVICE_PORT=443", "KUBERNETES_SERVICE_PORT_HTTPS=443",
	"KUBERNETES_PORT=tcp://" + net.JoinHostPort(serviceIP, "443"),
}

// known takes out of the spec what plan and the volumes obey, what only other
// parts of Kubernetes read, and fails if anything is left.
func known(spec *corev1.PodSpec) error {
	if len(spec.Containers) != 1 {
		return errors.New("the pod has not one container")
	}
	c := &spec.Containers[0]
	p, cs := spec.SecurityContext, c.SecurityContext
	if p == nil || p.RunAsUser == nil || p.RunAsGroup == nil || p.FSGroup == nil || cs == nil || cs.Capabilities == nil ||
		cs.ReadOnlyRootFilesystem == nil || cs.AllowPrivilegeEscalation == nil {
		return errors.New("the pod does not say as whom and how walled in it runs")
	}
	if p.SeccompProfile == nil || p.SeccompProfile.Type != corev1.SeccompProfileTypeRuntimeDefault {
		return errors.New("the pod does not ask for the default seccomp profile")
	}
	p.RunAsUser, p.RunAsGroup, p.RunAsNonRoot, p.FSGroup, p.FSGroupChangePolicy, p.SeccompProfile = nil, nil, nil, nil, nil, nil
	cs.ReadOnlyRootFilesystem, cs.AllowPrivilegeEscalation, cs.Capabilities.Drop = nil, nil, nil
	if cs.Privileged != nil && !*cs.Privileged {
		cs.Privileged = nil
	}
	if spec.EnableServiceLinks == nil || *spec.EnableServiceLinks {
		return errors.New("the pod wants links to every service")
	}
	if spec.RestartPolicy != corev1.RestartPolicyAlways || spec.DNSPolicy != corev1.DNSClusterFirst {
		return errors.New("the pod's restart or DNS policy is not the default")
	}
	spec.EnableServiceLinks, spec.RestartPolicy, spec.DNSPolicy = nil, "", ""
	spec.TerminationGracePeriodSeconds = nil // Stop obeys it
	// The scheduler's and admission's.
	spec.NodeName, spec.SchedulerName, spec.Priority, spec.PreemptionPolicy, spec.Tolerations = "", "", nil, nil, nil
	// The API server obeyed these when it made the volume.
	spec.ServiceAccountName, spec.DeprecatedServiceAccount, spec.AutomountServiceAccountToken = "", "", nil
	// The limit of memory is checked against the peak, not enforced.
	c.Name, c.Image, c.ImagePullPolicy, c.Env, c.VolumeMounts, c.Resources = "", "", "", nil, nil, corev1.ResourceRequirements{}
	c.TerminationMessagePath, c.TerminationMessagePolicy = "", ""
	if !equality.Semantic.DeepEqual(*c, corev1.Container{SecurityContext: &corev1.SecurityContext{Capabilities: &corev1.Capabilities{}}}) {
		return fmt.Errorf("the container's spec holds something unknown: %+v", *c)
	}
	spec.Volumes, spec.Containers = nil, nil // the volumes are checked where they are made
	if !equality.Semantic.DeepEqual(*spec, corev1.PodSpec{SecurityContext: &corev1.PodSecurityContext{}}) {
		return fmt.Errorf("the pod's spec holds something unknown: %+v", *spec)
	}
	return nil
}

func (k *kubelet) volume(name string) string { return filepath.Join(k.dir, "volumes", name) }
