package kubeconfig

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"reflect"
	"strings"

	"go.yaml.in/yaml/v3"
)

// ErrNoContext says that the file holds no context of ours under a name.
var ErrNoContext = errors.New("the kubeconfig holds no such context of ours")

// Current is the context that kubectl uses when it is told nothing, ours or not;
// empty where there is none.
func (f File) Current() (string, error) {
	data, err := read(f.Path)
	if err != nil || len(bytes.TrimSpace(data)) == 0 {
		return "", err
	}
	root, err := parse(data)
	if err != nil {
		return "", fmt.Errorf("%s: %w", f.Path, err)
	}
	if v := value(root, currentContext); v != nil {
		return v.Value, nil
	}
	return "", nil
}

const currentContext = "current-context"

// Use makes a context of the owner's the current one, and a namespace that is not
// empty that context's. Everything else stays as it is.
func (f File) Use(ctx context.Context, name, namespace string) error {
	return f.change(ctx, func(data []byte) ([]byte, error) {
		if len(bytes.TrimSpace(data)) == 0 {
			return nil, ErrNoContext
		}
		return use(data, f.Owner, name, namespace)
	})
}

func use(data []byte, owner, name, namespace string) ([]byte, error) {
	root, err := parse(data)
	if err != nil {
		return nil, err
	}
	if ours(root, owner, name) == nil {
		return nil, ErrNoContext
	}
	before, err := meaning(root)
	if err != nil {
		return nil, err
	}
	for _, way := range []func([]byte, string, string, string) ([]byte, error){useText, useTree} {
		out, err := way(data, owner, name, namespace)
		if err != nil {
			continue
		}
		after, err := parse(out)
		if err != nil {
			continue
		}
		if got, err := meaning(after); err == nil && chosen(before, got, name, namespace) {
			return out, nil
		}
	}
	return nil, errors.New("cannot edit this kubeconfig without changing what is there")
}

// ours is the owner's context of that name, or nil.
func ours(root *yaml.Node, owner, name string) *yaml.Node {
	for _, item := range items(root, "contexts") {
		if itemName(item) == name && owned(item, "contexts", owner) {
			return value(item, "context")
		}
	}
	return nil
}

// chosen reports whether after is before with the context chosen and nothing else
// changed.
func chosen(before, after content, name, namespace string) bool {
	if after.rest[currentContext] != name {
		return false
	}
	was := before.rest[currentContext]
	before.rest[currentContext] = name
	defer func() { before.rest[currentContext] = was }()
	for i, v := range before.lists["contexts"] {
		if nameOf(v) != name || namespace == "" || i >= len(after.lists["contexts"]) {
			continue
		}
		now, _ := after.lists["contexts"][i].(map[string]any)
		body, _ := now["context"].(map[string]any)
		old, _ := v.(map[string]any)["context"].(map[string]any)
		if body["namespace"] != namespace || old == nil {
			return false
		}
		had, has := old["namespace"]
		old["namespace"] = namespace
		defer func() {
			if delete(old, "namespace"); has {
				old["namespace"] = had
			}
		}()
	}
	return reflect.DeepEqual(before, after)
}

// useText changes the lines in question, where the file is laid out as kubectl or
// people do it.
func useText(data []byte, owner, name, namespace string) ([]byte, error) {
	if bytes.ContainsAny(data, "\r\t") {
		return nil, errLayout
	}
	if data[len(data)-1] != '\n' {
		data = append(bytes.Clone(data), '\n')
	}
	root, err := parse(data)
	if err != nil || root.Style&yaml.FlowStyle != 0 {
		return nil, errors.Join(errLayout, err)
	}
	var lines []string
	for line := range strings.Lines(string(data)) {
		lines = append(lines, line)
	}
	if err := setLine(lines, root, currentContext, name); err != nil {
		return nil, err
	}
	if namespace != "" {
		body := ours(root, owner, name)
		if body.Style&yaml.FlowStyle != 0 {
			return nil, errLayout
		}
		if err := setLine(lines, body, "namespace", namespace); err != nil {
			return nil, err
		}
	}
	return []byte(strings.Join(lines, "")), nil
}

// setLine puts "key: v" in the line where a mapping has it, or before its first.
func setLine(lines []string, mapping *yaml.Node, key, v string) error {
	said, err := yaml.Marshal(v) // in quotes where it needs them
	if err != nil {
		return err
	}
	line := fmt.Sprintf("%s: %s\n", key, strings.TrimSpace(string(said)))
	k, old := field(mapping, key)
	switch {
	case k == nil && len(mapping.Content) == 0:
		return errLayout
	case k == nil:
		first := mapping.Content[0]
		pad := lines[first.Line-1][:first.Column-1]
		if strings.TrimSpace(pad) != "" {
			return errLayout
		}
		lines[first.Line-1] = pad + line + lines[first.Line-1]
	case old.Line != k.Line || old.Kind != yaml.ScalarNode || old.Style&(yaml.LiteralStyle|yaml.FoldedStyle) != 0:
		return errLayout
	default:
		pad := lines[k.Line-1][:k.Column-1]
		if strings.TrimSpace(pad) != "" {
			return errLayout
		}
		lines[k.Line-1] = pad + line
	}
	return nil
}

// useTree does the same on the parsed tree and writes the whole anew.
func useTree(data []byte, owner, name, namespace string) ([]byte, error) {
	root, err := parse(data)
	if err != nil {
		return nil, err
	}
	setValue(root, currentContext, name)
	if namespace != "" {
		setValue(ours(root, owner, name), "namespace", namespace)
	}
	return write(root)
}

func setValue(mapping *yaml.Node, key, v string) {
	n := &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: v}
	if _, old := field(mapping, key); old != nil {
		*old = *n
		return
	}
	mapping.Content = append(mapping.Content, &yaml.Node{Kind: yaml.ScalarNode, Value: key}, n)
}

func write(root *yaml.Node) ([]byte, error) {
	var b bytes.Buffer
	enc := yaml.NewEncoder(&b)
	enc.SetIndent(2)
	enc.CompactSeqIndent()
	if err := enc.Encode(root); err != nil {
		return nil, fmt.Errorf("encoding kubeconfig: %w", err)
	}
	return b.Bytes(), enc.Close()
}
