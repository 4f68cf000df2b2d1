package kubeconfig

import (
	"bytes"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

var errLayout = errors.New("the kubeconfig is laid out in a way that is not edited as text")

var (
	bareKey  = regexp.MustCompile(`^[a-z]+:[ ]*(#.*)?$`)
	emptyKey = regexp.MustCompile(`^[a-z]+:[ ]*(\[[ ]*\]|null|~)[ ]*(#.*)?$`)
)

// editText cuts the owner's items out of the text and puts the wanted ones in.
// It trusts only the plain layout that kubectl and people write; for any other it
// fails, and whatever it does is checked by edit.
func editText(data []byte, owner string, want []Entry) ([]byte, error) {
	if bytes.ContainsAny(data, "\r\t") {
		return nil, errLayout
	}
	if n := len(data); data[n-1] != '\n' {
		data = append(slices.Clip(data), '\n')
	}
	root, err := parse(data)
	if err != nil {
		return nil, err
	}
	if root.Style&yaml.FlowStyle != 0 {
		return nil, errLayout
	}
	t := text{lines: slices.Collect(strings.Lines(string(data)))}
	t.cut = make([]bool, len(t.lines))
	t.after = make([]string, len(t.lines)+1)

	for _, list := range lists {
		var wanted []any
		for _, e := range want {
			wanted = append(wanted, e.item(list, owner))
		}
		key, seq := field(root, list)
		if err := t.list(list, owner, key, seq, wanted); err != nil {
			return nil, err
		}
	}
	return t.bytes(), nil
}

// text is a file by lines (counted from 1, as yaml.Node does) and what to do.
type text struct {
	lines []string
	cut   []bool   // by line-1: leave out
	after []string // by line: put in behind it; 0 is the beginning
}

func (t *text) list(list, owner string, key, seq *yaml.Node, wanted []any) error {
	switch {
	case key == nil:
		if len(wanted) == 0 {
			return nil
		}
		s, err := render(wanted, 0)
		t.after[len(t.lines)] += list + ":\n" + s
		return err
	case key.Column != 1:
		return errLayout
	case seq.Kind != yaml.SequenceNode || len(seq.Content) == 0: // absent, null or []
		line := strings.TrimSuffix(t.lines[key.Line-1], "\n")
		if len(wanted) == 0 {
			return nil
		}
		if !bareKey.MatchString(line) && !emptyKey.MatchString(line) {
			return errLayout
		}
		s, err := render(wanted, 0)
		t.cut[key.Line-1] = true
		t.after[key.Line] += list + ":\n" + s
		return err
	case seq.Style&yaml.FlowStyle != 0 || !bareKey.MatchString(strings.TrimSuffix(t.lines[key.Line-1], "\n")):
		return errLayout
	}
	return t.sequence(list, owner, key, seq, wanted)
}

func (t *text) sequence(list, owner string, key, seq *yaml.Node, wanted []any) error {
	indent := seq.Column - 1
	kept, last := 0, key.Line
	for _, item := range seq.Content {
		if item.Kind != yaml.MappingNode || item.Style&yaml.FlowStyle != 0 || !strings.HasPrefix(t.lines[item.Line-1], strings.Repeat(" ", indent)+"- ") {
			return errLayout
		}
		end := t.end(item, indent)
		if !owned(item, list, owner) {
			kept++
			last = end
			continue
		}
		for l := item.Line; l <= end; l++ {
			t.cut[l-1] = true
		}
	}
	s, err := render(wanted, indent)
	if err != nil {
		return err
	}
	if kept == 0 && len(wanted) == 0 {
		t.cut[key.Line-1] = true
		s = fmt.Sprintf("%s: []\n", list)
	}
	t.after[last] += s
	return nil
}

// end is the last line of an item: as far as its nodes reach, and from there
// every line that is indented deeper than its dash (a scalar over many lines).
func (t *text) end(item *yaml.Node, indent int) int {
	end := deepest(item)
	for end < len(t.lines) {
		line := t.lines[end]
		trimmed := strings.TrimLeft(line, " ")
		if trimmed == "\n" || trimmed[0] == '#' || len(line)-len(trimmed) <= indent {
			break
		}
		end++
	}
	return end
}

func deepest(n *yaml.Node) int {
	line := n.Line
	for _, c := range n.Content {
		line = max(line, deepest(c))
	}
	return line
}

func (t *text) bytes() []byte {
	var b bytes.Buffer
	b.WriteString(t.after[0])
	for i, line := range t.lines {
		if !t.cut[i] {
			b.WriteString(line)
		}
		b.WriteString(t.after[i+1])
	}
	return b.Bytes()
}

// field is a mapping's key and value nodes, or nil.
func field(n *yaml.Node, key string) (k, v *yaml.Node) {
	if n.Kind != yaml.MappingNode {
		return nil, nil
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == key {
			return n.Content[i], n.Content[i+1]
		}
	}
	return nil, nil
}

// editTree does the same on the parsed tree and writes the whole anew.
func editTree(data []byte, owner string, want []Entry) ([]byte, error) {
	root, err := parse(data)
	if err != nil {
		return nil, err
	}
	for _, list := range lists {
		_, seq := field(root, list)
		if seq == nil {
			seq = &yaml.Node{}
			root.Content = append(root.Content, &yaml.Node{Kind: yaml.ScalarNode, Value: list}, seq)
		}
		if seq.Kind != yaml.SequenceNode {
			*seq = yaml.Node{Kind: yaml.SequenceNode, Tag: "!!seq"}
		}
		seq.Content = slices.DeleteFunc(seq.Content, func(item *yaml.Node) bool { return owned(item, list, owner) })
		for _, e := range want {
			n := new(yaml.Node)
			if err := n.Encode(e.item(list, owner)); err != nil {
				return nil, fmt.Errorf("encoding kubeconfig entry: %w", err)
			}
			seq.Content = append(seq.Content, n)
		}
	}
	return write(root)
}
