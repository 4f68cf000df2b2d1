package tailnet

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"io"
	"log/slog"
	"maps"
	"math/big"
	"net"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/sallyport-mesh/sallyport/coordinator/internal/store"
	"github.com/sallyport-mesh/sallyport/coordinator/internal/store/storetest"
	"github.com/sallyport-mesh/sallyport/pkg/overlay"
)

const domain = "mesh.test"

// deadline bounds every wait in these tests.
const deadline = 30 * time.Second

// testRoot is the private root of all servers in this process: tsnet's roots
// are the process's.
var testRoot = sync.OnceValue(func() (r struct {
	pem  []byte
	leaf tls.Certificate
},
) {
	must := func(err error) {
		if err != nil {
			panic(err)
		}
	}
	rootKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(err)
	root := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test root"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	rootDER, err := x509.CreateCertificate(rand.Reader, root, root, rootKey.Public(), rootKey)
	must(err)
	leafKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(err)
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "coordinator"},
		NotBefore: root.NotBefore, NotAfter: root.NotAfter,
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, DNSNames: []string{"localhost"},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	leafDER, err := x509.CreateCertificate(rand.Reader, leaf, root, leafKey.Public(), rootKey)
	must(err)
	r.pem = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: rootDER})
	r.leaf = tls.Certificate{Certificate: [][]byte{leafDER, rootDER}, PrivateKey: leafKey}
	return r
})

// mesh is a control server on loopback, with a topology that tests change.
type mesh struct {
	*Server
	t     testing.TB
	store store.Store
	addr  string
	udp   string // where STUN is
	url   string // for tsnet
	plain string // the same over HTTP without TLS, for light clients
	stop  func()

	mu  sync.Mutex
	top Topology
	log *slog.Logger
}

func newMesh(t testing.TB, members ...Member) *mesh {
	t.Helper()
	m := &mesh{t: t, store: storetest.New(t), addr: "127.0.0.1:0", udp: "127.0.0.1:0"}
	m.log = slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug}))
	m.top = Topology{Revision: 1, Members: map[string]Member{}, Reach: map[string][]string{}}
	for _, mb := range members {
		m.top.Members[mb.ID] = mb
	}
	m.start()
	m.SetTopology(m.snapshot())
	t.Cleanup(func() { m.stop() })
	return m
}

// start serves on m.addr; the ports stay the same over a restart.
func (m *mesh) start() {
	m.t.Helper()
	ln, err := net.Listen("tcp", m.addr)
	if err != nil {
		m.t.Fatal(err)
	}
	m.addr = ln.Addr().String()
	m.url = "https://" + m.addr
	s, err := New(m.t.Context(), Config{Store: m.store, Domain: domain, PublicURL: m.url, STUNAddr: m.udp, Log: m.log})
	if err != nil {
		m.t.Fatal(err)
	}
	m.Server = s
	m.udp = s.stun.LocalAddr().String()
	bare, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		m.t.Fatal(err)
	}
	m.plain = "http://" + bare.Addr().String()
	hs := &http.Server{
		Handler:  s.Handler(),
		ErrorLog: slog.NewLogLogger(m.log.Handler(), slog.LevelDebug),
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := s.Run(ctx); err != nil {
			m.t.Error(err)
		}
	})
	wg.Go(func() {
		tl := tls.NewListener(ln, &tls.Config{Certificates: []tls.Certificate{testRoot().leaf}, NextProtos: []string{"http/1.1"}})
		if err := hs.Serve(tl); !errors.Is(err, http.ErrServerClosed) {
			m.t.Error(err)
		}
	})
	wg.Go(func() {
		if err := hs.Serve(bare); !errors.Is(err, http.ErrServerClosed) {
			m.t.Error(err)
		}
	})
	m.stop = sync.OnceFunc(func() {
		cancel()
		hs.Close()
		wg.Wait()
	})
}

// restart ends the control server and starts another on the same store and port.
func (m *mesh) restart() {
	m.t.Helper()
	m.stop()
	m.start()
	m.SetTopology(m.snapshot())
}

func (m *mesh) snapshot() *Topology {
	m.mu.Lock()
	defer m.mu.Unlock()
	t := &Topology{Revision: m.top.Revision, Members: maps.Clone(m.top.Members), Reach: map[string][]string{}}
	for d, as := range m.top.Reach {
		t.Reach[d] = slices.Clone(as)
	}
	return t
}

// change edits the topology and puts it in force.
func (m *mesh) change(edit func(*Topology)) {
	m.mu.Lock()
	edit(&m.top)
	m.top.Revision++
	m.mu.Unlock()
	m.SetTopology(m.snapshot())
}

func (m *mesh) allow(device string, agents ...string) {
	m.change(func(t *Topology) { t.Reach[device] = append(t.Reach[device], agents...) })
}

func (m *mesh) deny(device string) { m.change(func(t *Topology) { delete(t.Reach, device) }) }

func (m *mesh) setExpiry(id string, at time.Time) {
	m.change(func(t *Topology) {
		mb := t.Members[id]
		mb.Expiry = at
		t.Members[id] = mb
	})
}

func (m *mesh) key(member string) string {
	m.t.Helper()
	k, err := m.NewAuthKey(m.t.Context(), member, time.Minute)
	if err != nil {
		m.t.Fatal(err)
	}
	return k
}

func (m *mesh) config(dir, name, authKey string) overlay.Config {
	return overlay.Config{
		Dir: dir, Hostname: name, ControlURL: m.url, RootPEM: testRoot().pem, AuthKey: authKey,
	}
}

// join enrols a member on a tsnet node of its own.
func (m *mesh) join(member string) *overlay.Node {
	m.t.Helper()
	return m.joinIn(m.t.TempDir(), member, m.key(member))
}

func (m *mesh) joinIn(dir, member, authKey string) *overlay.Node {
	m.t.Helper()
	ctx, cancel := context.WithTimeout(m.t.Context(), deadline)
	defer cancel()
	n, err := overlay.Join(ctx, m.config(dir, member, authKey))
	if err != nil {
		m.t.Fatalf("joining as %s: %v", member, err)
	}
	m.t.Cleanup(func() { n.Close() })
	return n
}

// device and agent make members with the usual names.
func device(id string) Member {
	return Member{ID: id, Kind: Device, Host: id + "-host", UserID: "usr-" + id, UserName: "user of " + id}
}

func agent(id, cluster string) Member {
	return Member{ID: id, Kind: Agent, Host: id + "-host", Cluster: cluster}
}

func fqdn(host string) string { return host + "." + domain }

// eventually waits until f reports nil.
func eventually(t testing.TB, what string, f func() error) {
	t.Helper()
	end := time.Now().Add(deadline)
	for {
		err := f()
		if err == nil {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%s: %v", what, err)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

// greet serves connections with one line, the device that WhoIs names.
func greet(t testing.TB, n *overlay.Node, addr string) {
	t.Helper()
	ln, err := n.Listen(addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				p, err := n.WhoIs(context.Background(), addrPort(conn.RemoteAddr()))
				if err != nil {
					io.WriteString(conn, "error: "+err.Error())
					return
				}
				io.WriteString(conn, p.DeviceID+" of "+p.UserID)
			}()
		}
	}()
}

// ask dials and reads the greeting.
func ask(t testing.TB, n *overlay.Node, address string, patience time.Duration) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	conn, err := n.Dial(ctx, "tcp", address)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(patience))
	b, err := io.ReadAll(conn)
	return string(b), err
}
