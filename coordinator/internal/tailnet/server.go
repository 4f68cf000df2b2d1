package tailnet

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"time"

	"tailscale.com/tailcfg"
	"tailscale.com/types/key"

	"github.com/sallyport-mesh/sallyport/coordinator/internal/store"
)

// Config says what the control server needs.
type Config struct {
	// Store holds node records, the server's keys and auth keys.
	Store store.Store
	// Domain is the overlay's DNS domain, such as "sallyport.internal".
	Domain string
	// PublicURL is where nodes reach this server, such as
	// "https://coordinator.example:8443". The relay is at the same host and port.
	PublicURL string
	// STUNAddr is the UDP address for STUN, such as ":3478". Nodes are told the
	// host of PublicURL and this port. Empty turns STUN off: nodes behind
	// different NATs then talk through the relay.
	STUNAddr string
	// KeepAlive is how often a silent stream gets a sign of life. The default is
	// 50 s; clients give up after 120 s.
	KeepAlive time.Duration
	// OnStatus, if set, is called after a member came online or went offline.
	// It must not block and must not call the server.
	OnStatus func(memberID string, s Status)
	// Log is where to log; the default is slog.Default.
	Log *slog.Logger
}

const (
	defaultKeepAlive = 50 * time.Second
	// oldestClient is Tailscale v1.80: the first to take named packet filters,
	// streams that are read-only and peers without AllowedIPs as we send them.
	oldestClient tailcfg.CapabilityVersion = 113
)

// Server is the control server. Its methods may be called from anywhere.
type Server struct {
	cfg   Config
	url   *url.URL
	log   *slog.Logger
	noise key.MachinePrivate
	relay *relay
	stun  net.PacketConn // or nil

	inner    *http.Server // inside Noise
	accepted *handover

	now func() time.Time

	ctx    context.Context // ends every stream and connection
	cancel context.CancelFunc

	// enrolling serialises what writes node records, so that the order in the
	// store is the order in memory. It is taken before mu.
	enrolling sync.Mutex

	mu        sync.RWMutex
	plan      *plan // nil until the first topology
	news      chan struct{}
	nodes     map[string]*node // by member id
	byKey     map[key.NodePublic]*node
	byMachine map[key.MachinePublic]*node
	expired   map[string]time.Time // members whose expiry was acted on, and which
	dirty     map[string]struct{}  // members whose record is to be written
	poke      chan struct{}        // wakes Run
}

// node is a registered member. Server.mu guards it.
type node struct {
	record
	reported  bool             // since the server started
	endpoints []netip.AddrPort // replaced, never changed in place
	home      int
	online    bool
	lastSeen  time.Time
	poll      *poll // the stream that is open, or nil
	gone      bool  // replaced by another machine, or forgotten
}

// Status is what is known of a member's node.
type Status struct {
	// Registered says that the member has enrolled a machine.
	Registered bool
	// Online says that the node holds a stream of map updates open.
	Online bool
	// LastSeen is when the node last held one; zero is never since the start.
	LastSeen time.Time
	// Addrs are the node's overlay addresses, IPv4 first.
	Addrs []netip.Addr
}

// New reads the nodes from the store and opens the STUN port. The server
// answers nothing before the first SetTopology. ctx bounds New alone.
func New(ctx context.Context, cfg Config) (*Server, error) {
	u, err := url.Parse(cfg.PublicURL)
	if err != nil || u.Hostname() == "" {
		return nil, fmt.Errorf("tailnet: public URL %q names no host", cfg.PublicURL)
	}
	if cfg.Domain == "" {
		return nil, errors.New("tailnet: no overlay domain")
	}
	cfg.Domain = strings.ToLower(strings.Trim(cfg.Domain, "."))
	if cfg.KeepAlive == 0 {
		cfg.KeepAlive = defaultKeepAlive
	}
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	s := &Server{
		cfg: cfg, url: u, log: cfg.Log, now: time.Now,
		news:  make(chan struct{}),
		nodes: map[string]*node{}, byKey: map[key.NodePublic]*node{}, byMachine: map[key.MachinePublic]*node{},
		expired: map[string]time.Time{}, dirty: map[string]struct{}{},
		poke: make(chan struct{}, 1),
	}
	s.ctx, s.cancel = context.WithCancel(context.WithoutCancel(ctx))
	keys, err := s.load(ctx)
	if err != nil {
		return nil, err
	}
	s.noise = keys.noise
	s.relay = newRelay(keys.derp, s.admits, s.log)
	if cfg.STUNAddr != "" {
		s.stun, err = net.ListenPacket("udp", cfg.STUNAddr)
		if err != nil {
			return nil, fmt.Errorf("opening STUN port: %w", err)
		}
	}
	s.accepted = &handover{conns: make(chan net.Conn), ctx: s.ctx}
	s.inner = s.innerServer()
	go func() {
		if err := s.inner.Serve(s.accepted); s.ctx.Err() == nil {
			s.log.Error("serving inside Noise ended", "error", err)
		}
	}()
	return s, nil
}

// Handler serves the control protocol and the relay, by the paths that clients
// know. Both /ts2021 and /derp take over the connection, so they need HTTP/1.1.
func (s *Server) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /key", s.serveKey)
	mux.HandleFunc("/ts2021", s.serveNoise)
	mux.Handle("/derp", s.relay)
	mux.HandleFunc("/derp/probe", serveProbe)
	mux.HandleFunc("/derp/latency-check", serveProbe)
	mux.HandleFunc("/generate_204", serveNoContent)
	mux.HandleFunc("GET /bootstrap-dns", s.serveBootstrapDNS)
	return mux
}

// Run answers STUN, acts on expiries and writes what nodes report, until ctx
// ends; then it closes every stream and relay connection.
func (s *Server) Run(ctx context.Context) (err error) {
	var wg sync.WaitGroup
	defer wg.Wait()
	defer func() { err = errors.Join(err, s.Close()) }()
	if s.stun != nil {
		wg.Go(s.serveSTUN)
	}
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			s.flush(context.WithoutCancel(ctx))
			return nil
		case <-s.ctx.Done():
			return errors.New("tailnet: closed")
		case <-timer.C:
		case <-s.poke:
		}
		s.flush(ctx)
		timer.Reset(s.expire())
	}
}

// Close ends every stream and connection. Run calls it.
func (s *Server) Close() error {
	s.cancel()
	var err error
	if s.stun != nil {
		err = s.stun.Close()
		if errors.Is(err, net.ErrClosed) {
			err = nil // closed before
		}
	}
	return errors.Join(err, s.inner.Close(), s.relay.Close())
}

// Status reports on a member's node.
func (s *Server) Status(memberID string) Status {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.nodes[memberID].status()
}

func (n *node) status() Status {
	if n == nil {
		return Status{}
	}
	st := Status{Registered: true, Online: n.online, LastSeen: n.lastSeen, Addrs: []netip.Addr{n.IPv4, n.ipv6()}}
	return st
}

// pokeRun makes Run look again at expiries and at records to write.
func (s *Server) pokeRun() {
	select {
	case s.poke <- struct{}{}:
	default:
	}
}
