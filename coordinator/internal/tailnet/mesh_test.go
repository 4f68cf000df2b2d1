package tailnet

import (
	"net"
	"net/netip"
	"testing"
	"time"
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

	for _, name := range []string{"edge-1", "agt-1-host"} {
		got, err := ask(t, d1, fqdn(name)+":443", deadline)
		if err != nil || got != "dev-1 of usr-dev-1" {
			t.Errorf("dev-1 to %s: %q, %v", name, got, err)
		}
	}
	if got, err := ask(t, d2, fqdn("edge-1")+":443", deadline); err != nil || got != "dev-2 of usr-dev-2" {
		t.Errorf("dev-2 to edge-1: %q, %v", got, err)
	}
	addrOf := func(member string) string { return m.Status(member).Addrs[0].String() }
	for what, c := range map[string]func() (string, error){
		"device to another port of its agent": func() (string, error) { return ask(t, d1, addrOf("agt-1")+":8080", refusedWithin) },
		"device to another agent":             func() (string, error) { return ask(t, d1, addrOf("agt-2")+":443", refusedWithin) },
		"device to another agent by name":     func() (string, error) { return ask(t, d1, fqdn("edge-2")+":443", refusedWithin) },
		"device to a device":                  func() (string, error) { return ask(t, d1, addrOf("dev-2")+":443", refusedWithin) },
		"agent to an agent":                   func() (string, error) { return ask(t, a1, addrOf("agt-2")+":443", refusedWithin) },
		"agent to its device":                 func() (string, error) { return ask(t, a1, addrOf("dev-1")+":443", refusedWithin) },
	} {
		if got, err := c(); err == nil {
			t.Errorf("%s: got through (%q)", what, got)
		}
	}
}
