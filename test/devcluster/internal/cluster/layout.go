package cluster

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"regexp"
)

// Options say which cluster.
type Options struct {
	// Dir holds everything of the cluster; it is made when absent.
	Dir string
	// Name is the cluster's name in kubeconfig contexts. A DNS label.
	Name string
	// NodeName defaults to Name + "-node".
	NodeName string
}

// Files in the cluster's directory that are for others to read.
const (
	AdminKubeconfig = "admin.kubeconfig"
	AuditLog        = "audit.log"
	// ProcessFile maps each component's name to its process id, for tests that stop one.
	ProcessFile = "processes.json"
	stateFile   = "devcluster.json"
	nodeDir     = "node"
	logDir      = "logs"
)

var dnsLabel = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]{0,50}[a-z0-9])?$`)

func (o *Options) check() error {
	if o.Dir == "" {
		return errors.New("no directory given")
	}
	abs, err := filepath.Abs(o.Dir)
	if err != nil {
		return fmt.Errorf("resolving directory: %w", err)
	}
	o.Dir = abs
	if !dnsLabel.MatchString(o.Name) {
		return fmt.Errorf("cluster name %q is not a DNS label", o.Name)
	}
	if o.NodeName == "" {
		o.NodeName = o.Name + "-node"
	}
	if !dnsLabel.MatchString(o.NodeName) {
		return fmt.Errorf("node name %q is not a DNS label", o.NodeName)
	}
	return nil
}

func (o Options) path(name ...string) string {
	return filepath.Join(append([]string{o.Dir}, name...)...)
}

// state is what a cluster keeps from one start to the next.
type state struct {
	Name          string `json:"name"`
	NodeName      string `json:"nodeName"`
	APIServerPort int    `json:"apiServerPort"`
	KubeletPort   int    `json:"kubeletPort"`
}

func (s state) apiServer() string { return fmt.Sprintf("https://127.0.0.1:%d", s.APIServerPort) }

// open reads the directory's state. It is the last thing a first start writes, so a directory
// without it holds nothing worth keeping.
func (o Options) open() (state, bool, error) {
	raw, err := os.ReadFile(o.path(stateFile))
	if errors.Is(err, fs.ErrNotExist) {
		return state{}, false, nil
	}
	if err != nil {
		return state{}, false, fmt.Errorf("reading cluster state: %w", err)
	}
	var s state
	if err := json.Unmarshal(raw, &s); err != nil {
		return state{}, false, fmt.Errorf("parsing %s: %w", o.path(stateFile), err)
	}
	if s.Name != o.Name || s.NodeName != o.NodeName {
		return state{}, false, fmt.Errorf("%s holds cluster %s with node %s, not %s with node %s",
			o.Dir, s.Name, s.NodeName, o.Name, o.NodeName)
	}
	return s, true, nil
}

// create makes keys and kubeconfigs for a new cluster, then its state file.
func (o Options) create(s state) error {
	for _, dir := range []string{pkiDir, nodeDir, etcdDir} {
		if err := os.RemoveAll(o.path(dir)); err != nil {
			return fmt.Errorf("clearing %s: %w", dir, err)
		}
		if err := os.MkdirAll(o.path(dir), 0o700); err != nil {
			return fmt.Errorf("making %s: %w", dir, err)
		}
	}
	if err := o.writePKI(s); err != nil {
		return err
	}
	if err := o.writeKubeconfigs(s); err != nil {
		return err
	}
	raw, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return fmt.Errorf("encoding cluster state: %w", err)
	}
	return writeFile(o.path(stateFile), append(raw, '\n'))
}

// writeFile replaces a file as a whole, readable by its owner alone.
func writeFile(path string, content []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*")
	if err != nil {
		return fmt.Errorf("making %s: %w", path, err)
	}
	_, err = f.Write(content)
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		_ = os.Remove(f.Name())
		return fmt.Errorf("writing %s: %w", path, err)
	}
	return nil
}

// The ports lie under those that Linux and macOS hand out by themselves, so that a cluster that
// starts again finds its own still free.
const firstPort, lastPort = 20000, 31999

// listen opens port on loopback, or any free one when port is 0.
func listen(port int) (*net.TCPListener, error) {
	if port != 0 {
		return net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: port})
	}
	var last error
	for range 200 {
		p := firstPort + rand.IntN(lastPort-firstPort+1)
		l, err := net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: p})
		if err == nil {
			return l, nil
		}
		last = err
	}
	return nil, fmt.Errorf("finding a free port: %w", last)
}
