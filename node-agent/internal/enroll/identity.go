package enroll

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	apiv1 "github.com/sallyport-mesh/sallyport/pkg/api/sallyport/v1"
	"github.com/sallyport-mesh/sallyport/pkg/apiclient"
	"github.com/sallyport-mesh/sallyport/pkg/identity"
	"github.com/sallyport-mesh/sallyport/pkg/pki"
)

// Files of an identity. enrolment.json is written last and read first.
const (
	keyFile        = "agent.key"
	checkpointFile = "checkpoint.key"
	enrolmentFile  = "enrolment.json"
)

// Enrolment is what the coordinator gave this agent. None of it is secret but
// AuthKey, which works once.
type Enrolment struct {
	// URL and Pin are the join token's: where the coordinator is, and its root.
	URL string `json:"url"`
	Pin string `json:"pin,omitempty"`

	// KubeSystemUID is the cluster's identity, to which the coordinator bound us.
	KubeSystemUID string `json:"kube_system_uid"`

	AgentID       string    `json:"agent_id"`
	ClusterID     string    `json:"cluster_id"`
	ClusterName   string    `json:"cluster_name"`
	ProjectName   string    `json:"project_name"`
	AgentChain    string    `json:"agent_chain_pem"`
	ServingChain  string    `json:"serving_chain_pem"`
	Root          string    `json:"root_pem"`
	TrustDomain   string    `json:"trust_domain"`
	AuthKey       string    `json:"auth_key"`
	ControlURL    string    `json:"control_url"`
	OverlayDomain string    `json:"overlay_domain"`
	PolicyKeys    [][]byte  `json:"policy_keys"`
	CosignerVKey  string    `json:"cosigner_vkey"`
	LogOrigin     string    `json:"log_origin"`
	Epoch         uint32    `json:"epoch"`
	IssuedAt      time.Time `json:"issued_at"`
	ExpiresAt     time.Time `json:"expires_at"`
}

// Identity is an enrolled agent's. Its methods may be called concurrently.
type Identity struct {
	dir     string
	version string
	key     *ecdsa.PrivateKey
	// Checkpoint is the secret key of the audit log's checkpoints.
	Checkpoint string

	mu      sync.Mutex
	e       Enrolment
	agent   *tls.Certificate
	serving *tls.Certificate
	client  *apiclient.Client
}

// Load reads the identity in dir. It is fs.ErrNotExist where there is none.
func Load(dir, version string) (*Identity, error) {
	raw, err := os.ReadFile(filepath.Join(dir, enrolmentFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fs.ErrNotExist
	}
	if err != nil {
		return nil, fmt.Errorf("loading identity: %w", err)
	}
	id := &Identity{dir: dir, version: version}
	dec := json.NewDecoder(bytes.NewReader(raw))
	if err := dec.Decode(&id.e); err != nil {
		return nil, fmt.Errorf("loading identity: %s: %w", filepath.Join(dir, enrolmentFile), err)
	}
	if id.key, err = pki.LoadKey(filepath.Join(dir, keyFile)); err != nil {
		return nil, fmt.Errorf("loading identity: %w", err)
	}
	checkpoint, err := os.ReadFile(filepath.Join(dir, checkpointFile))
	if err != nil {
		return nil, fmt.Errorf("loading identity: %w", err)
	}
	id.Checkpoint = string(bytes.TrimSuffix(checkpoint, []byte("\n")))
	if err := id.use(id.e); err != nil {
		return nil, fmt.Errorf("loading identity: %w", err)
	}
	return id, nil
}

// forgetKeys removes the keys of an enrolment that came to nothing. One that
// cannot be removed is used by the next.
func forgetKeys(dir string) {
	for _, f := range []string{keyFile, checkpointFile} {
		_ = os.Remove(filepath.Join(dir, f))
	}
}

func (id *Identity) saveEnrolment(e Enrolment) error {
	raw, err := json.MarshalIndent(e, "", "  ")
	if err != nil {
		return fmt.Errorf("saving identity: %w", err)
	}
	if err := pki.WriteFile(filepath.Join(id.dir, enrolmentFile), raw); err != nil {
		return fmt.Errorf("saving identity: %w", err)
	}
	return nil
}

// take checks an answer of the coordinator's and makes an Enrolment of it.
func take(link pki.Link, m *apiv1.EnrollAgentResponse, now time.Time) (Enrolment, error) {
	e := Enrolment{
		URL: link.URL, Pin: link.Pin,
		AgentID: m.AgentId, ClusterID: m.ClusterId, ClusterName: m.ClusterName, ProjectName: m.ProjectName,
		AgentChain: m.AgentChainPem, ServingChain: m.ServingChainPem, Root: m.RootPem, TrustDomain: m.TrustDomain,
		AuthKey: m.AuthKey, ControlURL: m.ControlUrl, OverlayDomain: m.OverlayDomain,
		PolicyKeys: m.PolicyKeys, CosignerVKey: m.CosignerVkey, LogOrigin: m.LogOrigin,
		IssuedAt: now, ExpiresAt: m.ExpiresAt.AsTime(),
	}
	switch {
	case !identity.IsID(identity.AgentID, e.AgentID), !identity.IsID(identity.Cluster, e.ClusterID), identity.CheckClusterName(e.ClusterName) != nil:
		return e, errors.New("the coordinator's answer names no agent of a cluster")
	case e.TrustDomain == "" || e.ControlURL == "" || e.OverlayDomain == "" || len(e.PolicyKeys) == 0 || e.CosignerVKey == "" || e.LogOrigin == "":
		return e, errors.New("the coordinator's answer is not complete")
	}
	if _, err := pki.ParseRoot([]byte(e.Root), link.Pin); err != nil {
		return e, fmt.Errorf("reading the coordinator's root: %w", err)
	}
	return e, nil
}

// use makes an enrolment the one in force: its certificates must be for our key
// and say who we are.
func (id *Identity) use(e Enrolment) error {
	agent, err := pki.Certificate([]byte(e.AgentChain), id.key)
	if err != nil {
		return fmt.Errorf("agent certificate: %w", err)
	}
	who, err := identity.ParseAgent(e.TrustDomain, agent.Leaf)
	if err != nil || who.AgentID != e.AgentID || who.ClusterID != e.ClusterID {
		return errors.New("agent certificate is for somebody else")
	}
	serving, err := pki.Certificate([]byte(e.ServingChain), id.key)
	if err != nil {
		return fmt.Errorf("serving certificate: %w", err)
	}
	id.mu.Lock()
	defer id.mu.Unlock()
	if id.client == nil {
		if id.client, err = newClient(pki.Link{URL: e.URL, Pin: e.Pin}, e.privateRoot(), id.version, id.certificate); err != nil {
			return err
		}
	}
	id.e, id.agent, id.serving = e, &agent, &serving
	return nil
}

// privateRoot is the coordinator's root where the token pinned one. Without a
// pin its certificate is a public one, and the machine's roots decide.
func (e Enrolment) privateRoot() []byte {
	if e.Pin == "" {
		return nil
	}
	return []byte(e.Root)
}

func newClient(link pki.Link, root []byte, version string, cert func() (*tls.Certificate, error)) (*apiclient.Client, error) {
	return apiclient.New(apiclient.Config{Link: link, RootPEM: root, Certificate: cert, Agent: "sallyport-agent/" + version})
}

func (id *Identity) certificate() (*tls.Certificate, error) {
	id.mu.Lock()
	defer id.mu.Unlock()
	return id.agent, nil
}

// Enrolment is the one in force.
func (id *Identity) Enrolment() Enrolment {
	id.mu.Lock()
	defer id.mu.Unlock()
	return id.e
}

// PrivateRoot is the coordinator's root certificate, empty where its certificate
// is a public one.
func (id *Identity) PrivateRoot() []byte {
	return id.Enrolment().privateRoot()
}

// ServingCertificate is what the proxy serves with.
func (id *Identity) ServingCertificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	id.mu.Lock()
	defer id.mu.Unlock()
	return id.serving, nil
}

// Client talks to the coordinator as this agent.
func (id *Identity) Client() *apiclient.Client {
	id.mu.Lock()
	defer id.mu.Unlock()
	return id.client
}
