package resource

import (
	"bytes"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
)

const all = `---
apiVersion: sallyport.io/v1
kind: Project
metadata:
  name: aws
spec: {}
---
apiVersion: sallyport.io/v1
kind: User
metadata:
  name: "1234"
spec:
  displayName: 'yes: "x" #'
  suspended: true
  admin:
    - role: project-manager
      project: aws
---
apiVersion: sallyport.io/v1
kind: Group
metadata:
  name: aws-members
spec:
  members:
    - "1234"
    - ann
---
apiVersion: sallyport.io/v1
kind: Role
metadata:
  name: web
spec:
  description: line
  rules:
    - apiGroups: ["", apps]
      resources: [pods]
      resourceNames: ["web-*"]
      verbs: [get]
    - verbs: [get]
      nonResourceURLs: [/metrics]
      deny: true
---
apiVersion: sallyport.io/v1
kind: Cluster
metadata:
  name: edge-1
spec:
  project: aws
  ceiling: admin
  budgets:
    read: 24h
    write: 4h
    exec: 15m
---
apiVersion: sallyport.io/v1
kind: Grant
spec:
  role: web
  group: aws-members
  cluster: edge-1
  namespaces: [a, b]
  expiresAt: 2036-12-31T18:00:00Z
  reason: because
`

func TestWhatIsWrittenReadsAsTheSame(t *testing.T) {
	objects, err := Read("all.yaml", strings.NewReader(all))
	if err != nil {
		t.Fatal(err)
	}
	if len(objects) != 6 {
		t.Fatalf("%d objects", len(objects))
	}
	for _, o := range objects {
		raw, err := Write(o.Resource)
		if err != nil {
			t.Fatal(err)
		}
		again, err := Read("again.yaml", bytes.NewReader(raw))
		if err != nil || len(again) != 1 || !proto.Equal(again[0].Resource, o.Resource) {
			t.Errorf("%s %s reads differently (%v):\n%s", Kind(o.Resource), o.Name, err, raw)
		}
	}
	if at := objects[2].Where("spec.members[1]"); at != "all.yaml:26" {
		t.Errorf("the second member stands at %s", at)
	}
	if at := objects[4].Where("spec.budgets.read.x"); at != "all.yaml:51" {
		t.Errorf("what is around a field that is not there stands at %s", at)
	}
}

func TestErrorsNameFileLineAndField(t *testing.T) {
	head := "apiVersion: sallyport.io/v1\nkind: "
	for text, want := range map[string]string{
		head + "User\nmetadata: {name: ann}\nspec:\n  displayname: x\n":           "x.yaml:5: spec.displayname: no such field: there are displayName, suspended, admin",
		head + "User\nmetadata: {name: ann}\nspec:\n  password: x\n":              "x.yaml:5: spec.password: no such field",
		head + "Group\nmetadata: {name: g}\nspec:\n  members: ann\n":              "x.yaml:5: spec.members: is not a list",
		head + "Group\nmetadata: {name: g}\nspec:\n  members:\n  - ann\n  - 12\n": "x.yaml:7: spec.members[1]: 12 is not text",
		head + "Grant\nspec:\n  expiresAt: tomorrow\n":                            "x.yaml:4: spec.expiresAt: \"tomorrow\" is not a time",
		head + "Cluster\nmetadata: {name: c}\nspec:\n  budgets:\n    read: 24\n":  "x.yaml:6: spec.budgets.read: \"24\" is not a duration",
		head + "User\nmetadata: {name: ann}\nspec:\n  suspended: yes please\n":    "x.yaml:5: spec.suspended: \"yes please\" is neither",
		head + "Thing\n":          "x.yaml:2: kind: no kind \"Thing\"",
		"kind: User\n":            "x.yaml:1: apiVersion: \"\" is not sallyport.io/v1",
		head + "User\nspec: {}\n": "x.yaml:1: metadata.name: is missing",
		head + "User\nmetadata: {name: a, labels: {}}\n":                                                                       "x.yaml:3: metadata.labels: no such field",
		head + "User\nmetadata: {name: a}\nstatus: {}\n":                                                                       "x.yaml:4: status: no such field",
		head + "Group\nmetadata: {name: g}\nspec:\n  members: [a]\n  members: [b]\n":                                           "x.yaml:6: spec.members: stands twice",
		head + "Group\nmetadata: {name: g}\nspec:\n  members: &m [a]\n---\n" + head + "Group\nmetadata: {name: h}\nspec: *m\n": "spec: is an alias",
		"a: b: c\n": "x.yaml: ",
	} {
		if _, err := Read("x.yaml", strings.NewReader(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s\ngot  %v\nwant %s", text, err, want)
		}
	}
}

func FuzzRead(f *testing.F) {
	f.Add([]byte(all))
	f.Add([]byte("apiVersion: sallyport.io/v1\nkind: Grant\nspec: {expiresAt: 2001-01-01T00:00:00Z}\n"))
	f.Add([]byte("a: &a [*a]\n"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		objects, err := Read("f", bytes.NewReader(raw))
		if err != nil {
			return
		}
		for _, o := range objects {
			text, err := Write(o.Resource)
			if err != nil {
				t.Fatal(err)
			}
			again, err := Read("again", bytes.NewReader(text))
			if err != nil || len(again) != 1 || !proto.Equal(again[0].Resource, o.Resource) {
				t.Fatalf("what was written reads differently: %v\n%s", err, text)
			}
		}
	})
}
