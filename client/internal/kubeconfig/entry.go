package kubeconfig

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"os"
	"strings"

	"go.yaml.in/yaml/v3"
)

const (
	// Prefix of the names of our contexts, clusters and users.
	Prefix = "sallyport/"

	extensionName = "sallyport.io"
)

// Entry is one cluster as kubectl should see it: a cluster, a user and a context
// of the same name.
type Entry struct {
	// Cluster is the cluster's name, Profile that of the coordinator's profile
	// where it is not the default one.
	Cluster, Profile string
	// Server is the URL on the overlay.
	Server string
	// RootPEM is what the agent's serving certificate comes from.
	RootPEM string
	// ProxyURL is the daemon's SOCKS5 listener with user and password.
	ProxyURL string
	// Namespace of a context that does not exist yet. One that does keeps its own.
	Namespace string
	// Command and Args run the credential plugin, Env is set for it.
	Command string
	Args    []string
	Env     map[string]string
}

// Name of the context.
func (e Entry) Name() string { return Name(e.Profile, e.Cluster) }

// Name is the context of a cluster: "sallyport/edge-1", and in a profile
// "sallyport/work/edge-1". Neither part holds a slash, so no two are the same.
func Name(profile, cluster string) string {
	if profile == "" {
		return Prefix + cluster
	}
	return Prefix + profile + "/" + cluster
}

type extension struct {
	Name      string `yaml:"name"`
	Extension struct {
		Home string `yaml:"home"`
	} `yaml:"extension"`
}

type clusterItem struct {
	Name    string `yaml:"name"`
	Cluster struct {
		CA         string      `yaml:"certificate-authority-data"`
		Extensions []extension `yaml:"extensions"`
		ProxyURL   string      `yaml:"proxy-url"`
		Server     string      `yaml:"server"`
	} `yaml:"cluster"`
}

type contextItem struct {
	Name    string `yaml:"name"`
	Context struct {
		Cluster    string      `yaml:"cluster"`
		Extensions []extension `yaml:"extensions"`
		Namespace  string      `yaml:"namespace,omitempty"`
		User       string      `yaml:"user"`
	} `yaml:"context"`
}

type envItem struct {
	Name  string `yaml:"name"`
	Value string `yaml:"value"`
}

type userItem struct {
	Name string `yaml:"name"`
	User struct {
		Exec struct {
			APIVersion         string    `yaml:"apiVersion"`
			Args               []string  `yaml:"args"`
			Command            string    `yaml:"command"`
			Env                []envItem `yaml:"env,omitempty"`
			InstallHint        string    `yaml:"installHint"`
			InteractiveMode    string    `yaml:"interactiveMode"`
			ProvideClusterInfo bool      `yaml:"provideClusterInfo"`
		} `yaml:"exec"`
		Extensions []extension `yaml:"extensions"`
	} `yaml:"user"`
}

// item renders e for one of the three lists.
func (e Entry) item(list, owner string) any {
	mark := extension{Name: extensionName}
	mark.Extension.Home = owner
	switch list {
	case "clusters":
		c := clusterItem{Name: e.Name()}
		c.Cluster.CA = base64.StdEncoding.EncodeToString([]byte(e.RootPEM))
		c.Cluster.Extensions = []extension{mark}
		c.Cluster.ProxyURL = e.ProxyURL
		c.Cluster.Server = e.Server
		return c
	case "contexts":
		c := contextItem{Name: e.Name()}
		c.Context.Cluster, c.Context.User = e.Name(), e.Name()
		c.Context.Extensions = []extension{mark}
		c.Context.Namespace = e.Namespace
		return c
	default:
		u := userItem{Name: e.Name()}
		x := &u.User.Exec
		x.APIVersion = "client.authentication.k8s.io/v1"
		x.Command, x.Args = e.Command, e.Args
		for _, k := range sortedKeys(e.Env) {
			x.Env = append(x.Env, envItem{k, e.Env[k]})
		}
		x.InstallHint = "this context belongs to sallyport: run 'sallyport login', or 'sallyport logout' to remove it"
		x.InteractiveMode = "Never"
		u.User.Extensions = []extension{mark}
		return u
	}
}

// Render is a kubeconfig file with nothing but entries in it.
func Render(entries []Entry, owner string) ([]byte, error) {
	out, _, err := edit(nil, owner, entries)
	return out, err
}

// render is items as a block sequence whose dashes stand indent columns in.
func render(items []any, indent int) (string, error) {
	if len(items) == 0 {
		return "", nil
	}
	var b bytes.Buffer
	enc := yaml.NewEncoder(&b)
	enc.SetIndent(2)
	enc.CompactSeqIndent()
	if err := enc.Encode(items); err != nil {
		return "", fmt.Errorf("encoding kubeconfig entries: %w", err)
	}
	if err := enc.Close(); err != nil {
		return "", fmt.Errorf("encoding kubeconfig entries: %w", err)
	}
	pad := strings.Repeat(" ", indent)
	var out strings.Builder
	for line := range strings.Lines(b.String()) {
		out.WriteString(pad + line)
	}
	return out.String(), nil
}

// owned reports whether an item of the list belongs to owner: by its name, and by
// an extension that names this home, or one that is no more.
func owned(item *yaml.Node, list, owner string) bool {
	if !strings.HasPrefix(itemName(item), Prefix) {
		return false
	}
	body := value(item, strings.TrimSuffix(list, "s"))
	exts := value(body, "extensions")
	if exts == nil || exts.Kind != yaml.SequenceNode {
		return false
	}
	for _, x := range exts.Content {
		home := value(value(x, "extension"), "home")
		if n := value(x, "name"); n == nil || n.Value != extensionName || home == nil {
			continue
		}
		if home.Value == owner {
			return true
		}
		if _, err := os.Stat(home.Value); os.IsNotExist(err) {
			return true
		}
	}
	return false
}

func itemName(item *yaml.Node) string {
	if n := value(item, "name"); n != nil {
		return n.Value
	}
	return ""
}

// value is what a mapping holds under key, or nil.
func value(n *yaml.Node, key string) *yaml.Node {
	if n == nil || n.Kind != yaml.MappingNode {
		return nil
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == key {
			return n.Content[i+1]
		}
	}
	return nil
}
