package kubeconfig

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"reflect"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

var lists = []string{"clusters", "contexts", "users"}

// Change is what an edit did, by names of contexts.
type Change struct {
	Added, Removed []string
	// Blocked are names that an entry which is not ours holds already.
	Blocked []string
}

const header = "apiVersion: v1\nkind: Config\npreferences: {}\ncurrent-context: \"\"\n"

// edit returns data with exactly the wanted entries as the owner's. It changes
// nothing else, and fails rather than guess.
func edit(data []byte, owner string, want []Entry) ([]byte, Change, error) {
	if len(bytes.TrimSpace(data)) == 0 {
		data = []byte(header)
	}
	root, err := parse(data)
	if err != nil {
		return nil, Change{}, err
	}
	want, change := plan(root, owner, want)
	expected, err := expectation(root, owner, want)
	if err != nil {
		return nil, Change{}, err
	}

	if is, err := meaning(root); err == nil && reflect.DeepEqual(is, expected) {
		return data, change, nil
	}
	for _, way := range []func([]byte, string, []Entry) ([]byte, error){editText, editTree} {
		out, err := way(data, owner, want)
		if err != nil {
			continue
		}
		after, err := parse(out)
		if err != nil {
			continue
		}
		if got, err := meaning(after); err == nil && reflect.DeepEqual(got, expected) {
			return out, change, nil
		}
	}
	return nil, Change{}, errors.New("cannot edit this kubeconfig without changing what is there")
}

func parse(data []byte) (*yaml.Node, error) {
	dec := yaml.NewDecoder(bytes.NewReader(data))
	var doc, more yaml.Node
	if err := dec.Decode(&doc); errors.Is(err, io.EOF) {
		return &yaml.Node{Kind: yaml.MappingNode, Tag: "!!map"}, nil // nothing but comments
	} else if err != nil {
		return nil, fmt.Errorf("parsing kubeconfig: %w", err)
	}
	if err := dec.Decode(&more); !errors.Is(err, io.EOF) {
		return nil, errors.New("parsing kubeconfig: it holds more than one document")
	}
	if doc.Kind != yaml.DocumentNode || len(doc.Content) != 1 || doc.Content[0].Kind != yaml.MappingNode {
		return nil, errors.New("parsing kubeconfig: it is no mapping")
	}
	root := doc.Content[0]
	for _, list := range lists {
		if v := value(root, list); v != nil && v.Kind != yaml.SequenceNode && v.Tag != "!!null" {
			return nil, fmt.Errorf("parsing kubeconfig: %s is no list", list)
		}
	}
	return root, nil
}

// plan drops wanted entries whose name somebody else holds, and lets contexts
// that exist keep the namespace that they have.
func plan(root *yaml.Node, owner string, want []Entry) ([]Entry, Change) {
	var change Change
	ours, foreign := map[string]bool{}, map[string]bool{}
	namespaces := map[string]string{}
	for _, list := range lists {
		for _, item := range items(root, list) {
			name := itemName(item)
			if !owned(item, list, owner) {
				foreign[name] = true
				continue
			}
			if list == "contexts" {
				ours[name] = true
				if ns := value(value(item, "context"), "namespace"); ns != nil {
					namespaces[name] = ns.Value
				}
			}
		}
	}
	var keep []Entry
	for _, e := range slices.SortedFunc(slices.Values(want), func(a, b Entry) int { return strings.Compare(a.Cluster, b.Cluster) }) {
		name := e.Name()
		if foreign[name] {
			change.Blocked = append(change.Blocked, name)
			continue
		}
		if ours[name] {
			e.Namespace = namespaces[name]
		} else {
			change.Added = append(change.Added, name)
		}
		delete(ours, name)
		keep = append(keep, e)
	}
	change.Removed = sortedKeys(ours)
	return keep, change
}

func items(root *yaml.Node, list string) []*yaml.Node {
	if v := value(root, list); v != nil && v.Kind == yaml.SequenceNode {
		return v.Content
	}
	return nil
}

// content is a kubeconfig by meaning: the three lists, ordered by name (which
// kubectl does too), and everything else.
type content struct {
	rest  map[string]any
	lists map[string][]any
}

func meaning(root *yaml.Node) (content, error) {
	return filtered(root, func(*yaml.Node, string) bool { return true })
}

// expectation is what the edited file has to mean: all that is not the owner's,
// and the wanted entries.
func expectation(root *yaml.Node, owner string, want []Entry) (content, error) {
	c, err := filtered(root, func(item *yaml.Node, list string) bool { return !owned(item, list, owner) })
	if err != nil {
		return content{}, err
	}
	for _, list := range lists {
		for _, e := range want {
			var n yaml.Node
			var v any
			if err := n.Encode(e.item(list, owner)); err != nil {
				return content{}, fmt.Errorf("encoding kubeconfig entry: %w", err)
			}
			if err := n.Decode(&v); err != nil {
				return content{}, fmt.Errorf("encoding kubeconfig entry: %w", err)
			}
			c.lists[list] = append(c.lists[list], v)
		}
		slices.SortStableFunc(c.lists[list], byName)
	}
	return c, nil
}

func filtered(root *yaml.Node, keep func(item *yaml.Node, list string) bool) (content, error) {
	c := content{rest: map[string]any{}, lists: map[string][]any{}}
	if err := root.Decode(&c.rest); err != nil {
		return content{}, fmt.Errorf("parsing kubeconfig: %w", err)
	}
	for _, list := range lists {
		delete(c.rest, list)
		for _, item := range items(root, list) {
			if !keep(item, list) {
				continue
			}
			var v any
			if err := item.Decode(&v); err != nil {
				return content{}, fmt.Errorf("parsing kubeconfig: %w", err)
			}
			c.lists[list] = append(c.lists[list], v)
		}
		slices.SortStableFunc(c.lists[list], byName)
	}
	return c, nil
}

func byName(a, b any) int { return strings.Compare(nameOf(a), nameOf(b)) }

func nameOf(v any) string {
	m, _ := v.(map[string]any)
	s, _ := m["name"].(string)
	return s
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
