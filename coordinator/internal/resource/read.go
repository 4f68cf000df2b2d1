package resource

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"

	"go.yaml.in/yaml/v3"

	apiv1 "github.com/sallyport-mesh/sallyport/pkg/api/sallyport/v1"
)

// APIVersion of the documents.
const APIVersion = "sallyport.io/v1"

// maxFile bounds what is read of one file.
const maxFile = 4 << 20

// Object is one document.
type Object struct {
	*apiv1.Resource
	File  string
	line  int
	lines map[string]int // field → line
}

// New is an object that another kind of file declares, at a line of it.
func New(file string, line int, r *apiv1.Resource) *Object {
	return &Object{Resource: r, File: file, line: line}
}

// Where is file:line of a field as in "spec.members[2]", or of the nearest thing
// around it that stands in the file.
func (o *Object) Where(field string) string {
	for field != "" {
		if line, ok := o.lines[field]; ok {
			return fmt.Sprintf("%s:%d", o.File, line)
		}
		field = field[:max(0, strings.LastIndexAny(field, ".["))]
	}
	return fmt.Sprintf("%s:%d", o.File, o.line)
}

// FieldError says what is wrong in a file, and where.
type FieldError struct {
	File   string
	Line   int
	Field  string // may be empty
	Reason string
}

func (e *FieldError) Error() string {
	at := fmt.Sprintf("%s:%d: ", e.File, e.Line)
	if e.Field != "" {
		at += e.Field + ": "
	}
	return at + e.Reason
}

// kinds are the kinds as files name them, with an empty resource of each.
var kinds = []struct {
	name string
	make func() *apiv1.Resource
}{
	{"Project", func() *apiv1.Resource {
		return &apiv1.Resource{Spec: &apiv1.Resource_Project{Project: &apiv1.ProjectSpec{}}}
	}},
	{"User", func() *apiv1.Resource {
		return &apiv1.Resource{Spec: &apiv1.Resource_User{User: &apiv1.UserSpec{}}}
	}},
	{"Group", func() *apiv1.Resource {
		return &apiv1.Resource{Spec: &apiv1.Resource_Group{Group: &apiv1.GroupSpec{}}}
	}},
	{"Role", func() *apiv1.Resource {
		return &apiv1.Resource{Spec: &apiv1.Resource_Role{Role: &apiv1.RoleSpec{}}}
	}},
	{"Cluster", func() *apiv1.Resource {
		return &apiv1.Resource{Spec: &apiv1.Resource_Cluster{Cluster: &apiv1.ClusterSpec{}}}
	}},
	{"Grant", func() *apiv1.Resource {
		return &apiv1.Resource{Spec: &apiv1.Resource_Grant{Grant: &apiv1.CreateGrantRequest{}}}
	}},
}

// Read reads all documents of a file. Everything that is wrong comes back, not
// only the first; errors are joined FieldErrors.
func Read(file string, r io.Reader) ([]*Object, error) {
	raw, err := io.ReadAll(io.LimitReader(r, maxFile+1))
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", file, err)
	}
	if len(raw) > maxFile {
		return nil, fmt.Errorf("%s is larger than %d bytes", file, maxFile)
	}
	var out []*Object
	var wrong error
	for in := yaml.NewDecoder(bytes.NewReader(raw)); ; {
		var doc yaml.Node
		switch err := in.Decode(&doc); {
		case errors.Is(err, io.EOF):
			return out, wrong
		case err != nil:
			return nil, errors.Join(wrong, fmt.Errorf("%s: %s", file, strings.TrimPrefix(err.Error(), "yaml: ")))
		}
		if len(doc.Content) == 0 || doc.Content[0].Tag == "!!null" {
			continue // an empty document, as between two ---
		}
		o, err := readObject(file, doc.Content[0])
		if wrong = errors.Join(wrong, err); err == nil {
			out = append(out, o)
		}
	}
}

func readObject(file string, n *yaml.Node) (*Object, error) {
	d := &decoder{o: &Object{File: file, line: n.Line, lines: map[string]int{}}}
	fields := d.mapping(n, "")
	version, kind := d.text(fields, "apiVersion"), d.text(fields, "kind")
	if version != APIVersion && d.wrong == nil {
		d.at(fields["apiVersion"], n, "apiVersion", fmt.Sprintf("%q is not %s", version, APIVersion))
	}
	for _, k := range kinds {
		if k.name == kind {
			d.o.Resource = k.make()
		}
	}
	if d.o.Resource == nil {
		d.at(fields["kind"], n, "kind", fmt.Sprintf("no kind %q: one of Project, User, Group, Role, Cluster, Grant", kind))
		return nil, d.wrong
	}
	for _, name := range sortedKeys(fields) {
		v := fields[name]
		switch name {
		case "apiVersion", "kind":
		case "metadata":
			metadata := d.mapping(v, "metadata")
			for _, name := range sortedKeys(metadata) {
				if name != "name" {
					d.fail(metadata[name], "metadata."+name, "no such field: metadata holds name alone")
				}
			}
			d.o.Name = d.text(metadata, "name")
		case "spec":
			d.message(v, "spec", specOf(d.o.Resource))
		default:
			d.fail(v, name, "no such field: a document has apiVersion, kind, metadata and spec")
		}
	}
	if d.o.Name == "" && kind != "Grant" && d.wrong == nil {
		d.at(fields["metadata"], n, "metadata.name", "is missing")
	}
	return d.o, d.wrong
}
