package tailnet

import (
	"bytes"
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"tailscale.com/tailcfg"
	"tailscale.com/types/key"

	"github.com/sallyport-mesh/sallyport/pkg/identity"
)

func TestMapHoldsReachablePeersOnly(t *testing.T) {
	m := newMesh(t, device("dev-1"), device("dev-2"), agent("agt-1", "edge-1"), agent("agt-2", "edge-1"), agent("agt-3", "edge-3"))
	m.allow("dev-1", "agt-1", "agt-2")
	m.allow("dev-2", "agt-3")
	nodes := map[string]*light{}
	for id := range m.top.Members {
		nodes[id] = m.enrolled(id)
	}
	res := nodes["dev-1"].stream().next()
	var names []string
	for _, p := range res.Peers {
		names = append(names, p.Name)
	}
	slices.Sort(names)
	if want := []string{"agt-1-host.mesh.test.", "agt-2-host.mesh.test."}; !slices.Equal(names, want) {
		t.Errorf("peers %v", names)
	}
	var records []string
	for _, r := range res.DNSConfig.ExtraRecords {
		records = append(records, r.Name+" "+r.Value)
	}
	var want []string
	for _, id := range []string{"agt-1", "agt-2"} {
		for _, a := range m.Status(id).Addrs {
			want = append(want, "edge-1.mesh.test. "+a.String())
		}
	}
	slices.Sort(records)
	slices.Sort(want)
	if !slices.Equal(records, want) {
		t.Errorf("cluster names %v, want %v", records, want)
	}
	if rules, ok := res.PacketFilters["base"]; !ok || rules == nil || len(rules) != 0 || len(res.PacketFilters) != 1 {
		t.Errorf("a device's packet filter admits %v", res.PacketFilters)
	}
	if len(res.UserProfiles) == 0 || res.Node.Name != "dev-1-host.mesh.test." {
		t.Errorf("self %v, profiles %v", res.Node.Name, res.UserProfiles)
	}

	res = nodes["agt-3"].stream().next()
	if len(res.Peers) != 1 || res.Peers[0].Name != "dev-2-host.mesh.test." || res.DNSConfig.ExtraRecords != nil {
		t.Errorf("agt-3 sees %v, names %v", res.Peers, res.DNSConfig.ExtraRecords)
	}
	var rules []tailcfg.FilterRule
	for _, part := range res.PacketFilters {
		rules = append(rules, part...)
	}
	d, a := m.Status("dev-2").Addrs, m.Status("agt-3").Addrs
	src := []string{d[0].String(), d[1].String()}
	if len(rules) != 2 || !slices.Equal(rules[0].SrcIPs, src) || !slices.Equal(rules[1].SrcIPs, src) {
		t.Fatalf("rules %+v", rules)
	}
	for i, p := range rules[0].DstPorts {
		if p.IP != a[i].String() || p.Ports != (tailcfg.PortRange{First: 443, Last: 443}) {
			t.Errorf("admits to %+v", p)
		}
	}
	if !slices.Equal(rules[0].IPProto, []int{6}) || len(rules[0].DstPorts) != 2 {
		t.Errorf("admits %+v", rules[0])
	}
	claims, err := tailcfg.UnmarshalCapJSON[identity.DeviceClaim](rules[1].CapGrant[0].CapMap, identity.DeviceCapability)
	if err != nil || len(claims) != 1 || claims[0] != (identity.DeviceClaim{Device: "dev-2", User: "usr-dev-2"}) {
		t.Errorf("claims %v, %v", claims, err)
	}
}

func TestMapSendsNodesToNoPublicHost(t *testing.T) {
	m := newMesh(t, device("dev-1"))
	res := m.enrolled("dev-1").stream().next()
	if !res.DERPMap.OmitDefaultRegions || len(res.DERPMap.Regions) != 1 {
		t.Errorf("relays: %+v", res.DERPMap)
	}
	for _, r := range res.DERPMap.Regions {
		for _, n := range r.Nodes {
			if n.HostName != "127.0.0.1" || n.IPv4 != "127.0.0.1" || n.IPv6 != "none" || n.InsecureForTests {
				t.Errorf("relay %+v", n)
			}
		}
	}
	if res.Debug == nil || !res.Debug.DisableLogTail || !res.Node.HasCap(tailcfg.NodeAttrDisableCaptivePortalDetection) {
		t.Errorf("log upload or captive portal detection is on: %+v %v", res.Debug, res.Node.CapMap)
	}
	if b, _ := json.Marshal(res); bytes.Contains(b, []byte("tailscale.com")) {
		t.Errorf("the map names a host of Tailscale's: %s", b)
	}
}

func TestChangesAreSentAsDeltas(t *testing.T) {
	m := newMesh(t, device("dev-1"), agent("agt-1", "edge-1"), agent("agt-2", "edge-2"))
	m.allow("dev-1", "agt-1")
	d, a1 := m.enrolled("dev-1"), m.enrolled("agt-1")
	m.enrolled("agt-2")
	du, au := d.stream(), a1.stream()
	if first := du.next(); len(first.Peers) != 1 {
		t.Fatalf("first map: %+v", first)
	}
	au.next()
	// Each sees the other come online, in whichever order they connected.
	if res := du.next(); len(res.PeersChangedPatch) != 1 || !*res.PeersChangedPatch[0].Online || res.Peers != nil || res.Node != nil {
		t.Errorf("coming online: %+v", res)
	}

	disco := key.NewDisco().Public()
	a1.report(disco, "192.0.2.7:41641", "[fe80::1]:9", "0.0.0.0:9", "224.0.0.1:9")
	res := du.next()
	if len(res.PeersChangedPatch) != 1 || len(res.PeersChanged)+len(res.Peers)+len(res.PeersRemoved) != 0 || res.PacketFilters != nil || res.DNSConfig != nil {
		t.Fatalf("new endpoints: %+v", res)
	}
	p := res.PeersChangedPatch[0]
	if *p.DiscoKey != disco || len(p.Endpoints) != 1 || p.Endpoints[0].String() != "192.0.2.7:41641" {
		t.Errorf("patch %+v", p)
	}
	au.quiet(50 * time.Millisecond) // its own report does not disturb its stream

	m.allow("dev-1", "agt-2")
	res = du.next()
	if len(res.PeersChanged) != 1 || res.Peers != nil || res.Node != nil || res.PacketFilters != nil ||
		len(res.DNSConfig.ExtraRecords) != 4 || len(res.UserProfiles) != 1 {
		t.Errorf("another edge: %+v", res)
	}
	au.quiet(50 * time.Millisecond) // it does not concern the other agent

	m.deny("dev-1")
	res = du.next()
	if len(res.PeersRemoved) != 2 || len(res.DNSConfig.ExtraRecords) != 0 || res.PeersChanged != nil {
		t.Errorf("no edge: %+v", res)
	}
	res = au.next()
	if len(res.PeersRemoved) != 1 || len(res.PacketFilters) != 1 || res.PeersChanged != nil {
		t.Errorf("no edge, at the agent: %+v", res)
	}
	for name, rules := range res.PacketFilters {
		if rules != nil || !strings.HasPrefix(name, "device-") {
			t.Errorf("filter part %s: %v", name, rules)
		}
	}
	m.SetTopology(m.snapshot()) // nothing new
	du.quiet(50 * time.Millisecond)
}

func TestSilentStreamGetsKeepAlives(t *testing.T) {
	m := newMesh(t, device("dev-1"))
	m.cfg.KeepAlive = 20 * time.Millisecond
	u := m.enrolled("dev-1").stream()
	u.next()
	for range 3 {
		if b := <-u.frame; string(b) != `{"KeepAlive":true}` {
			t.Fatalf("got %s", b)
		}
	}
}

func TestNewStreamTakesTheOldOnesPlace(t *testing.T) {
	m := newMesh(t, device("dev-1"), agent("agt-1", "edge-1"))
	m.allow("dev-1", "agt-1")
	d, a := m.enrolled("dev-1"), m.enrolled("agt-1")
	watch := a.stream()
	watch.next()
	first := d.stream()
	first.next()
	watch.next() // online
	second := d.stream()
	second.next()
	if first.next() != nil {
		t.Error("the first stream goes on")
	}
	watch.quiet(50 * time.Millisecond) // it never went offline
	if !m.Status("dev-1").Online {
		t.Error("offline while the second stream is open")
	}
	second.close()
	if res := watch.next(); len(res.PeersChangedPatch) != 1 || *res.PeersChangedPatch[0].Online {
		t.Errorf("after the last stream closed: %+v", res)
	}
	if st := m.Status("dev-1"); st.Online || st.LastSeen.IsZero() {
		t.Errorf("status %+v", st)
	}
}

func TestRemovedMemberIsToldThatItsKeyHasEnded(t *testing.T) {
	m := newMesh(t, device("dev-1"), agent("agt-1", "edge-1"))
	m.allow("dev-1", "agt-1")
	a, d := m.enrolled("agt-1"), m.enrolled("dev-1")
	watch, u := a.stream(), d.stream()
	watch.next()
	if first := u.next(); len(first.Peers) != 1 {
		t.Fatalf("first map: %+v", first)
	}
	watch.next() // online
	m.change(func(top *Topology) { delete(top.Members, "dev-1") })
	if res := watch.next(); len(res.PeersRemoved) != 1 {
		t.Errorf("the agent got %+v", res)
	}
	res := u.next()
	if res.Node == nil || res.Node.KeyExpiry.IsZero() || !res.Node.KeyExpiry.Before(time.Now()) || len(res.PeersRemoved) != 1 {
		t.Errorf("the device got %+v", res)
	}
	if u.next() != nil {
		t.Error("the stream goes on")
	}
	// And again when it asks again, with nobody in the map.
	again := d.stream()
	if res := again.next(); !res.Node.KeyExpiry.Before(time.Now()) || len(res.Peers) != 0 {
		t.Errorf("asking again: %+v", res)
	}
	if again.next() != nil {
		t.Error("asking again: the stream goes on")
	}
	wantRefused(t, d.register(d.registerRequest("")), "not allowed")
}

func TestExpiryTakesTheDeviceOutAndExtensionBringsItBack(t *testing.T) {
	m := newMesh(t, device("dev-1"), agent("agt-1", "edge-1"))
	m.allow("dev-1", "agt-1")
	end := time.Now().Add(300 * time.Millisecond)
	m.setExpiry("dev-1", end)
	a, d := m.enrolled("agt-1"), m.enrolled("dev-1")
	watch, u := a.stream(), d.stream()
	if first := watch.next(); !first.Peers[0].KeyExpiry.Equal(end) {
		t.Errorf("the agent is told of expiry %v, not %v", first.Peers[0].KeyExpiry, end)
	}
	if first := u.next(); !first.Node.KeyExpiry.Equal(end) || len(first.Peers) != 1 {
		t.Errorf("first map: %+v", first)
	}
	gone := false
	for !gone {
		res := watch.next()
		gone = len(res.PeersRemoved) == 1
	}
	if time.Now().Before(end) {
		t.Error("gone before the end")
	}
	for res := u.next(); len(res.PeersRemoved) == 0; res = u.next() {
	}
	other := m.light()
	other.machine, other.node = d.machine, key.NewNode()
	other.connect()
	wantRefused(t, other.register(other.registerRequest("")), "session has ended")

	later := time.Now().Add(time.Hour)
	m.setExpiry("dev-1", later)
	if res := u.next(); res.Node == nil || !res.Node.KeyExpiry.Equal(later) || len(res.PeersChanged) != 1 {
		t.Errorf("after the extension: %+v", res)
	}
	if res := watch.next(); len(res.PeersChanged) != 1 || len(res.PacketFilters) != 1 {
		t.Errorf("after the extension, at the agent: %+v", res)
	}
}

func TestOlderTopologyIsIgnored(t *testing.T) {
	m := newMesh(t, device("dev-1"), agent("agt-1", "edge-1"))
	open := m.snapshot()
	open.Reach["dev-1"] = []string{"agt-1"}
	open.Revision = 0
	m.enrolled("agt-1")
	u := m.enrolled("dev-1").stream()
	u.next()
	m.SetTopology(open)
	u.quiet(50 * time.Millisecond)
}

func TestNothingIsAnsweredBeforeTheFirstTopology(t *testing.T) {
	m := newMesh(t, device("dev-1"))
	l := m.enrolled("dev-1")
	m.stop()
	m.start() // without a topology
	l.connect()
	got := make(chan *tailcfg.MapResponse)
	go func() { got <- l.stream().next() }()
	select {
	case res := <-got:
		t.Fatalf("answered with %+v", res)
	case <-time.After(100 * time.Millisecond):
	}
	m.SetTopology(m.snapshot())
	if res := <-got; !res.Node.KeyExpiry.IsZero() {
		t.Errorf("the node was told that its key ended at %v", res.Node.KeyExpiry)
	}
}

// stalled is the connection of a client that has stopped reading: what is
// written to it waits until it is released.
type stalled struct {
	http.ResponseWriter
	release chan struct{}
	frames  chan []byte
}

func (s *stalled) Write(b []byte) (int, error) {
	<-s.release
	s.frames <- slices.Clone(b)
	return len(b), nil
}
func (s *stalled) Flush()                           {}
func (s *stalled) SetWriteDeadline(time.Time) error { return nil }

func TestSlowClientHoldsUpNobodyAndGetsOneFrameForAllItMissed(t *testing.T) {
	m := newMesh(t, device("dev-slow"), device("dev-1"), agent("agt-1", "edge-1"))
	m.allow("dev-slow", "agt-1")
	m.allow("dev-1", "agt-1")
	slow, quick, a := m.enrolled("dev-slow"), m.enrolled("dev-1"), m.enrolled("agt-1")
	w := &stalled{release: make(chan struct{}), frames: make(chan []byte, 1000)}
	n, err := m.nodeOf(slow.machine.Public(), slow.node.Public())
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		m.stream(t.Context(), n, slow.node.Public(), newFrameWriter(w, true))
	}()
	defer func() { m.stop(); <-ended }()
	eventually(t, "the slow stream is open", func() error {
		if !m.Status("dev-slow").Online {
			return errors.New("not yet")
		}
		return nil
	})
	u := quick.stream()
	u.next()
	port := func(res *tailcfg.MapResponse) int {
		for _, c := range res.PeersChangedPatch {
			for _, ep := range c.Endpoints {
				return int(ep.Port())
			}
		}
		for _, p := range res.Peers {
			for _, ep := range p.Endpoints {
				return int(ep.Port())
			}
		}
		return 0
	}
	disco := key.NewDisco().Public()
	const changes = 300
	for i := range changes {
		a.report(disco, "192.0.2.7:"+strconv.Itoa(1000+i))
		for port(u.next()) != 1000+i {
		}
	}
	close(w.release)
	for frames := 1; ; frames++ {
		res := new(tailcfg.MapResponse)
		b, err := readFrame(bytes.NewReader(<-w.frames))
		if err == nil {
			err = json.Unmarshal(b, res)
		}
		if err != nil {
			t.Fatal(err)
		}
		if port(res) == 1000+changes-1 {
			// The frame that was stuck, and one for the rest.
			if frames > 2 {
				t.Errorf("%d frames for %d changes", frames, changes)
			}
			return
		}
	}
}

func TestPathsThatClientsKnowAreServed(t *testing.T) {
	m := newMesh(t)
	for path, want := range map[string]int{
		"/key?v=142": http.StatusOK, "/ts2021": http.StatusUpgradeRequired, "/derp": http.StatusUpgradeRequired,
		"/derp/probe": http.StatusOK, "/derp/latency-check": http.StatusOK, "/generate_204": http.StatusNoContent,
		"/bootstrap-dns?q=127.0.0.1": http.StatusOK, "/machine/map": http.StatusNotFound,
	} {
		res, err := http.Get(m.plain + path)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		if res.StatusCode != want {
			t.Errorf("GET %s: %d, want %d", path, res.StatusCode, want)
		}
	}
}
