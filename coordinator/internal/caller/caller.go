// Package caller says who makes a request at the coordinator's TLS port.
//
// TLS has verified a client certificate that was offered against the issuing
// certificates of users and agents; this package reads it strictly, tells one
// kind from the other by who issued it, and holds it against the directory as
// it is at this request: a certificate outlives its session's revocation, a
// connection outlives its certificate, and neither may be believed then.
// Each service asks for the kind it takes; everyone else is nobody.
package caller

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/sallyport-mesh/sallyport/coordinator/internal/directory"
	apiv1 "github.com/sallyport-mesh/sallyport/pkg/api/sallyport/v1"
	"github.com/sallyport-mesh/sallyport/pkg/identity"
)

// Caller is who calls. Exactly one of Session, Agent and Local is set, or none.
type Caller struct {
	// User, Device and Session of a user's certificate.
	User    *apiv1.User
	Device  *apiv1.Device
	Session *apiv1.Session
	// Agent and its cluster of an agent's certificate.
	Agent   *apiv1.Agent
	Cluster *apiv1.Cluster
	// Local says that the call came over the bootstrap socket, from this uid.
	Local    bool
	LocalUID uint32

	Addr   string
	Serial string
	// Refused says why a certificate that was offered is not believed.
	Refused error
}

// ErrNone says that no client certificate was offered.
var ErrNone = errors.New("no client certificate: log in first")

// Config says what to hold certificates against.
type Config struct {
	TrustDomain string
	// UserCA and AgentCA are the issuing certificates, DER.
	UserCA, AgentCA [][]byte
	Snapshot        func() *directory.Snapshot
	Now             func() time.Time
}

// Pool is what TLS verifies offered certificates against.
func (cfg Config) Pool() (*x509.CertPool, error) {
	pool := x509.NewCertPool()
	for _, der := range append(append([][]byte(nil), cfg.UserCA...), cfg.AgentCA...) {
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, fmt.Errorf("reading issuing certificate: %w", err)
		}
		pool.AddCert(cert)
	}
	return pool, nil
}

// Identify wraps h so that From works below it.
func (cfg Config) Identify(h http.Handler) http.Handler {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c := cfg.read(r.TLS)
		c.Addr = r.RemoteAddr
		h.ServeHTTP(w, r.WithContext(With(r.Context(), c)))
	})
}

// Local wraps h for the bootstrap socket, whose peer has been checked.
func Local(uid uint32, h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c := &Caller{Local: true, LocalUID: uid, Addr: "local socket"}
		h.ServeHTTP(w, r.WithContext(With(r.Context(), c)))
	})
}

type key struct{}

// With says that c calls.
func With(ctx context.Context, c *Caller) context.Context { return context.WithValue(ctx, key{}, c) }

// From says who calls; never nil.
func From(ctx context.Context) *Caller {
	if c, ok := ctx.Value(key{}).(*Caller); ok {
		return c
	}
	return &Caller{Refused: ErrNone}
}

func (cfg Config) read(state *tls.ConnectionState) *Caller {
	c := &Caller{Refused: ErrNone}
	if state == nil || len(state.VerifiedChains) == 0 || len(state.VerifiedChains[0]) < 2 {
		return c
	}
	leaf, issuer := state.VerifiedChains[0][0], state.VerifiedChains[0][1]
	c.Serial = leaf.SerialNumber.Text(16)
	if !cfg.Now().Before(leaf.NotAfter) {
		c.Refused = errors.New("the certificate has run out: log in again")
		return c
	}
	switch {
	case among(cfg.UserCA, issuer.Raw):
		c.Refused = cfg.user(c, leaf)
	case among(cfg.AgentCA, issuer.Raw):
		c.Refused = cfg.agent(c, leaf)
	default:
		c.Refused = identity.ErrNotOurs
	}
	return c
}

func (cfg Config) user(c *Caller, leaf *x509.Certificate) error {
	id, err := identity.ParseUser(cfg.TrustDomain, leaf)
	if err != nil {
		return err
	}
	snap := cfg.Snapshot()
	user, err := snap.Authenticate(id, cfg.Now())
	if err != nil {
		return err
	}
	c.User, c.Device, c.Session = user, snap.Devices[id.DeviceID], snap.Sessions[id.SessionID]
	return nil
}

func (cfg Config) agent(c *Caller, leaf *x509.Certificate) error {
	id, err := identity.ParseAgent(cfg.TrustDomain, leaf)
	if err != nil {
		return err
	}
	snap := cfg.Snapshot()
	agent, cluster := snap.Agents[id.AgentID], snap.Clusters[id.ClusterID]
	if agent == nil || cluster == nil || agent.ClusterId != id.ClusterID || agent.Removed {
		return errors.New("this agent is not enrolled here any more")
	}
	c.Agent, c.Cluster = agent, cluster
	return nil
}

func among(list [][]byte, der []byte) bool {
	for _, d := range list {
		if bytes.Equal(d, der) {
			return true
		}
	}
	return false
}
