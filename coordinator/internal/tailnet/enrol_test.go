package tailnet

import (
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"tailscale.com/tailcfg"
	"tailscale.com/types/key"
)

func wantRefused(t *testing.T, res tailcfg.RegisterResponse, word string) {
	t.Helper()
	if !strings.Contains(res.Error, word) || res.MachineAuthorized || res.AuthURL != "" {
		t.Errorf("want a refusal with %q, got %+v", word, res)
	}
}

func TestAuthKeyEnrolsOneMachineOnce(t *testing.T) {
	m := newMesh(t, device("dev-1"))
	k := m.key("dev-1")
	first, second := m.light(), m.light()
	if res := first.register(first.registerRequest(k)); res.Error != "" || !res.MachineAuthorized {
		t.Fatalf("first use: %+v", res)
	}
	wantRefused(t, second.register(second.registerRequest(k)), "used already")
	m.restart()
	second.connect()
	wantRefused(t, second.register(second.registerRequest(k)), "used already")
	// The machine that has it may repeat itself: the answer may have been lost.
	first.connect()
	if res := first.register(first.registerRequest(k)); res.Error != "" {
		t.Errorf("repeating an enrolment: %+v", res)
	}
}

func TestManyMachinesRacingForOneAuthKeyGetOneNode(t *testing.T) {
	m := newMesh(t, device("dev-1"))
	k := m.key("dev-1")
	var won atomic.Int32
	var wg sync.WaitGroup
	for range 16 {
		l := m.light()
		wg.Go(func() {
			if l.register(l.registerRequest(k)).Error == "" {
				won.Add(1)
			}
		})
	}
	wg.Wait()
	if won.Load() != 1 {
		t.Errorf("%d machines enrolled with one key", won.Load())
	}
}

func TestAuthKeyOfNobodyExpiredOrAbsentIsRefused(t *testing.T) {
	m := newMesh(t, device("dev-1"))
	l := m.light()
	wantRefused(t, l.register(l.registerRequest("")), "no auth key")
	wantRefused(t, l.register(l.registerRequest("spkey-0000")), "unknown")
	k, err := m.NewAuthKey(t.Context(), "dev-1", time.Nanosecond)
	if err != nil {
		t.Fatal(err)
	}
	wantRefused(t, l.register(l.registerRequest(k)), "expired")
	if st := m.Status("dev-1"); st.Registered {
		t.Error("a refused machine is registered")
	}
}

func TestEnrollingEndsTheMembersOtherAuthKeys(t *testing.T) {
	m := newMesh(t, device("dev-1"))
	spare := m.key("dev-1")
	m.enrolled("dev-1")
	l := m.light()
	wantRefused(t, l.register(l.registerRequest(spare)), "used already")
}

func TestAuthKeyWaitsForItsMemberToBePublished(t *testing.T) {
	m := newMesh(t)
	l := m.light()
	k := m.key("dev-late")
	done := make(chan tailcfg.RegisterResponse)
	go func() { done <- l.register(l.registerRequest(k)) }()
	select {
	case res := <-done:
		t.Fatalf("answered before the member was there: %+v", res)
	case <-time.After(100 * time.Millisecond):
	}
	m.change(func(top *Topology) { top.Members["dev-late"] = device("dev-late") })
	if res := <-done; res.Error != "" {
		t.Errorf("after the member was published: %s", res.Error)
	}
}

func TestNodeKeyOfAnotherMachineIsRefused(t *testing.T) {
	m := newMesh(t, device("dev-1"), device("dev-2"))
	victim, thief := m.enrolled("dev-1"), m.enrolled("dev-2")
	thief.node = victim.node
	wantRefused(t, thief.register(thief.registerRequest("")), "another machine")
	wantRefused(t, thief.register(thief.registerRequest(m.key("dev-2"))), "another machine")
	out := thief.registerRequest("")
	out.Expiry = time.Unix(123, 0)
	wantRefused(t, thief.register(out), "no such node key")
	for _, stream := range []bool{false, true} {
		req := thief.mapRequest()
		req.Stream = stream
		if status, body := thief.post("/machine/map", req); status != http.StatusNotFound {
			t.Errorf("map (stream %v) for another machine's key: %d %s", stream, status, body)
		}
	}
	if st := m.Status("dev-1"); !st.Registered {
		t.Error("the victim has lost its node")
	}
}

func TestMachineMayRotateItsNodeKey(t *testing.T) {
	m := newMesh(t, device("dev-1"), agent("agt-1", "edge-1"))
	m.allow("dev-1", "agt-1")
	d, a := m.enrolled("dev-1"), m.enrolled("agt-1")
	addrs := m.Status("dev-1").Addrs
	seen := a.stream()
	old := seen.next().Peers[0]
	mine := d.stream()
	mine.next()
	seen.next() // online

	was := d.mapRequest()
	d.node = key.NewNode()
	if res := d.register(d.registerRequest("")); res.Error != "" {
		t.Fatal(res.Error)
	}
	if res := mine.next(); res.Node == nil || !res.Node.KeyExpiry.Before(time.Now()) {
		t.Errorf("the stream of the old key got %+v", res)
	}
	if mine.next() != nil {
		t.Error("the stream of the old key goes on")
	}
	if status, _ := d.post("/machine/map", was); status != http.StatusNotFound {
		t.Errorf("the old key still gets maps: %d", status)
	}
	res := seen.next()
	if len(res.PeersChanged) != 1 || res.PeersChanged[0].ID != old.ID || res.PeersChanged[0].Key != d.node.Public() {
		t.Errorf("the agent got %+v", res)
	}
	if got := m.Status("dev-1").Addrs; got[0] != addrs[0] {
		t.Errorf("addresses changed from %v to %v", addrs, got)
	}
}

func TestLogoutNeedsANewAuthKey(t *testing.T) {
	m := newMesh(t, device("dev-1"), agent("agt-1", "edge-1"))
	m.allow("dev-1", "agt-1")
	d, a := m.enrolled("dev-1"), m.enrolled("agt-1")
	seen := a.stream()
	id := seen.next().Peers[0].ID
	out := d.registerRequest("")
	out.Expiry = time.Unix(123, 0)
	if res := d.register(out); res.Error != "" {
		t.Fatal(res.Error)
	}
	if res := seen.next(); len(res.PeersRemoved) != 1 || res.PeersRemoved[0] != id {
		t.Errorf("the agent got %+v", res)
	}
	d.node = key.NewNode()
	wantRefused(t, d.register(d.registerRequest("")), "new auth key")
	if res := d.register(d.registerRequest(m.key("dev-1"))); res.Error != "" {
		t.Errorf("with a new auth key: %s", res.Error)
	}
}

func TestNewMachineReplacesTheMembersOldOne(t *testing.T) {
	m := newMesh(t, device("dev-1"), agent("agt-1", "edge-1"))
	m.allow("dev-1", "agt-1")
	a, before := m.enrolled("agt-1"), m.enrolled("dev-1")
	seen := a.stream()
	old := seen.next().Peers[0]
	ended := before.stream()
	ended.next()
	seen.next() // online

	after := m.enrolled("dev-1")
	if res := ended.next(); res.Node == nil || !res.Node.KeyExpiry.Before(time.Now()) {
		t.Errorf("the old machine was told %+v", res)
	}
	if ended.next() != nil {
		t.Error("the old machine's stream goes on")
	}
	wantRefused(t, before.register(before.registerRequest("")), "not enrolled")
	res := seen.next()
	if len(res.PeersRemoved) != 1 || res.PeersRemoved[0] != old.ID ||
		len(res.PeersChanged) != 1 || res.PeersChanged[0].Key != after.node.Public() {
		t.Errorf("the agent got %+v", res)
	}
	m.restart()
	before.connect()
	wantRefused(t, before.register(before.registerRequest("")), "not enrolled")
}

func TestMachineEnrolledForAnotherMemberLeavesTheFirst(t *testing.T) {
	m := newMesh(t, device("dev-1"), device("dev-2"))
	l := m.enrolled("dev-1")
	if res := l.register(l.registerRequest(m.key("dev-2"))); res.Error != "" {
		t.Fatal(res.Error)
	}
	check := func() {
		t.Helper()
		if m.Status("dev-1").Registered || !m.Status("dev-2").Registered {
			t.Errorf("dev-1 %+v, dev-2 %+v", m.Status("dev-1"), m.Status("dev-2"))
		}
	}
	check()
	m.restart()
	check()
}

func TestForgottenMemberIsGone(t *testing.T) {
	m := newMesh(t, device("dev-1"), agent("agt-1", "edge-1"))
	m.allow("dev-1", "agt-1")
	a, d := m.enrolled("agt-1"), m.enrolled("dev-1")
	seen := a.stream()
	seen.next()
	spare := m.key("dev-1")
	if err := m.Forget(t.Context(), "dev-1"); err != nil {
		t.Fatal(err)
	}
	if res := seen.next(); len(res.PeersRemoved) != 1 {
		t.Errorf("the agent got %+v", res)
	}
	wantRefused(t, d.register(d.registerRequest("")), "not enrolled")
	wantRefused(t, d.register(d.registerRequest(spare)), "used already")
	m.restart()
	if m.Status("dev-1").Registered {
		t.Error("the node is back after a restart")
	}
}

func TestRefusalsAreSentences(t *testing.T) {
	m := newMesh(t, device("dev-1"))
	l := m.enrolled("dev-1")
	old := l.registerRequest("")
	old.Version = oldestClient - 1
	wantRefused(t, l.register(old), "too old")
	followup := l.registerRequest("")
	followup.Followup = m.plain + "/a/b"
	wantRefused(t, l.register(followup), "no login page")
	later := l.registerRequest("")
	later.Expiry = time.Now().Add(time.Hour)
	wantRefused(t, l.register(later), "cannot choose")
	noKey := l.registerRequest("")
	noKey.NodeKey = key.NodePublic{}
	wantRefused(t, l.register(noKey), "no node key")
	poll := l.mapRequest()
	poll.Version = oldestClient - 1
	if status, body := l.post("/machine/map", poll); status != http.StatusBadRequest || !strings.Contains(body, "too old") {
		t.Errorf("map of an old client: %d %s", status, body)
	}
	if status, _ := l.post("/machine/set-dns", struct{}{}); status != http.StatusNotImplemented {
		t.Errorf("a call that is not offered: %d", status)
	}
	if status, _ := l.post("/machine/map", []byte("{")); status != http.StatusBadRequest {
		t.Errorf("half a request: %d", status)
	}
}

func TestHundredMegabyteMessageIsRefused(t *testing.T) {
	m := newMesh(t, device("dev-1"), agent("agt-1", "edge-1"))
	m.allow("dev-1", "agt-1")
	a := m.enrolled("agt-1")
	other := a.stream()
	other.next()
	l := m.light()
	huge := append([]byte(`{"Version":142,"Hostinfo":{"Hostname":"`), make([]byte, 100<<20)...)
	for i := range 100 << 20 {
		huge[len(huge)-1-i] = 'x'
	}
	for _, path := range []string{"/machine/register", "/machine/map"} {
		if status, _ := l.post(path, huge); status != http.StatusRequestEntityTooLarge {
			t.Errorf("%s: %d", path, status)
		}
	}
	m.enrolled("dev-1")
	if res := other.next(); len(res.PeersChanged) != 1 {
		t.Errorf("others got %+v", res)
	}
}
