package proxy

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"k8s.io/client-go/rest"

	"github.com/sallyport-mesh/sallyport/pkg/audit"
	"github.com/sallyport-mesh/sallyport/pkg/policy"
)

// Peer is what the overlay knows about a remote address.
type Peer struct {
	DeviceID string
	UserID   string
}

// Identifier says which device an overlay address belongs to (WhoIs). It is
// called for every connection and every request, so it should answer from
// memory; an address that it does not know is an error.
type Identifier func(ctx context.Context, remote netip.AddrPort) (Peer, error)

// Policies hold the policy in force. Their methods never block.
type Policies interface {
	// Current is the newest policy; nil until there is one, and then every
	// request is refused.
	Current() *policy.Policy
	// Fresh is nil while the policy is young enough to decide requests of this
	// class, and otherwise says since when it is not.
	Fresh(policy.Class) error
	// UserCAs are the CAs that may have issued a user's certificate; nil without a policy.
	UserCAs() *x509.CertPool
}

// Log keeps the records.
type Log interface {
	// Intent returns nil once the event is durable on disk. Any error refuses
	// the request; it is not tried again.
	Intent(ctx context.Context, e *audit.Event) error
	// Outcome takes the record of a request that has ended or was refused. It
	// does not wait for the disk.
	Outcome(e *audit.Event)
}

// Credential is what a request goes upstream with.
type Credential struct {
	Token   string // bearer token of the user's service account
	ID      string // the token's JTI, as in the apiserver's own audit log
	Account string // system:serviceaccount:<namespace>:<name>
}

// ErrNotEntitled is what Accounts say where policy allows the person something,
// if only to look what the cluster serves, and gives nothing in Kubernetes.
var ErrNotEntitled = errors.New("entitled to nothing in this cluster")

// Accounts mint what a request goes upstream with. An error refuses the request.
type Accounts interface {
	Token(ctx context.Context, s policy.Subject, a policy.Attributes) (Credential, error)
}

// Config is what a Proxy is made of. All fields without a default are required.
type Config struct {
	// TrustDomain is the SPIFFE trust domain of users' certificates.
	TrustDomain string
	// ClusterName is the name people know this cluster by; it stands in refusals and records.
	ClusterName string

	Identify Identifier
	Policies Policies
	Log      Log
	Accounts Accounts

	// Upstream says where the apiserver is and which CA it has. Credentials in it
	// are not used.
	Upstream *rest.Config

	// ServingCert is the certificate that clients of this cluster expect.
	ServingCert func(*tls.ClientHelloInfo) (*tls.Certificate, error)

	// Now is the time by which users' certificates are judged; time.Now by default.
	Now func() time.Time
	// Logger is slog.Default() by default.
	Logger *slog.Logger
	// Limits bound what clients can hold; zero fields get their defaults.
	Limits Limits
}

// Proxy serves the requests of people to one apiserver.
type Proxy struct {
	cfg      Config
	ctx      context.Context
	log      *slog.Logger
	now      func() time.Time
	upstream *upstream
	requests *registry

	mu      sync.Mutex
	servers map[*http.Server]bool
}

// New makes a Proxy that lives until ctx ends: its listeners are closed then
// and everything that still runs through it is ended.
func New(ctx context.Context, cfg Config) (*Proxy, error) {
	switch {
	case cfg.TrustDomain == "" || cfg.ClusterName == "":
		return nil, errors.New("the proxy needs a trust domain and a cluster name")
	case cfg.Identify == nil || cfg.Policies == nil || cfg.Log == nil || cfg.Accounts == nil || cfg.ServingCert == nil:
		return nil, errors.New("the proxy needs Identify, Policies, Log, Accounts and ServingCert")
	}
	up, err := newUpstream(cfg.Upstream)
	if err != nil {
		return nil, fmt.Errorf("preparing the way to the apiserver: %w", err)
	}
	p := &Proxy{
		cfg: cfg, ctx: ctx, log: cfg.Logger, now: cfg.Now, upstream: up,
		servers: map[*http.Server]bool{},
	}
	if p.log == nil {
		p.log = slog.Default()
	}
	if p.now == nil {
		p.now = time.Now
	}
	p.cfg.Limits = cfg.Limits.withDefaults()
	p.requests = newRegistry(p.cfg.Limits.RequestsPerUser)
	context.AfterFunc(ctx, p.shutDown)
	go p.watchOver(ctx)
	return p, nil
}

// serve takes one request through the steps. The order is the safety: nothing
// goes upstream unless every line before forward returned without a refusal.
func (p *Proxy) serve(w http.ResponseWriter, r *http.Request) {
	x := p.newExchange(w, r)
	defer x.close() // 8. record outcome; also what a panic leaves behind
	if bad := x.run(r); bad != nil {
		x.refuse(bad)
	}
}

// run does steps 2 to 7.
func (x *exchange) run(r *http.Request) (bad *refusal) {
	defer x.recovered(&bad)
	if bad := x.identify(r); bad != nil { // 2.
		return bad
	}
	if bad := x.parse(r); bad != nil { // 3. and register
		return bad
	}
	if bad := x.decide(); bad != nil { // 4.
		return bad
	}
	if x.reading.review != noReview {
		if answered, bad := x.answerReview(r); answered || bad != nil {
			return bad
		}
	}
	if bad := x.recordIntent(); bad != nil { // 5.
		return bad
	}
	if bad := x.mint(); bad != nil { // 6.
		return bad
	}
	if x.reading.upgrade != "" { // 7.
		return x.forwardUpgrade(r)
	}
	return x.forward(r)
}

func (p *Proxy) shutDown() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for srv := range p.servers {
		srv.Close()
	}
	p.requests.endAll(unavailable("the agent is stopping; try again in a moment")) // not soon: some may have been acted on
	p.upstream.close()
}

// remoteAddr is the overlay address of a connection.
func remoteAddr(c net.Conn) (netip.AddrPort, error) {
	a, err := netip.ParseAddrPort(c.RemoteAddr().String())
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("reading remote address: %w", err)
	}
	return netip.AddrPortFrom(a.Addr().Unmap(), a.Port()), nil
}
