package overlay

import (
	"net/netip"
	"testing"
)

func TestAnswerThatAChangeOvertookIsNotKept(t *testing.T) {
	var c peerCache
	a := netip.MustParseAddr("100.64.0.1")
	c.reset()
	_, asked, ok := c.get(a)
	if ok {
		t.Fatal("an answer out of nothing")
	}
	c.reset() // the map changes while the question is out
	c.put(a, Peer{DeviceID: "dev-1"}, asked)
	if _, _, ok := c.get(a); ok {
		t.Error("the old answer is served")
	}
	_, asked, _ = c.get(a)
	c.put(a, Peer{DeviceID: "dev-2"}, asked)
	if p, _, ok := c.get(a); !ok || p.DeviceID != "dev-2" {
		t.Errorf("got %v, %v", p, ok)
	}
	c.reset()
	if _, _, ok := c.get(a); ok {
		t.Error("served after a change")
	}
}

func TestNothingIsKeptWhileNobodyWatchesForChanges(t *testing.T) {
	var c peerCache
	a := netip.MustParseAddr("100.64.0.1")
	for _, stop := range []func(){func() {}, c.disable} {
		stop()
		_, asked, _ := c.get(a)
		c.put(a, Peer{DeviceID: "dev-1"}, asked)
		if _, _, ok := c.get(a); ok {
			t.Error("kept")
		}
		c.reset()
		_, asked, _ = c.get(a)
		c.put(a, Peer{DeviceID: "dev-1"}, asked)
	}
	var names nameCache
	reads := 0
	read := func() (map[string][]netip.Addr, error) {
		reads++
		return map[string][]netip.Addr{}, nil
	}
	for range 2 {
		names.load(read)
	}
	names.reset()
	for range 2 {
		names.load(read)
	}
	names.disable()
	names.load(read)
	if reads != 4 {
		t.Errorf("%d reads, want two before watching, one while, one after", reads)
	}
}
