package manifest

import (
	"bytes"
	"embed"
	"encoding/base64"
	"fmt"
	"regexp"
	"strings"
	"text/template"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/sallyport-mesh/sallyport/pkg/identity"
	"github.com/sallyport-mesh/sallyport/pkg/pki"
)

// Params are what differs from one cluster to the next.
type Params struct {
	// Cluster is the cluster's name in Sallyport, for people who read the
	// manifest. Required.
	Cluster string
	// JoinToken enrols one agent once. Required.
	JoinToken string
	// Image of the agent. Required unless Beside.
	Image string
	// Ceiling is View, Edit or Admin. Required: there is no default that would
	// be right for somebody who did not choose.
	Ceiling string
	// ExtraGroups are API groups of custom resources that people may be granted.
	ExtraGroups []string
	// Beside leaves the Deployment out: the agent runs outside of the cluster,
	// with a kubeconfig for the account sallyport-agent (`kubectl create token
	// sallyport-agent -n sallyport-system`). Its token is no Secret in the
	// cluster, where whoever may list Secrets would find it.
	Beside bool
	// EmptyDir keeps the agent's data with its pod instead of on a
	// PersistentVolumeClaim. The agent's key, its unshipped audit records and
	// its place in the overlay are then gone with the pod, and it needs a new
	// join token: for trying out, and for clusters without storage.
	EmptyDir bool
}

//go:embed templates/*.yaml
var templates embed.FS

var parsed = template.Must(template.New("").Funcs(template.FuncMap{
	"base64": func(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) },
	"quote":  quote,
}).Option("missingkey=error").ParseFS(templates, "templates/*.yaml"))

// The order in which a reader meets them, and in which kubectl applies them: the
// admission policies stand before anything that they guard is made.
var order = []string{"namespaces.yaml", "admission.yaml", "rbac.yaml", "join.yaml", "deployment.yaml"}

var imagePattern = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9._/:@-]{0,499}$`)

// Check says what is wrong with all but the token, before there is one.
func (p Params) Check() error {
	if err := identity.CheckClusterName(p.Cluster); err != nil {
		return err
	}
	if !p.Beside && !imagePattern.MatchString(p.Image) {
		return fmt.Errorf("%q is not the name of an image", p.Image)
	}
	_, err := Ceiling(p.Ceiling, p.ExtraGroups)
	return err
}

// Render makes the manifest, ready for `kubectl apply -f -`.
func Render(p Params) ([]byte, error) {
	if err := p.Check(); err != nil {
		return nil, err
	}
	if _, err := pki.ParseJoinToken(p.JoinToken); err != nil {
		return nil, err
	}
	rules, err := Ceiling(p.Ceiling, p.ExtraGroups)
	if err != nil {
		return nil, err
	}
	ceiling, err := yaml.Marshal(rbacv1.ClusterRole{
		TypeMeta: metav1.TypeMeta{APIVersion: rbacv1.SchemeGroupVersion.String(), Kind: "ClusterRole"},
		ObjectMeta: metav1.ObjectMeta{
			Name:        CeilingRole,
			Labels:      map[string]string{"app.kubernetes.io/managed-by": "sallyport"},
			Annotations: map[string]string{"sallyport.io/ceiling": p.Ceiling},
		},
		Rules: rules,
	})
	if err != nil {
		return nil, fmt.Errorf("encoding the ceiling: %w", err)
	}
	var out bytes.Buffer
	for _, name := range order {
		if name == "deployment.yaml" && p.Beside {
			continue
		}
		err := parsed.ExecuteTemplate(&out, name, struct {
			Params
			AgentUser, CeilingYAML string
		}{p, AgentUser, strings.TrimSpace(string(ceiling))})
		if err != nil {
			return nil, fmt.Errorf("rendering %s: %w", name, err)
		}
	}
	return out.Bytes(), nil
}

// quote is s as a YAML (JSON) string.
func quote(s string) (string, error) {
	b, err := yaml.Marshal(s)
	return strings.TrimSpace(string(b)), err
}
