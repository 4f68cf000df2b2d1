package daemon

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/proxy"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/sallyport-mesh/sallyport/client/internal/clienttest"
	"github.com/sallyport-mesh/sallyport/client/internal/localapi"
	"github.com/sallyport-mesh/sallyport/client/internal/login"
	"github.com/sallyport-mesh/sallyport/client/internal/socks"
	apiv1 "github.com/sallyport-mesh/sallyport/pkg/api/sallyport/v1"
	"github.com/sallyport-mesh/sallyport/pkg/overlay"
	"github.com/sallyport-mesh/sallyport/pkg/profile"
)

// device is a person's machine: a home, a kubeconfig, and an overlay whose nodes
// the test holds in its hands.
type device struct {
	t           *testing.T
	coordinator *clienttest.Coordinator
	home        profile.Home
	kubeconfig  string
	api         *localapi.Client

	mu    sync.Mutex
	nodes []*node
	asked []overlay.Config
}

// node is a place on an overlay.
type node struct {
	mu      sync.Mutex
	state   string
	expiry  time.Time
	reauths []string
	dialled []string
	closed  bool
	silent  bool
	backend string
}

func (n *node) set(f func(*node)) { n.mu.Lock(); defer n.mu.Unlock(); f(n) }

func (n *node) Ready(ctx context.Context) error {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		var running bool
		n.set(func(n *node) { running = n.state == "Running" })
		if running {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (n *node) Reauth(_ context.Context, key string) error {
	n.set(func(n *node) { n.reauths = append(n.reauths, key); n.state = "Running"; n.expiry = time.Time{} })
	return nil
}

func (n *node) Status(context.Context) (s overlay.Status, err error) {
	n.set(func(n *node) {
		s = overlay.Status{State: n.state, Running: n.state == "Running", KeyExpiry: n.expiry, Addrs: []netip.Addr{netip.MustParseAddr("100.64.0.7")}}
		s.Peers = []overlay.PeerStatus{{Name: "edge-1-x", Addrs: []netip.Addr{netip.MustParseAddr("100.64.0.1")}, Path: overlay.Relayed}}
	})
	return s, nil
}

func (n *node) Resolve(context.Context, string) ([]netip.Addr, error) {
	return []netip.Addr{netip.MustParseAddr("100.64.0.1"), netip.MustParseAddr("fd7a:115c:a1e0::1")}, nil
}

func (n *node) Ping(context.Context, netip.Addr) (p overlay.Ping, err error) {
	n.set(func(n *node) {
		if n.silent {
			err = errors.New("no answer")
		}
	})
	if err != nil {
		return p, err
	}
	return overlay.Ping{Latency: 1500 * time.Microsecond, Path: overlay.Direct, Endpoint: "127.0.0.1:41641"}, nil
}

func (n *node) Dial(ctx context.Context, network, addr string) (net.Conn, error) {
	n.set(func(n *node) { n.dialled = append(n.dialled, addr) })
	var d net.Dialer
	return d.DialContext(ctx, network, n.backend)
}

func (n *node) Close() error { n.set(func(n *node) { n.closed = true }); return nil }

func newDevice(t *testing.T, c *clienttest.Coordinator) *device {
	t.Helper()
	dir, err := os.MkdirTemp("", "sp") // a socket's path has to be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	home, err := profile.Find(dir)
	if err != nil {
		t.Fatal(err)
	}
	d := &device{t: t, coordinator: c, home: home, kubeconfig: filepath.Join(t.TempDir(), "config"), api: localapi.NewClient(home.Path(SocketFile))}
	d.login()
	return d
}

func (d *device) login() *profile.Profile {
	d.t.Helper()
	p, err := login.Run(d.t.Context(), login.Config{
		Home: d.home, Link: d.coordinator.Link, Terminal: io.Discard, Timeout: 30 * time.Second, Version: "test",
		Open: func(ctx context.Context, url string) error {
			go func() { _, _ = d.coordinator.Browse(context.WithoutCancel(ctx), url) }()
			return nil
		},
	})
	if err != nil {
		d.t.Fatal(err)
	}
	return p
}

func (d *device) config() Config {
	return Config{
		Home: d.home, Kubeconfig: d.kubeconfig, Command: "/usr/bin/sallyport", Version: "test",
		Log: slog.New(slog.DiscardHandler),
		Start: func(_ context.Context, cfg overlay.Config) (Node, error) {
			d.mu.Lock()
			defer d.mu.Unlock()
			n := &node{state: "Running"}
			d.nodes, d.asked = append(d.nodes, n), append(d.asked, cfg)
			return n, nil
		},
	}
}

// up runs the daemon until the test ends, and returns how to end it sooner.
func (d *device) up() (down func() error) {
	d.t.Helper()
	listening := make(chan struct{})
	cfg := d.config()
	cfg.OnListening = func() { close(listening) }
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- Run(ctx, cfg) }()
	select {
	case <-listening:
	case err := <-ended:
		cancel()
		d.t.Fatalf("the daemon ended: %v", err)
	}
	down = sync.OnceValue(func() error { cancel(); return <-ended })
	d.t.Cleanup(func() {
		if err := down(); err != nil {
			d.t.Errorf("the daemon ended with %v", err)
		}
	})
	return down
}

// until asks for the status until it is as wanted.
func (d *device) until(what string, ok func(localapi.Status) bool) localapi.Status {
	d.t.Helper()
	var last localapi.Status
	var err error
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); {
		if last, err = d.api.Status(d.t.Context()); err == nil && ok(last) {
			return last
		}
		select {
		case <-time.After(10 * time.Millisecond):
		case <-d.t.Context().Done():
		}
	}
	d.t.Fatalf("never %s: %+v, %v", what, last, err)
	return last
}

func (d *device) node(i int) *node {
	d.t.Helper()
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.nodes) <= i {
		d.t.Fatalf("there are %d nodes", len(d.nodes))
	}
	return d.nodes[i]
}

func (d *device) contexts() []string {
	d.t.Helper()
	c, err := clientcmd.LoadFromFile(d.kubeconfig)
	if err != nil {
		d.t.Fatal(err)
	}
	var names []string
	for n := range c.Contexts {
		names = append(names, n)
	}
	slices.Sort(names)
	return names
}

func cluster(name string) *apiv1.ReachableCluster {
	return &apiv1.ReachableCluster{Id: "cls-" + name, Name: name, Project: "aws", ServerName: name + "." + clienttest.OverlayDomain, Online: true, Roles: []string{"edit"}}
}

func clusters(names ...string) func(*clienttest.Behaviour) {
	return func(b *clienttest.Behaviour) {
		b.Clusters = nil
		for _, n := range names {
			b.Clusters = append(b.Clusters, cluster(n))
		}
	}
}

func open(names ...string) func(localapi.Status) bool {
	return func(s localapi.Status) bool {
		var got []string
		for _, c := range s.Clusters {
			got = append(got, c.Name)
		}
		return s.State == localapi.Joined && s.Connected && slices.Equal(got, names)
	}
}

func TestContextsFollowTheCoordinator(t *testing.T) {
	c := clienttest.Start(t)
	c.Set(clusters("edge-1", "edge-2"))
	d := newDevice(t, c)
	down := d.up()
	st := d.until("two clusters", open("edge-1", "edge-2"))
	if got := d.contexts(); !slices.Equal(got, []string{"sallyport/edge-1", "sallyport/edge-2"}) {
		t.Errorf("contexts %v", got)
	}
	if p := st.Clusters[0].Paths; len(p) != 1 || p[0].Kind != "direct" || p[0].Latency != 1500*time.Microsecond {
		t.Errorf("paths %+v", p)
	}

	c.Set(clusters("edge-2", "edge-3"))
	d.until("the change", open("edge-2", "edge-3"))
	if got := d.contexts(); !slices.Equal(got, []string{"sallyport/edge-2", "sallyport/edge-3"}) {
		t.Errorf("contexts %v", got)
	}
	for name, want := range map[string]bool{"edge-1": false, "edge-2": true, "edge-3": true, "edge-4": false, "": false} {
		if a, err := d.api.Access(t.Context(), name); err != nil || a.Open != want {
			t.Errorf("%q: %+v, %v", name, a, err)
		}
	}
	if err := down(); err != nil {
		t.Fatal(err)
	}
	if got := d.contexts(); len(got) != 2 {
		t.Errorf("going down left the contexts %v", got)
	}
	if !d.node(0).closed {
		t.Error("the node is still on the overlay")
	}
}

func TestAuthKeyIsForgottenOnceUsed(t *testing.T) {
	c := clienttest.Start(t)
	d := newDevice(t, c)
	p, err := d.home.Load()
	if err != nil {
		t.Fatal(err)
	}
	d.up()
	d.until("joined", open())
	if got := d.asked[0]; got.AuthKey != p.Session.AuthKey || got.Dir != d.home.Path("tsnet/"+p.Session.DeviceID) || string(got.RootPEM) != c.RootPEM {
		t.Errorf("joined with %+v", got)
	}
	data, err := os.ReadFile(d.home.Path("profile.json"))
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(data), p.Session.AuthKey) {
		t.Error("the auth key is still in the home")
	}
}

func TestEndedSessionLeavesTheOverlayAndALoginWakes(t *testing.T) {
	c := clienttest.Start(t)
	c.Set(clusters("edge-1"))
	d := newDevice(t, c)
	d.up()
	d.until("joined", open("edge-1"))

	c.End("shivam is suspended")
	st := d.until("ended", func(s localapi.Status) bool { return s.State == localapi.Ended })
	if st.Problem != "shivam is suspended" || st.Hint != "sallyport login" {
		t.Errorf("status %+v", st)
	}
	if !d.node(0).closed {
		t.Error("the node is still on the overlay")
	}
	if got := d.contexts(); len(got) != 1 {
		t.Errorf("contexts %v: kubectl could not say why any more", got)
	}
	if err := d.api.Reload(t.Context()); err != nil {
		t.Errorf("the old session was not taken up again, to be refused again: %v", err)
	}
	d.until("ended again", func(s localapi.Status) bool { return s.State == localapi.Ended })

	p := d.login()
	if err := d.api.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	if st := d.until("joined again", open("edge-1")); st.SessionID != p.Session.ID {
		t.Errorf("status %+v", st)
	}
}

// A login that comes in time does not disturb the node; one that comes after the
// node's key ran out enrols it again.
func TestNewSessionKeepsTheNodeWhileItsKeyLasts(t *testing.T) {
	c := clienttest.Start(t)
	d := newDevice(t, c)
	d.up()
	d.until("joined", open())
	d.login()
	if err := d.api.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	d.until("joined", open())
	if n := d.node(0); n.closed || len(n.reauths) != 0 || len(d.nodes) != 1 {
		t.Errorf("the node was disturbed: %+v", n)
	}

	d.node(0).set(func(n *node) { n.state = "NeedsLogin" })
	p := d.login()
	if err := d.api.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	d.until("joined", open())
	if n := d.node(0); n.closed || !slices.Equal(n.reauths, []string{p.Session.AuthKey}) {
		t.Errorf("reauths %v", n.reauths)
	}

	// The key would end before the session does, and the coordinator's map does
	// not say otherwise in time.
	d.node(0).set(func(n *node) { n.expiry = time.Now().Add(10 * time.Minute); n.reauths = nil })
	p = d.login()
	if err := d.api.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	d.until("joined", func(s localapi.Status) bool {
		var done bool
		d.node(0).set(func(n *node) { done = slices.Equal(n.reauths, []string{p.Session.AuthKey}) })
		return done && open()(s)
	})
}

func TestAnotherPersonIsAnotherDevice(t *testing.T) {
	c := clienttest.Start(t)
	d := newDevice(t, c)
	d.up()
	d.until("joined", open())
	c.Set(func(b *clienttest.Behaviour) { b.UserID, b.UserName = "usr-aaaaaaaaaaaaaaaa", "virat" })
	d.login()
	if err := d.api.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	if st := d.until("joined", open()); st.UserName != "virat" {
		t.Errorf("status %+v", st)
	}
	d.node(1)
	if !d.node(0).closed || d.asked[0].Dir == d.asked[1].Dir {
		t.Errorf("one place for two people: %+v", d.asked)
	}
}

func TestCoordinatorAwayDisturbsNothing(t *testing.T) {
	c := clienttest.Start(t)
	c.Set(clusters("edge-1"))
	d := newDevice(t, c)
	d.up()
	d.until("joined", open("edge-1"))
	c.Away(true)
	st := d.until("without coordinator", func(s localapi.Status) bool { return !s.Connected })
	if st.State != localapi.Joined || len(st.Clusters) != 1 || st.Problem == "" {
		t.Errorf("status %+v", st)
	}
	if a, err := d.api.Access(t.Context(), "edge-1"); err != nil || !a.Open || a.State != localapi.Joined {
		t.Errorf("access %+v, %v", a, err)
	}
	c.Away(false)
	if st := d.until("with coordinator", open("edge-1")); st.Problem != "" {
		t.Errorf("still wrong: %s", st.Problem)
	}
}

func TestSessionEndsWhenItsTimeComes(t *testing.T) {
	c := clienttest.Start(t)
	c.Set(func(b *clienttest.Behaviour) { b.Session = 3 * time.Second })
	d := newDevice(t, c)
	d.up()
	st := d.until("ended", func(s localapi.Status) bool { return s.State == localapi.Ended })
	if !strings.HasPrefix(st.Problem, "the session was over at ") {
		t.Errorf("problem %q", st.Problem)
	}
	if err := Run(t.Context(), Config{Home: d.home, Log: slog.New(slog.DiscardHandler)}); !errors.Is(err, ErrRunning) {
		t.Errorf("a second daemon: %v", err)
	}
}

// What a person should know before it hurts.
func TestStatusWarns(t *testing.T) {
	c := clienttest.Start(t)
	c.Set(func(b *clienttest.Behaviour) { b.Session, b.Clock = 20*time.Minute, -3*time.Hour })
	d := newDevice(t, c)
	d.up()
	st := d.until("joined", open())
	var said []string
	for _, w := range st.Warnings {
		said = append(said, w.Text+" / "+w.Hint)
	}
	want := []string{"the session ends in 20 minutes / sallyport login", "this machine's clock is 3 hours ahead of the coordinator's / set this machine's clock"}
	if !slices.Equal(said, want) {
		t.Errorf("warnings %q, want %q", said, want)
	}
	c.Away(true)
	d.until("a warning of the coordinator", func(s localapi.Status) bool {
		return slices.ContainsFunc(s.Warnings, func(w localapi.Warning) bool {
			return strings.HasPrefix(w.Text, "the coordinator is not heard since ") && strings.Contains(w.Text, c.Link.URL)
		})
	})
}

// A cluster that the coordinator does not hear is looked at before kubectl is told
// that it is open: it may answer all the same, or be about to.
func TestSilentClusterIsWaitedForAndSaid(t *testing.T) {
	c := clienttest.Start(t)
	offline := cluster("edge-1")
	offline.Online = false
	c.Set(func(b *clienttest.Behaviour) { b.Clusters = []*apiv1.ReachableCluster{offline} })
	d := newDevice(t, c)
	d.up()
	d.until("joined", open("edge-1"))
	if a, err := d.api.Access(t.Context(), "edge-1"); err != nil || a.Silent {
		t.Errorf("an agent that answers: %+v, %v", a, err)
	}
	d.node(0).set(func(n *node) { n.silent = true })
	if a, err := d.api.Access(t.Context(), "edge-1"); err != nil || !a.Silent || !a.Open {
		t.Errorf("an agent that does not: %+v, %v", a, err)
	}
	asked := make(chan localapi.Access, 1)
	go func() {
		a, _ := d.api.Access(context.WithoutCancel(t.Context()), "edge-1")
		asked <- a
	}()
	c.Set(clusters("edge-1")) // online
	if a := <-asked; a.Silent {
		t.Errorf("an agent that came back: %+v", a)
	}
}

// The proxy may have to move while the coordinator is away; kubeconfig follows.
func TestKubeconfigFollowsTheProxyWithoutACoordinator(t *testing.T) {
	c := clienttest.Start(t)
	c.Set(clusters("edge-1"))
	d := newDevice(t, c)
	down := d.up()
	d.until("joined", open("edge-1"))
	if err := down(); err != nil {
		t.Fatal(err)
	}
	before, err := socks.Load(d.home.Path(SocksFile))
	if err != nil {
		t.Fatal(err)
	}
	thief, err := net.Listen("tcp", before.Address.String())
	if err != nil {
		t.Fatal(err)
	}
	defer thief.Close()
	c.Away(true)
	d.up()
	after, err := socks.Load(d.home.Path(SocksFile))
	if err != nil || after.Address == before.Address || after.Password == before.Password {
		t.Fatalf("proxy %v, was %v (%v)", after.Address, before.Address, err)
	}
	config, err := clientcmd.LoadFromFile(d.kubeconfig)
	if err != nil || config.Clusters["sallyport/edge-1"].ProxyURL != after.URL() {
		t.Errorf("kubeconfig points elsewhere (%v)", err)
	}
}

func TestSocketOfAKilledDaemonIsReplaced(t *testing.T) {
	c := clienttest.Start(t)
	d := newDevice(t, c)
	ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: d.home.Path(SocketFile), Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	ln.SetUnlinkOnClose(false)
	ln.Close()
	d.up()
	d.until("joined", open())
}

func TestKubectlsConnectionGoesOverTheOverlay(t *testing.T) {
	c := clienttest.Start(t)
	c.Set(clusters("edge-1"))
	d := newDevice(t, c)
	d.up()
	d.until("joined", open("edge-1"))
	backend, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer backend.Close()
	d.node(0).set(func(n *node) { n.backend = backend.Addr().String() })

	credentials, err := socks.Load(d.home.Path(SocksFile))
	if err != nil {
		t.Fatal(err)
	}
	dialer, err := proxy.SOCKS5("tcp", credentials.Address.String(), &proxy.Auth{User: credentials.User, Password: credentials.Password}, nil)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := dialer.Dial("tcp", "edge-1.sallyport.internal:443")
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
	d.node(0).set(func(n *node) {
		if !slices.Equal(n.dialled, []string{"edge-1.sallyport.internal:443"}) {
			t.Errorf("dialled %v", n.dialled)
		}
	})
	c.End("over")
	d.until("ended", func(s localapi.Status) bool { return s.State == localapi.Ended })
	if conn, err := dialer.Dial("tcp", "edge-1.sallyport.internal:443"); err == nil {
		conn.Close()
		t.Error("dialled after the session was over")
	}
}

// What the coordinator says goes into the person's kubeconfig only where it is a
// name of ours and a host on the overlay.
func TestOddClustersStayOutOfKubeconfig(t *testing.T) {
	c := clienttest.Start(t)
	evil, long := cluster("edge-1"), cluster("edge-2")
	evil.ServerName = "evil.example.com"
	long.Name = "../../etc\n- x"
	c.Set(func(b *clienttest.Behaviour) { b.Clusters = []*apiv1.ReachableCluster{evil, long, cluster("edge-3")} })
	d := newDevice(t, c)
	d.up()
	d.until("one cluster", open("edge-3"))
	if got := d.contexts(); !slices.Equal(got, []string{"sallyport/edge-3"}) {
		t.Errorf("contexts %v", got)
	}
}

func TestClustersAreRememberedForAStartWithoutCoordinator(t *testing.T) {
	c := clienttest.Start(t)
	c.Set(clusters("edge-1"))
	d := newDevice(t, c)
	down := d.up()
	d.until("joined", open("edge-1"))
	if err := down(); err != nil {
		t.Fatal(err)
	}
	c.Away(true)
	d.up()
	d.until("joined", func(s localapi.Status) bool { return s.State == localapi.Joined && !s.Connected })
	if a, err := d.api.Access(t.Context(), "edge-1"); err != nil || !a.Open {
		t.Errorf("access %+v, %v", a, err)
	}
	entries, err := Contexts(d.home, "/usr/bin/sallyport")
	if err != nil || len(entries) != 1 {
		t.Errorf("contexts %v, %v", entries, err)
	}
}
