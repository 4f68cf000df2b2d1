package manifest

import (
	"bytes"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/yaml"

	"github.com/sallyport-mesh/sallyport/pkg/pki"
	"github.com/sallyport-mesh/sallyport/pkg/policy"
)

var token = pki.JoinToken{Link: pki.Link{URL: "https://127.0.0.1:8443"}, Secret: "s3cret"}.String()

func TestCeilingHoldsNothingThatLeadsAboveIt(t *testing.T) {
	for _, level := range []string{View, Edit, Admin} {
		rules, err := Ceiling(level, []string{"cert-manager.io", "gateway.networking.k8s.io"})
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range rules {
			for _, v := range r.Verbs {
				if slices.Contains([]string{"*", "bind", "escalate", "impersonate", "approve", "sign", "attest"}, v) {
					t.Errorf("%s: verb %s in %v", level, v, r)
				}
			}
			if slices.Contains(r.APIGroups, "*") || slices.Contains(r.NonResourceURLs, "*") {
				t.Errorf("%s: wildcard in %v", level, r)
			}
			if slices.Contains(r.APIGroups, "") || slices.Contains(r.APIGroups, "certificates.k8s.io") || slices.Contains(r.APIGroups, rbacv1.GroupName) {
				for _, res := range r.Resources {
					if strings.Contains(res, "*") || res == "serviceaccounts/token" || res == "nodes/proxy" || strings.HasSuffix(res, "/approval") {
						t.Errorf("%s: %s in %v", level, res, r)
					}
				}
			}
			writes := slices.ContainsFunc(r.Verbs, func(v string) bool { return !slices.Contains(readVerbs, v) })
			for _, g := range []string{"admissionregistration.k8s.io", "apiregistration.k8s.io"} {
				if writes && slices.Contains(r.APIGroups, g) {
					t.Errorf("%s: writes %s", level, g)
				}
			}
		}
	}
}

func TestBuiltinRolesFitTheirCeiling(t *testing.T) {
	for role, level := range map[string]string{policy.View: View, policy.Edit: Edit, policy.Admin: Admin} {
		ceiling, _ := Ceiling(level, nil)
		for _, b := range policy.Builtin() {
			if b.Name != role {
				continue
			}
			if _, above := policy.Under(policy.PolicyRules(b), ceiling); len(above) > 0 {
				t.Errorf("role %s under ceiling %s: above: %v", role, level, above)
			}
		}
	}
}

func TestExtraGroupIsNoWayAround(t *testing.T) {
	for _, g := range []string{
		"", "*", "apps", "rbac.authorization.k8s.io", "admissionregistration.k8s.io", "certificates.k8s.io", "authentication.k8s.io",
		"apiregistration.k8s.io", "k8s.io", "a.b\n- x", "A.B", "a..b",
	} {
		if _, err := Ceiling(Admin, []string{g}); err == nil {
			t.Errorf("%q was taken", g)
		}
	}
}

func TestManifestIsValidYAMLWithoutStrangers(t *testing.T) {
	for _, p := range []Params{
		{Cluster: "edge-1", JoinToken: token, Image: "ghcr.io/x/y:1", Ceiling: Admin, ExtraGroups: []string{"cert-manager.io"}},
		{Cluster: "edge-1", JoinToken: token, Image: "y@sha256:" + strings.Repeat("a", 64), Ceiling: View, EmptyDir: true},
		{Cluster: "edge-1", JoinToken: token, Ceiling: Edit, Beside: true},
	} {
		out, err := Render(p)
		if err != nil {
			t.Fatal(err)
		}
		kinds := map[string]int{}
		dec := yaml.NewYAMLOrJSONDecoder(bytes.NewReader(out), 4096)
		for {
			var u unstructured.Unstructured
			if err := dec.Decode(&u); errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				t.Fatal(err)
			}
			if u.Object == nil {
				continue
			}
			kinds[u.GetKind()]++
			if u.GetLabels()["app.kubernetes.io/managed-by"] != "sallyport" {
				t.Errorf("%s %s is not labelled", u.GetKind(), u.GetName())
			}
			if ns := u.GetNamespace(); ns != "" && ns != SystemNamespace && ns != UsersNamespace {
				t.Errorf("%s %s in %s", u.GetKind(), u.GetName(), ns)
			}
		}
		if kinds["ValidatingAdmissionPolicy"] != 4 || kinds["ValidatingAdmissionPolicyBinding"] != 4 || kinds["ClusterRole"] != 2 || kinds["Secret"] != 1 {
			t.Errorf("%v", kinds)
		}
		if want := map[bool]int{true: 0, false: 1}[p.Beside]; kinds["Deployment"] != want {
			t.Errorf("%+v: %d deployments", p, kinds["Deployment"])
		}
		if want := map[bool]int{true: 0, false: 1}[p.Beside || p.EmptyDir]; kinds["PersistentVolumeClaim"] != want {
			t.Errorf("%+v: %d volume claims", p, kinds["PersistentVolumeClaim"])
		}
	}
}

func TestRenderRefusesBadInput(t *testing.T) {
	good := Params{Cluster: "edge-1", JoinToken: token, Image: "x", Ceiling: View}
	for name, change := range map[string]func(*Params){
		"cluster":   func(p *Params) { p.Cluster = "a\nb" },
		"token":     func(p *Params) { p.JoinToken = "x" },
		"image":     func(p *Params) { p.Image = "x\n  y: z" },
		"no image":  func(p *Params) { p.Image = "" },
		"ceiling":   func(p *Params) { p.Ceiling = "" },
		"api group": func(p *Params) { p.ExtraGroups = []string{"*"} },
	} {
		p := good
		change(&p)
		if out, err := Render(p); err == nil || out != nil {
			t.Errorf("%s was taken", name)
		}
	}
}
