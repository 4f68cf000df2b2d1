package tailnet

import (
	"testing"
	"time"

	"tailscale.com/derp"
	"tailscale.com/derp/derphttp"
	"tailscale.com/net/netmon"
	"tailscale.com/types/key"
)

// relayClient connects to the relay with a node's key.
func (m *mesh) relayClient(k key.NodePrivate) (*derphttp.Client, error) {
	c, err := derphttp.NewClient(k, m.plain+"/derp", func(string, ...any) {}, netmon.NewStatic())
	if err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(func() { c.Close() })
	if err := c.Connect(m.t.Context()); err != nil {
		return nil, err
	}
	// The server says who it is before it decides, so the connection stands once
	// it answers a ping.
	if err := c.SendPing(derp.PingMessage{1}); err != nil {
		return nil, err
	}
	for {
		msg, err := c.Recv()
		if err != nil {
			return nil, err
		}
		if _, ok := msg.(derp.PongMessage); ok {
			return c, nil
		}
	}
}

func TestRelayCarriesForOurNodesOnly(t *testing.T) {
	m := newMesh(t, device("dev-1"), device("dev-2"), device("dev-3"))
	ours := m.enrolled("dev-1")
	if _, err := m.relayClient(ours.node); err != nil {
		t.Fatalf("a node of ours: %v", err)
	}
	if _, err := m.relayClient(key.NewNode()); err == nil {
		t.Error("a stranger is let in")
	}
	lapsed := m.enrolled("dev-2")
	m.setExpiry("dev-2", time.Now())
	if _, err := m.relayClient(lapsed.node); err == nil {
		t.Error("a node whose session has ended is let in")
	}
	removed := m.enrolled("dev-3")
	c, err := m.relayClient(removed.node)
	if err != nil {
		t.Fatal(err)
	}
	m.change(func(top *Topology) { delete(top.Members, "dev-3") })
	for {
		if _, err := c.Recv(); err != nil {
			break // closed by the relay
		}
	}
	if _, err := m.relayClient(removed.node); err == nil {
		t.Error("a node that was removed is let in")
	}
}
