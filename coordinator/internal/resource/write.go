package resource

import (
	"bytes"
	"fmt"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	apiv1 "github.com/sallyport-mesh/sallyport/pkg/api/sallyport/v1"
)

// Kind is the kind of a resource as files name it.
func Kind(r *apiv1.Resource) string {
	m := r.ProtoReflect()
	if fd := m.WhichOneof(m.Descriptor().Oneofs().ByName("spec")); fd != nil {
		return strings.ToUpper(string(fd.Name()[:1])) + string(fd.Name()[1:])
	}
	return ""
}

// Write is a resource as one document, without the line that parts documents.
// Equal resources are equal bytes.
func Write(r *apiv1.Resource) ([]byte, error) {
	doc := mappingNode()
	add(doc, "apiVersion", textNode(APIVersion))
	add(doc, "kind", textNode(Kind(r)))
	if r.Name != "" {
		metadata := mappingNode()
		add(metadata, "name", textNode(r.Name))
		add(doc, "metadata", metadata)
	}
	spec := messageNode(specOf(r))
	if len(spec.Content) == 0 {
		spec.Style = yaml.FlowStyle
	}
	add(doc, "spec", spec)
	var out bytes.Buffer
	enc := yaml.NewEncoder(&out)
	enc.SetIndent(2)
	if err := enc.Encode(doc); err != nil {
		return nil, fmt.Errorf("writing %s %s: %w", Kind(r), r.Name, err)
	}
	return out.Bytes(), enc.Close()
}

func mappingNode() *yaml.Node { return &yaml.Node{Kind: yaml.MappingNode} }

// textNode is quoted where it would read as something else.
func textNode(s string) *yaml.Node {
	n := &yaml.Node{}
	n.SetString(s)
	n.Tag = "!!str"
	return n
}

func add(m *yaml.Node, name string, value *yaml.Node) {
	m.Content = append(m.Content, textNode(name), value)
}

// messageNode holds the fields that are set, in the order of their numbers.
func messageNode(m protoreflect.Message) *yaml.Node {
	out := mappingNode()
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		fd := fields.Get(i)
		if !m.Has(fd) {
			continue
		}
		if !fd.IsList() {
			add(out, fieldName(fd), valueNode(fd, m.Get(fd)))
			continue
		}
		list, items := m.Get(fd).List(), &yaml.Node{Kind: yaml.SequenceNode}
		if fd.Kind() != protoreflect.MessageKind && list.Len() <= 8 && fd.Name() != "members" {
			items.Style = yaml.FlowStyle
		}
		for j := range list.Len() {
			items.Content = append(items.Content, valueNode(fd, list.Get(j)))
		}
		add(out, fieldName(fd), items)
	}
	return out
}

func valueNode(fd protoreflect.FieldDescriptor, v protoreflect.Value) *yaml.Node {
	switch fd.Kind() {
	case protoreflect.MessageKind:
		switch m := v.Message().Interface().(type) {
		case *durationpb.Duration:
			return textNode(Duration(m.AsDuration()))
		case *timestamppb.Timestamp:
			// A plain timestamp in YAML is a time already.
			return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!timestamp", Value: m.AsTime().UTC().Format(time.RFC3339Nano)}
		}
		return messageNode(v.Message())
	case protoreflect.BoolKind:
		return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!bool", Value: fmt.Sprint(v.Bool())}
	}
	return textNode(v.String())
}

// Duration is a duration as people write it: 4h, 15m, not 4h0m0s.
func Duration(d time.Duration) string {
	s := d.String()
	if short, ok := strings.CutSuffix(s, "m0s"); ok {
		s = short + "m"
	}
	if short, ok := strings.CutSuffix(s, "h0m"); ok {
		s = short + "h"
	}
	return s
}
