package tailnet

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"time"

	"go4.org/mem"
	"tailscale.com/derp/derpserver"
	"tailscale.com/tailcfg"
	"tailscale.com/types/key"
)

// regionID is the DERP region of the embedded relay. From 900 on they are for
// people who run their own.
const regionID = 900

func (s *Server) hasRegion(id int) bool { return id == regionID }

// derpMap tells nodes where the relay and STUN are: at the coordinator, and
// nowhere else.
func (s *Server) derpMap() *tailcfg.DERPMap {
	host := s.url.Hostname()
	n := &tailcfg.DERPNode{Name: "900a", RegionID: regionID, HostName: host, STUNPort: -1}
	if port, err := strconv.Atoi(s.url.Port()); err == nil {
		n.DERPPort = port
	}
	if s.stun != nil {
		n.STUNPort = s.stun.LocalAddr().(*net.UDPAddr).Port
	}
	if ip, err := netip.ParseAddr(host); err == nil {
		n.IPv4, n.IPv6 = "none", "none"
		if ip.Is4() {
			n.IPv4 = host
		} else {
			n.IPv6 = host
		}
	}
	return &tailcfg.DERPMap{
		OmitDefaultRegions: true,
		Regions: map[int]*tailcfg.DERPRegion{
			regionID: {RegionID: regionID, RegionCode: "sallyport", RegionName: "Sallyport", Nodes: []*tailcfg.DERPNode{n}},
		},
	}
}

// relay is the DERP server, for our own nodes only. It forwards sealed WireGuard
// packets by node key and can read none of them.
type relay struct {
	*derpserver.Server
	serve  http.Handler
	admits func(key.NodePublic) bool

	mu    sync.Mutex
	conns map[key.NodePublic]map[*relayConn]struct{}
}

func newRelay(k key.NodePrivate, admits func(key.NodePublic) bool, log *slog.Logger) *relay {
	d := derpserver.New(k, func(format string, a ...any) { log.Debug("relay", "message", fmt.Sprintf(format, a...)) })
	return &relay{Server: d, serve: derpserver.Handler(d), admits: admits, conns: map[key.NodePublic]map[*relayConn]struct{}{}}
}

func (r *relay) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	if !strings.EqualFold(req.Header.Get("Upgrade"), "derp") {
		http.Error(w, "this is the overlay's relay, for nodes only", http.StatusUpgradeRequired)
		return
	}
	r.serve.ServeHTTP(relayHijacker{w, r}, req)
}

// relayHijacker hands the DERP server a connection whose first frame, the one
// that names the client's key, has to pass admission.
type relayHijacker struct {
	http.ResponseWriter
	relay *relay
}

func (h relayHijacker) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, brw, err := http.NewResponseController(h.ResponseWriter).Hijack()
	if err != nil {
		return nil, nil, err
	}
	rc := &relayConn{Conn: conn, relay: h.relay}
	brw.Reader = bufio.NewReader(&admission{r: brw.Reader, conn: rc})
	return rc, brw, nil
}

// admission lets a client's stream through once it has named an admitted key.
// That the client holds the key is proven to the DERP server right after.
type admission struct {
	r    io.Reader
	conn *relayConn
	done bool
}

// A client's first frame: type, length, its key, then what the key sealed.
const (
	frameClientInfo = 2
	infoHead        = 5 + key.NodePublicRawLen
)

func (a *admission) Read(p []byte) (int, error) {
	if !a.done {
		head := make([]byte, infoHead)
		if _, err := io.ReadFull(a.r, head); err != nil {
			return 0, err
		}
		if head[0] != frameClientInfo {
			return 0, errors.New("the client did not begin with its key")
		}
		k := key.NodePublicFromRaw32(mem.B(head[5:]))
		if !a.conn.admit(k) {
			return 0, fmt.Errorf("%v is no node of this overlay", k.ShortString())
		}
		a.r, a.done = io.MultiReader(strings.NewReader(string(head)), a.r), true
	}
	return a.r.Read(p)
}

// relayConn is a client's connection, known by its key from admission on.
type relayConn struct {
	net.Conn
	relay *relay
	key   key.NodePublic // guarded by relay.mu; zero before admission
}

// admit registers the connection before it asks, so that a key that loses its
// place in between is either refused here or closed by drop.
func (c *relayConn) admit(k key.NodePublic) bool {
	c.relay.mu.Lock()
	c.key = k
	if c.relay.conns[k] == nil {
		c.relay.conns[k] = map[*relayConn]struct{}{}
	}
	c.relay.conns[k][c] = struct{}{}
	c.relay.mu.Unlock()
	return c.relay.admits(k)
}

func (c *relayConn) Close() error {
	c.relay.mu.Lock()
	delete(c.relay.conns[c.key], c)
	if len(c.relay.conns[c.key]) == 0 {
		delete(c.relay.conns, c.key)
	}
	c.relay.mu.Unlock()
	return c.Conn.Close()
}

// drop closes the connections of keys that have lost their place. It does not
// wait for them, and may be called with Server.mu held.
func (r *relay) drop(keys []key.NodePublic) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, k := range keys {
		for c := range r.conns[k] {
			go func() { _ = c.Close() }() // it was refused; what is left of it does not matter
		}
	}
}

func serveProbe(w http.ResponseWriter, r *http.Request)     { derpserver.ProbeHandler(w, r) }
func serveNoContent(w http.ResponseWriter, r *http.Request) { derpserver.ServeNoContent(w, r) }

// serveBootstrapDNS resolves this server's own name, and no other, for clients
// whose resolver is broken.
func (s *Server) serveBootstrapDNS(w http.ResponseWriter, r *http.Request) {
	answer := map[string][]netip.Addr{}
	host := s.url.Hostname()
	if r.FormValue("q") == host {
		ctx, cancel := context.WithTimeout(r.Context(), 2*time.Second)
		defer cancel()
		if addrs, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host); err == nil {
			answer[host] = addrs
		}
	}
	reply(w, answer)
}
