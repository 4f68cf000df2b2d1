package ctl

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/urfave/cli/v2"
	"go.yaml.in/yaml/v3"

	apiv1 "github.com/sallyport-mesh/sallyport/pkg/api/sallyport/v1"
	"github.com/sallyport-mesh/sallyport/pkg/process"
)

// maxRoleFile bounds a role's file, in bytes.
const maxRoleFile = 1 << 20

// roleFile is a role as people write it: a Kubernetes ClusterRole, whose
// apiVersion, kind and metadata may be left out, and a deny that Kubernetes does
// not have.
type roleFile struct {
	APIVersion  string         `yaml:"apiVersion,omitempty"`
	Kind        string         `yaml:"kind,omitempty"`
	Metadata    map[string]any `yaml:"metadata,omitempty"`
	Description string         `yaml:"description,omitempty"`
	Rules       []ruleInFile   `yaml:"rules"`
}

type ruleInFile struct {
	Deny            bool     `yaml:"deny,omitempty"`
	APIGroups       []string `yaml:"apiGroups,omitempty,flow"`
	Resources       []string `yaml:"resources,omitempty,flow"`
	ResourceNames   []string `yaml:"resourceNames,omitempty,flow"`
	NonResourceURLs []string `yaml:"nonResourceURLs,omitempty,flow"`
	Verbs           []string `yaml:"verbs,omitempty,flow"`
}

func roleFromFile(c *cli.Context) (*apiv1.Role, error) {
	path := c.String("file")
	if path == "" {
		return nil, usage(c, errors.New("--file is missing"))
	}
	raw, err := readRoleFile(c, path)
	if err != nil {
		return nil, process.Hint(fmt.Errorf("reading the role: %w", err), "sallyportctl role show edit prints one to begin with")
	}
	r, err := readRole(raw)
	if err != nil {
		return nil, process.Hint(fmt.Errorf("reading the role in %s: %w", path, err), "sallyportctl role show edit prints one to begin with")
	}
	r.Name = c.Args().First()
	return r, nil
}

func readRoleFile(c *cli.Context, path string) ([]byte, error) {
	in := c.App.Reader
	if path != "-" {
		f, err := os.Open(path)
		if err != nil {
			return nil, err
		}
		defer func() { _ = f.Close() }() // read only
		in = f
	}
	raw, err := io.ReadAll(io.LimitReader(in, maxRoleFile+1))
	if err == nil && len(raw) > maxRoleFile {
		err = fmt.Errorf("%s is larger than 1 MiB", path)
	}
	return raw, err
}

// readRole reads one YAML document. A key that is not known is an error: a
// misspelt deny or resourceNames would widen what the rule allows.
func readRole(raw []byte) (*apiv1.Role, error) {
	d := yaml.NewDecoder(bytes.NewReader(raw))
	d.KnownFields(true)
	var f roleFile
	if err := d.Decode(&f); errors.Is(err, io.EOF) {
		return nil, errors.New("it is empty")
	} else if err != nil {
		return nil, err
	}
	if err := d.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return nil, errors.New("it holds more than one document")
	}
	switch f.Kind {
	case "", "ClusterRole", "Role":
	default:
		return nil, fmt.Errorf("it is a %s, not a role", f.Kind)
	}
	r := &apiv1.Role{Description: f.Description}
	for _, x := range f.Rules {
		r.Rules = append(r.Rules, &apiv1.Rule{
			Deny: x.Deny, ApiGroups: x.APIGroups, Resources: x.Resources, ResourceNames: x.ResourceNames,
			NonResourceUrls: x.NonResourceURLs, Verbs: x.Verbs,
		})
	}
	return r, nil
}

func writeRole(r *apiv1.Role) ([]byte, error) {
	f := roleFile{Description: r.GetDescription()}
	for _, x := range r.GetRules() {
		f.Rules = append(f.Rules, ruleInFile{
			Deny: x.GetDeny(), APIGroups: x.GetApiGroups(), Resources: x.GetResources(), ResourceNames: x.GetResourceNames(),
			NonResourceURLs: x.GetNonResourceUrls(), Verbs: x.GetVerbs(),
		})
	}
	var out bytes.Buffer
	e := yaml.NewEncoder(&out)
	e.SetIndent(2)
	if err := e.Encode(f); err != nil {
		return nil, fmt.Errorf("writing role %s: %w", r.GetName(), err)
	}
	return out.Bytes(), nil
}
