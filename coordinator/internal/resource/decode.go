package resource

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	apiv1 "github.com/sallyport-mesh/sallyport/pkg/api/sallyport/v1"
)

// decoder reads one document, noting where everything stands and what is wrong.
type decoder struct {
	o     *Object
	wrong error
}

func (d *decoder) fail(n *yaml.Node, field, reason string) {
	d.wrong = errors.Join(d.wrong, &FieldError{d.o.File, n.Line, field, reason})
}

// at is fail for what may not be there.
func (d *decoder) at(n, otherwise *yaml.Node, field, reason string) {
	if n == nil {
		n = otherwise
	}
	d.fail(n, field, reason)
}

// mapping reads the entries of a mapping, each once.
func (d *decoder) mapping(n *yaml.Node, path string) map[string]*yaml.Node {
	out := map[string]*yaml.Node{}
	if isNull(n) {
		return out
	}
	if n.Kind != yaml.MappingNode {
		d.fail(n, path, "is not a mapping")
		return out
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		field := strings.TrimPrefix(path+"."+key.Value, ".")
		switch {
		case key.Kind != yaml.ScalarNode || key.Tag != "!!str":
			d.fail(key, field, "is not the name of a field")
		case out[key.Value] != nil:
			d.fail(key, field, "stands twice")
		case value.Kind == yaml.AliasNode:
			d.fail(value, field, "is an alias: write it out")
		default:
			out[key.Value] = value
			d.o.lines[field] = key.Line
		}
	}
	return out
}

func isNull(n *yaml.Node) bool { return n.Kind == yaml.ScalarNode && n.Tag == "!!null" }

func (d *decoder) text(fields map[string]*yaml.Node, name string) string {
	n := fields[name]
	if n == nil || isNull(n) {
		return ""
	}
	if n.Kind != yaml.ScalarNode || n.Tag != "!!str" {
		d.fail(n, name, "is not text: put it in quotes")
		return ""
	}
	return n.Value
}

// message reads a mapping into a protobuf message by the message's own fields.
func (d *decoder) message(n *yaml.Node, path string, m protoreflect.Message) {
	known := m.Descriptor().Fields()
	fields := d.mapping(n, path)
	for _, name := range sortedKeys(fields) {
		value, field := fields[name], path+"."+name
		var fd protoreflect.FieldDescriptor
		for i := range known.Len() {
			if fieldName(known.Get(i)) == name {
				fd = known.Get(i)
			}
		}
		switch {
		case fd == nil:
			d.fail(value, field, "no such field"+knownNames(known))
		case isNull(value):
		case fd.IsList():
			d.list(value, field, fd, m)
		default:
			if v, ok := d.value(value, field, fd, m.NewField); ok {
				m.Set(fd, v)
			}
		}
	}
}

func (d *decoder) list(n *yaml.Node, field string, fd protoreflect.FieldDescriptor, m protoreflect.Message) {
	if n.Kind != yaml.SequenceNode {
		d.fail(n, field, "is not a list")
		return
	}
	list := m.Mutable(fd).List()
	for i, item := range n.Content {
		at := fmt.Sprintf("%s[%d]", field, i)
		d.o.lines[at] = item.Line
		if item.Kind == yaml.AliasNode {
			d.fail(item, at, "is an alias: write it out")
		} else if v, ok := d.value(item, at, fd, func(protoreflect.FieldDescriptor) protoreflect.Value { return list.NewElement() }); ok {
			list.Append(v)
		}
	}
}

func (d *decoder) value(n *yaml.Node, field string, fd protoreflect.FieldDescriptor, empty func(protoreflect.FieldDescriptor) protoreflect.Value) (protoreflect.Value, bool) {
	none := protoreflect.Value{}
	if fd.Kind() == protoreflect.MessageKind {
		v := empty(fd)
		switch fd.Message().FullName() {
		case "google.protobuf.Duration":
			t, err := time.ParseDuration(n.Value)
			if n.Kind != yaml.ScalarNode || err != nil {
				d.fail(n, field, fmt.Sprintf("%q is not a duration such as 15m or 24h", n.Value))
				return none, false
			}
			proto.Merge(v.Message().Interface(), durationpb.New(t))
		case "google.protobuf.Timestamp":
			t, err := time.Parse(time.RFC3339Nano, n.Value)
			if n.Kind != yaml.ScalarNode || err != nil {
				d.fail(n, field, fmt.Sprintf("%q is not a time such as 2026-12-31T18:00:00Z", n.Value))
				return none, false
			}
			proto.Merge(v.Message().Interface(), timestamppb.New(t))
		default:
			d.message(n, field, v.Message())
		}
		return v, true
	}
	if n.Kind != yaml.ScalarNode {
		d.fail(n, field, "is not a single value")
		return none, false
	}
	switch fd.Kind() {
	case protoreflect.StringKind:
		if n.Tag != "!!str" {
			d.fail(n, field, fmt.Sprintf("%s is not text: put it in quotes", n.Value))
			return none, false
		}
		return protoreflect.ValueOfString(n.Value), true
	case protoreflect.BoolKind:
		b, err := strconv.ParseBool(n.Value)
		if n.Tag != "!!bool" || err != nil {
			d.fail(n, field, fmt.Sprintf("%q is neither true nor false", n.Value))
			return none, false
		}
		return protoreflect.ValueOfBool(b), true
	}
	d.fail(n, field, "cannot be declared in a file")
	return none, false
}

// fieldName is how files write a field. One is written as Kubernetes writes it.
func fieldName(fd protoreflect.FieldDescriptor) string {
	if fd.JSONName() == "nonResourceUrls" {
		return "nonResourceURLs"
	}
	return fd.JSONName()
}

func knownNames(fields protoreflect.FieldDescriptors) string {
	var names []string
	for i := range fields.Len() {
		names = append(names, fieldName(fields.Get(i)))
	}
	if len(names) == 0 {
		return ""
	}
	return ": there are " + strings.Join(names, ", ")
}

func sortedKeys(m map[string]*yaml.Node) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.SortFunc(keys, func(a, b string) int { return m[a].Line - m[b].Line })
	return keys
}

// specOf is the spec's message.
func specOf(r *apiv1.Resource) protoreflect.Message {
	m := r.ProtoReflect()
	fd := m.WhichOneof(m.Descriptor().Oneofs().ByName("spec"))
	return m.Mutable(fd).Message()
}
