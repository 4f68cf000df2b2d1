package daemon

import (
	"encoding/json"
	"fmt"
	"os"
	"time"

	"github.com/sallyport-mesh/sallyport/client/internal/kubeconfig"
	"github.com/sallyport-mesh/sallyport/client/internal/localapi"
	"github.com/sallyport-mesh/sallyport/client/internal/socks"
	"github.com/sallyport-mesh/sallyport/pkg/pki"
	"github.com/sallyport-mesh/sallyport/pkg/process"
	"github.com/sallyport-mesh/sallyport/pkg/profile"
)

// Contexts are the kubeconfig entries for the clusters that were open to the
// person when the coordinator was last heard. It needs no running daemon.
func Contexts(home profile.Home, command string) ([]kubeconfig.Entry, error) {
	p, err := home.LoadSession(time.Now())
	if err != nil {
		return nil, err
	}
	credentials, err := socks.Load(home.Path(SocksFile))
	if err != nil {
		return nil, process.Hint(fmt.Errorf("no daemon has run yet: %w", err), "sallyport up")
	}
	var entries []kubeconfig.Entry
	for _, c := range Remembered(home, p) {
		entries = append(entries, entry(home, command, p, credentials, c))
	}
	return entries, nil
}

// entry is a cluster as kubectl should see it.
func entry(home profile.Home, command string, p *profile.Profile, proxy socks.Credentials, c localapi.Cluster) kubeconfig.Entry {
	return kubeconfig.Entry{
		Cluster:   c.Name,
		Profile:   home.Name(),
		Server:    "https://" + c.ServerName,
		RootPEM:   p.RootPEM,
		ProxyURL:  proxy.URL(),
		Namespace: c.Namespace,
		Command:   command,
		Args:      []string{"credential", "--cluster", c.Name},
		Env:       home.Environment(),
	}
}

// memory is the list of clusters as last heard, for a start without coordinator.
type memory struct {
	User     string             `json:"user"`
	Clusters []localapi.Cluster `json:"clusters"`
}

func remember(home profile.Home, p *profile.Profile, clusters []localapi.Cluster) error {
	data, err := json.Marshal(memory{p.Session.UserID, clusters})
	if err != nil {
		return fmt.Errorf("encoding the list of clusters: %w", err)
	}
	return pki.WriteFile(home.Path(ClustersFile), data)
}

// Remembered is the list of clusters as last heard for this person; empty where
// nothing was.
func Remembered(home profile.Home, p *profile.Profile) []localapi.Cluster {
	data, err := os.ReadFile(home.Path(ClustersFile))
	if err != nil {
		return nil
	}
	var m memory
	if json.Unmarshal(data, &m) != nil || p.Session == nil || m.User != p.Session.UserID {
		return nil
	}
	return m.Clusters
}
