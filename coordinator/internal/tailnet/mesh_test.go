package tailnet

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/sallyport-mesh/sallyport/pkg/overlay"
)

func addrPort(a net.Addr) netip.AddrPort {
	ap, err := netip.ParseAddrPort(a.String())
	if err != nil {
		panic(err)
	}
	return ap
}

// refusedWithin is how long a test watches for a connection that must not be
// made. One that is allowed takes a few milliseconds.
const refusedWithin = 700 * time.Millisecond

func wantGreeting(t *testing.T, n *overlay.Node, name, want string) {
	t.Helper()
	if got, err := ask(t, n, name+":443", deadline); err != nil || got != want {
		t.Errorf("asking %s: %q, %v; want %q", name, got, err, want)
	}
}

func TestDeviceReachesItsAgentAndNothingElse(t *testing.T) {
	m := newMesh(t, device("dev-1"), device("dev-2"), agent("agt-1", "edge-1"), agent("agt-2", "edge-2"))
	m.allow("dev-1", "agt-1")
	m.allow("dev-2", "agt-1")
	d1, d2 := m.join("dev-1"), m.join("dev-2")
	a1, a2 := m.join("agt-1"), m.join("agt-2")
	greet(t, a1, ":443")
	greet(t, a1, ":8080")
	greet(t, a2, ":443")
	greet(t, d1, ":443")
	greet(t, d2, ":443")

	wantGreeting(t, d1, fqdn("edge-1"), "dev-1 of usr-dev-1")
	wantGreeting(t, d1, fqdn("agt-1-host"), "dev-1 of usr-dev-1")
	wantGreeting(t, d1, m.Status("agt-1").Addrs[0].String(), "dev-1 of usr-dev-1")
	wantGreeting(t, d1, "["+m.Status("agt-1").Addrs[1].String()+"]", "dev-1 of usr-dev-1")
	wantGreeting(t, d2, fqdn("edge-1"), "dev-2 of usr-dev-2")

	addrOf := func(member string) string { return m.Status(member).Addrs[0].String() }
	for what, c := range map[string]struct {
		from *overlay.Node
		to   string
	}{
		"device to another port of its agent": {d1, addrOf("agt-1") + ":8080"},
		"device to another agent":             {d1, addrOf("agt-2") + ":443"},
		"device to another agent by name":     {d1, fqdn("edge-2") + ":443"},
		"device to a device":                  {d1, addrOf("dev-2") + ":443"},
		"agent to an agent":                   {a1, addrOf("agt-2") + ":443"},
		"agent to its device":                 {a1, addrOf("dev-1") + ":443"},
		"beyond the overlay":                  {d1, "127.0.0.1:1"},
	} {
		if got, err := ask(t, c.from, c.to, refusedWithin); err == nil {
			t.Errorf("%s: got through (%q)", what, got)
		}
	}
	if _, err := d1.WhoIs(t.Context(), netip.AddrPortFrom(m.Status("agt-1").Addrs[0], 443)); !errors.Is(err, overlay.ErrUnknownPeer) {
		t.Errorf("an agent has a device claim: %v", err)
	}
}

func TestSecondUseOfAnAuthKeyFailsWithASentence(t *testing.T) {
	m := newMesh(t, device("dev-1"))
	k := m.key("dev-1")
	m.joinIn(t.TempDir(), "dev-1", k)
	ctx, cancel := context.WithTimeout(t.Context(), deadline)
	defer cancel()
	n, err := overlay.Join(ctx, m.config(t.TempDir(), "thief", k))
	if err == nil {
		n.Close()
		t.Fatal("joined with a key that was used")
	}
	if !strings.Contains(err.Error(), "used already") {
		t.Errorf("got %v", err)
	}
}

func TestEdgesComeAndGoWhileBothAreConnected(t *testing.T) {
	m := newMesh(t, device("dev-1"), agent("agt-1", "edge-1"))
	d, a := m.join("dev-1"), m.join("agt-1")
	greet(t, a, ":443")
	name := fqdn("edge-1")
	if _, err := d.Resolve(t.Context(), name); !errors.Is(err, overlay.ErrUnknownName) {
		t.Errorf("a cluster without an edge has a name: %v", err)
	}
	source := addrPortOf(m, "dev-1")
	for range 3 {
		start := time.Now()
		m.allow("dev-1", "agt-1")
		eventually(t, "name of the cluster", func() error {
			_, err := d.Resolve(t.Context(), name)
			return err
		})
		t.Logf("resolved after %v", time.Since(start).Round(100*time.Microsecond))
		wantGreeting(t, d, name, "dev-1 of usr-dev-1")
		t.Logf("answered after %v", time.Since(start).Round(100*time.Microsecond))
		if _, err := a.WhoIs(t.Context(), source); err != nil {
			t.Errorf("device with an edge: %v", err)
		}

		start = time.Now()
		m.deny("dev-1")
		eventually(t, "agent forgets the device", func() error {
			if _, err := a.WhoIs(t.Context(), source); !errors.Is(err, overlay.ErrUnknownPeer) {
				return errors.New("still known")
			}
			return nil
		})
		t.Logf("forgotten after %v", time.Since(start).Round(100*time.Microsecond))
		eventually(t, "name goes", func() error {
			if _, err := d.Resolve(t.Context(), name); !errors.Is(err, overlay.ErrUnknownName) {
				return errors.New("still there")
			}
			return nil
		})
		if got, err := ask(t, d, m.Status("agt-1").Addrs[0].String()+":443", refusedWithin); err == nil {
			t.Errorf("got through without an edge: %q", got)
		}
	}
}

func addrPortOf(m *mesh, member string) netip.AddrPort {
	return netip.AddrPortFrom(m.Status(member).Addrs[0], 1234)
}

// state waits for a node's state.
func state(t *testing.T, n *overlay.Node, want string) {
	t.Helper()
	eventually(t, "state "+want, func() error {
		st, err := n.Status(t.Context())
		if err == nil && st.State != want {
			err = errors.New("is " + st.State)
		}
		return err
	})
}

func TestRemovedMemberIsOffAndComesBackWhenItIsAllowedAgain(t *testing.T) {
	m := newMesh(t, device("dev-1"), agent("agt-1", "edge-1"))
	m.allow("dev-1", "agt-1")
	d, a := m.join("dev-1"), m.join("agt-1")
	greet(t, a, ":443")
	wantGreeting(t, d, fqdn("edge-1"), "dev-1 of usr-dev-1")
	m.change(func(top *Topology) { delete(top.Members, "dev-1") })
	state(t, d, "NeedsLogin")
	if _, err := a.WhoIs(t.Context(), addrPortOf(m, "dev-1")); !errors.Is(err, overlay.ErrUnknownPeer) {
		t.Errorf("the agent still knows it: %v", err)
	}
	if got, err := ask(t, d, m.Status("agt-1").Addrs[0].String()+":443", refusedWithin); err == nil {
		t.Errorf("got through: %q", got)
	}
	m.change(func(top *Topology) { top.Members["dev-1"] = device("dev-1") })
	state(t, d, "Running")
	wantGreeting(t, d, fqdn("edge-1"), "dev-1 of usr-dev-1")
}

func TestExpiredDeviceIsOffUntilItsSessionIsExtended(t *testing.T) {
	m := newMesh(t, device("dev-1"), agent("agt-1", "edge-1"))
	m.allow("dev-1", "agt-1")
	d, a := m.join("dev-1"), m.join("agt-1")
	greet(t, a, ":443")
	wantGreeting(t, d, fqdn("edge-1"), "dev-1 of usr-dev-1")
	end := time.Now().Add(time.Second)
	m.setExpiry("dev-1", end)
	state(t, d, "NeedsLogin")
	if time.Now().Before(end) {
		t.Error("off before its time")
	}
	eventually(t, "agent forgets the device", func() error {
		if _, err := a.WhoIs(t.Context(), addrPortOf(m, "dev-1")); !errors.Is(err, overlay.ErrUnknownPeer) {
			return errors.New("still known")
		}
		return nil
	})
	m.setExpiry("dev-1", time.Now().Add(time.Hour))
	state(t, d, "Running")
	wantGreeting(t, d, fqdn("edge-1"), "dev-1 of usr-dev-1")
}

func TestNewAuthKeyBringsALoggedOutNodeBack(t *testing.T) {
	m := newMesh(t, device("dev-1"), agent("agt-1", "edge-1"))
	m.allow("dev-1", "agt-1")
	dir := t.TempDir()
	d, a := m.joinIn(dir, "dev-1", m.key("dev-1")), m.join("agt-1")
	greet(t, a, ":443")
	wantGreeting(t, d, fqdn("edge-1"), "dev-1 of usr-dev-1")
	addr := m.Status("dev-1").Addrs[0]
	if err := d.Logout(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := a.WhoIs(t.Context(), addrPortOf(m, "dev-1")); !errors.Is(err, overlay.ErrUnknownPeer) {
		t.Errorf("the agent still knows it: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), deadline)
	defer cancel()
	if n, err := overlay.Join(ctx, m.config(dir, "dev-1", "spkey-wrong")); err == nil || !strings.Contains(err.Error(), "unknown") {
		t.Errorf("with a wrong key: %v, %v", n, err)
	}
	d = m.joinIn(dir, "dev-1", m.key("dev-1"))
	wantGreeting(t, d, fqdn("edge-1"), "dev-1 of usr-dev-1")
	if m.Status("dev-1").Addrs[0] != addr {
		t.Errorf("its address was %v and is %v", addr, m.Status("dev-1").Addrs[0])
	}
}

func TestEndOfSessionThenLoginAgain(t *testing.T) {
	m := newMesh(t, device("dev-1"), agent("agt-1", "edge-1"))
	m.allow("dev-1", "agt-1")
	d, a := m.join("dev-1"), m.join("agt-1")
	greet(t, a, ":443")
	m.setExpiry("dev-1", time.Now())
	state(t, d, "NeedsLogin")
	ctx, cancel := context.WithTimeout(t.Context(), deadline)
	defer cancel()
	m.setExpiry("dev-1", time.Now())
	if err := d.Reauth(ctx, "spkey-wrong"); err == nil || !strings.Contains(err.Error(), "session has ended") {
		t.Errorf("with a wrong key: %v", err)
	}
	m.setExpiry("dev-1", time.Now().Add(time.Hour))
	if err := d.Reauth(ctx, m.key("dev-1")); err != nil {
		t.Fatal(err)
	}
	wantGreeting(t, d, fqdn("edge-1"), "dev-1 of usr-dev-1")

	// Again, while the session lasts: the old key goes, the device is the same.
	if err := d.Reauth(ctx, m.key("dev-1")); err != nil {
		t.Fatal(err)
	}
	wantGreeting(t, d, fqdn("edge-1"), "dev-1 of usr-dev-1")
}

func TestRestartOfTheServerKeepsNodesConnected(t *testing.T) {
	m := newMesh(t, device("dev-1"), agent("agt-1", "edge-1"))
	m.allow("dev-1", "agt-1")
	dir := t.TempDir()
	d, a := m.joinIn(dir, "dev-1", m.key("dev-1")), m.join("agt-1")
	greet(t, a, ":443")
	wantGreeting(t, d, fqdn("edge-1"), "dev-1 of usr-dev-1")
	before := map[string]Status{"dev-1": m.Status("dev-1"), "agt-1": m.Status("agt-1")}
	noise := m.noise.Public()

	ln, err := a.Listen(":443")
	if err == nil {
		ln.Close()
		t.Fatal("two listeners on one port")
	}
	conn := echo(t, a, d, m)
	m.stop()
	say(t, conn, "while it is away")
	wantGreeting(t, d, fqdn("edge-1"), "dev-1 of usr-dev-1")
	m.start()
	m.SetTopology(m.snapshot())
	say(t, conn, "when it is back")
	for id, st := range before {
		eventually(t, id+" is back", func() error {
			now := m.Status(id)
			if !now.Online || now.Addrs[0] != st.Addrs[0] {
				return errors.New("not online at its address yet")
			}
			return nil
		})
	}
	if m.noise.Public() != noise {
		t.Error("the server has another key")
	}
	say(t, conn, "when all are back")
	wantGreeting(t, d, fqdn("edge-1"), "dev-1 of usr-dev-1")

	// A node that starts again needs no key, and is the same.
	d.Close()
	d = m.joinIn(dir, "dev-1", "")
	wantGreeting(t, d, fqdn("edge-1"), "dev-1 of usr-dev-1")
	if got := m.Status("dev-1").Addrs[0]; got != before["dev-1"].Addrs[0] {
		t.Errorf("its address was %v and is %v", before["dev-1"].Addrs[0], got)
	}
}

// echo opens a connection over the overlay that answers what it is told. Only
// port 443 is open, so it moves in with the greeter by another listener's name.
func echo(t *testing.T, a, d *overlay.Node, m *mesh) net.Conn {
	t.Helper()
	v6 := m.Status("agt-1").Addrs[1].String()
	ln, err := a.Listen("[" + v6 + "]:443")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go io.Copy(c, c)
		}
	}()
	conn, err := d.Dial(t.Context(), "tcp", "["+v6+"]:443")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	say(t, conn, "at first")
	return conn
}

func say(t *testing.T, conn net.Conn, what string) {
	t.Helper()
	conn.SetDeadline(time.Now().Add(deadline))
	if _, err := io.WriteString(conn, what); err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	b := make([]byte, len(what))
	if _, err := io.ReadFull(conn, b); err != nil || string(b) != what {
		t.Fatalf("%s: %q, %v", what, b, err)
	}
}

func TestNodesReachEachOtherThroughTheRelayAlone(t *testing.T) {
	// tsnet reads these once, when the process starts.
	if os.Getenv("TS_DEBUG_ALWAYS_USE_DERP") == "" {
		cmd := exec.Command(os.Args[0], "-test.run", "^"+t.Name()+"$")
		cmd.Env = append(os.Environ(), "TS_DEBUG_ALWAYS_USE_DERP=1", "TS_DEBUG_NEVER_DIRECT_UDP=1")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%v\n%s", err, out)
		}
		return
	}
	m := newMesh(t, device("dev-1"), agent("agt-1", "edge-1"))
	m.allow("dev-1", "agt-1")
	d, a := m.join("dev-1"), m.join("agt-1")
	greet(t, a, ":443")
	wantGreeting(t, d, fqdn("edge-1"), "dev-1 of usr-dev-1")
	st, err := d.Status(t.Context())
	if err != nil || len(st.Peers) != 1 || st.Peers[0].Path != overlay.Relayed {
		t.Errorf("status %+v, %v", st, err)
	}
	p, err := d.Ping(t.Context(), m.Status("agt-1").Addrs[0])
	if err != nil || p.Path != overlay.Relayed {
		t.Errorf("ping %+v, %v", p, err)
	}
	// The relay lets go of a node that is removed.
	m.change(func(top *Topology) { delete(top.Members, "dev-1") })
	eventually(t, "relay connection closes", func() error {
		m.relay.mu.Lock()
		defer m.relay.mu.Unlock()
		if len(m.relay.conns) != 1 {
			return errors.New("still there")
		}
		return nil
	})
}

func TestNodeKnowsWhenItsRelayIsConnected(t *testing.T) {
	m := newMesh(t, device("dev-1"))
	d := m.join("dev-1")
	want := func(up bool) {
		t.Helper()
		eventually(t, "word of the relay", func() error {
			st, err := d.Status(t.Context())
			if err == nil && st.RelayConnected != up {
				err = fmt.Errorf("connected: %v, want %v", st.RelayConnected, up)
			}
			return err
		})
	}
	want(true)
	m.stop()
	want(false)
	m.start()
	m.SetTopology(m.snapshot())
	want(true)
}

func TestFirstConnectionDoesNotWaitForALostHandshake(t *testing.T) {
	m := newMesh(t, device("dev-1"), agent("agt-1", "edge-1"), agent("agt-2", "edge-2"))
	m.allow("dev-1", "agt-1", "agt-2")
	// Either side may be the one that has just started.
	d := m.join("dev-1")
	for _, id := range []string{"agt-1", "agt-2"} {
		greet(t, m.join(id), ":443")
		start := time.Now()
		wantGreeting(t, d, fqdn(id+"-host"), "dev-1 of usr-dev-1")
		if took := time.Since(start); took > 4*time.Second {
			t.Errorf("the first connection to %s took %v", id, took)
		}
	}
}

func TestClusterAnswersWhileOneOfItsAgentsIsAway(t *testing.T) {
	m := newMesh(t, device("dev-1"), agent("agt-1", "edge-1"), agent("agt-2", "edge-1"))
	m.allow("dev-1", "agt-1", "agt-2")
	d, a1, a2 := m.join("dev-1"), m.join("agt-1"), m.join("agt-2")
	greet(t, a1, ":443")
	greet(t, a2, ":443")
	wantGreeting(t, d, fqdn("edge-1"), "dev-1 of usr-dev-1")
	a1.Close()
	start := time.Now()
	wantGreeting(t, d, fqdn("edge-1"), "dev-1 of usr-dev-1")
	if took := time.Since(start); took > 4*time.Second {
		t.Errorf("it took %v", took)
	}
}

func TestNodesFindADirectPath(t *testing.T) {
	m := newMesh(t, device("dev-1"), agent("agt-1", "edge-1"))
	m.allow("dev-1", "agt-1")
	d, a := m.join("dev-1"), m.join("agt-1")
	greet(t, a, ":443")
	eventually(t, "direct path", func() error {
		wantGreeting(t, d, fqdn("edge-1"), "dev-1 of usr-dev-1")
		st, err := d.Status(t.Context())
		if err == nil && st.Peers[0].Path != overlay.Direct {
			err = errors.New(string(st.Peers[0].Path))
		}
		return err
	})
	st, err := d.Status(t.Context())
	if err != nil || !st.Running || st.Name != fqdn("dev-1-host") || len(st.Addrs) != 2 || !st.KeyExpiry.IsZero() {
		t.Errorf("status %+v, %v", st, err)
	}
}

func TestNodeThatStartsAgainIsReachedAtOnce(t *testing.T) {
	m := newMesh(t, device("dev-1"), agent("agt-1", "edge-1"))
	m.allow("dev-1", "agt-1")
	dir := t.TempDir()
	d, a := m.joinIn(dir, "dev-1", m.key("dev-1")), m.join("agt-1")
	greet(t, a, ":443")
	for range 3 {
		wantGreeting(t, d, fqdn("edge-1"), "dev-1 of usr-dev-1")
		d.Close()
		d = m.joinIn(dir, "dev-1", "")
		start := time.Now()
		wantGreeting(t, d, fqdn("edge-1"), "dev-1 of usr-dev-1")
		if took := time.Since(start); took > 4*time.Second {
			t.Errorf("the first connection took %v", took)
		}
	}
}

func TestImpostorWithAnotherRootGetsNothing(t *testing.T) {
	m := newMesh(t, device("dev-1"))
	k := m.key("dev-1")
	imp := httptest.NewUnstartedServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		t.Errorf("the impostor was asked for %s", r.URL)
	}))
	imp.Config.ErrorLog = log.New(io.Discard, "", 0)
	imp.StartTLS() // a certificate for 127.0.0.1, of httptest's own root
	defer imp.Close()
	cfg := m.config(t.TempDir(), "dev-1", k)
	cfg.ControlURL = imp.URL
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	if n, err := overlay.Join(ctx, cfg); err == nil {
		n.Close()
		t.Fatal("joined the impostor")
	}
	m.joinIn(t.TempDir(), "dev-1", k) // the auth key is unspent
}
