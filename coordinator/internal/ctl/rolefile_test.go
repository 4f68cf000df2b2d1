package ctl

import (
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/sallyport-mesh/sallyport/pkg/policy"
)

func TestWhatRoleShowPrintsIsWhatRoleChangeTakes(t *testing.T) {
	for _, want := range policy.Builtin() {
		raw, err := writeRole(want)
		if err != nil {
			t.Fatal(err)
		}
		got, err := readRole(raw)
		if err != nil {
			t.Fatalf("%s: %v\n%s", want.Name, err, raw)
		}
		got.Name, got.Builtin = want.Name, true
		if !proto.Equal(got, want) {
			t.Errorf("%s came back as %v", want.Name, got)
		}
	}
}

func TestARoleFileIsReadStrictly(t *testing.T) {
	const clusterRole = `apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: from-kubernetes, labels: {a: b}}
rules:
- apiGroups: [""]
  resources: [secrets]
  resourceNames: ["web-*"]
  verbs: [get]
- deny: true
  apiGroups: [""]
  resources: [secrets]
  verbs: [delete]
`
	r, err := readRole([]byte(clusterRole))
	if err != nil || len(r.Rules) != 2 || !r.Rules[1].Deny || r.Rules[0].ResourceNames[0] != "web-*" {
		t.Errorf("a ClusterRole is read as %v: %v", r, err)
	}
	for name, bad := range map[string][2]string{
		"misspelt":      {strings.Replace(clusterRole, "deny:", "denied:", 1), "denied"},
		"another kind":  {strings.Replace(clusterRole, "ClusterRole", "RoleBinding", 1), "RoleBinding"},
		"two documents": {clusterRole + "---\n" + clusterRole, "more than one"},
		"empty":         {"", "empty"},
		"key twice":     {"rules: []\nrules: []\n", "already defined"},
	} {
		if _, err := readRole([]byte(bad[0])); err == nil || !strings.Contains(err.Error(), bad[1]) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzReadRole(f *testing.F) {
	f.Add([]byte("rules: [{verbs: [get], resources: [pods], apiGroups: ['']}]"))
	f.Add([]byte("a: &a [*a]"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		r, err := readRole(raw)
		if err != nil {
			return
		}
		again, err := writeRole(r)
		if err != nil {
			t.Fatal(err)
		}
		if back, err := readRole(again); err != nil || !proto.Equal(back, r) {
			t.Errorf("%q is read as %v, and what is written of it as %v: %v", raw, r, back, err)
		}
	})
}
