package tailnet

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"

	"tailscale.com/tailcfg"
	"tailscale.com/types/key"
)

// FuzzControlRequests sends arbitrary bodies to what a machine may call, as a
// machine that is enrolled and as one that is not. None may change the node of
// another, panic, or be answered with a server error.
func FuzzControlRequests(f *testing.F) {
	m := newMesh(f, device("dev-1"), agent("agt-1", "edge-1"))
	m.allow("dev-1", "agt-1")
	victim := m.enrolled("agt-1")
	caller := m.enrolled("dev-1")
	reg, _ := json.Marshal(caller.registerRequest("spkey-00"))
	poll, _ := json.Marshal(caller.mapRequest())
	for _, seed := range [][]byte{
		reg, poll, bytes.ReplaceAll(reg, []byte(caller.node.Public().String()), []byte(victim.node.Public().String())),
		bytes.ReplaceAll(poll, []byte(caller.node.Public().String()), []byte(victim.node.Public().String())),
		[]byte(`{"Version":142,"NodeKey":"nodekey:00","Expiry":"1970-01-01T00:02:03Z"}`),
		[]byte(`{"Version":142,"Endpoints":["[::1%lo]:1","1.2.3.4:0"],"Hostinfo":{"NetInfo":{"PreferredDERP":-1}}}`),
		[]byte(`{"Version":-1}`), []byte(`null`), []byte(`[]`), []byte(`{`),
		{},
	} {
		f.Add(true, seed)
		f.Add(false, seed)
	}
	stranger := key.NewMachine().Public()
	f.Fuzz(func(t *testing.T, enrolled bool, body []byte) {
		machine := stranger
		if enrolled {
			machine = caller.machine.Public()
		}
		h := m.machineHandler()
		ctx := context.WithValue(t.Context(), machineKey{}, machine)
		for _, path := range []string{"/machine/register", "/machine/map"} {
			var req tailcfg.MapRequest
			if json.Unmarshal(body, &req) == nil && req.Stream {
				continue // stays open
			}
			w := httptest.NewRecorder()
			h.ServeHTTP(w, httptest.NewRequestWithContext(ctx, http.MethodPost, path, bytes.NewReader(body)))
			if w.Code >= 500 {
				t.Errorf("%s: %d %s", path, w.Code, w.Body)
			}
			if path == "/machine/register" && w.Code == http.StatusOK && !enrolled {
				var res tailcfg.RegisterResponse
				if err := json.NewDecoder(w.Body).Decode(&res); err != nil || res.Error == "" {
					t.Errorf("a stranger is registered: %+v, %v", res, err)
				}
			}
		}
		m.unharmed(t, victim)
	})
}

// unharmed holds that the victim's node is as it enrolled.
func (m *mesh) unharmed(t *testing.T, victim *light) {
	t.Helper()
	n, err := m.nodeOf(victim.machine.Public(), victim.node.Public())
	if err != nil {
		t.Fatalf("the victim's node is gone: %v", err)
	}
	m.Server.mu.RLock()
	defer m.Server.mu.RUnlock()
	if n.Member != "agt-1" || n.LoggedOut || n.reported {
		t.Errorf("the victim's node has changed: %+v", n.record)
	}
}

// FuzzRelayAdmission feeds the relay's admission arbitrary first bytes.
func FuzzRelayAdmission(f *testing.F) {
	ours := key.NewNode().Public()
	r := newRelay(key.NewNode(), func(k key.NodePublic) bool { return k == ours }, discard)
	good := append([]byte{frameClientInfo, 0, 0, 0, 60}, ours.AppendTo(nil)...)
	f.Add(good)
	f.Add(append(good, make([]byte, 100)...))
	f.Add([]byte{1})
	f.Add(make([]byte, infoHead))
	f.Fuzz(func(t *testing.T, b []byte) {
		c := &relayConn{Conn: nopConn{}, relay: r}
		out, err := io.ReadAll(&admission{r: bytes.NewReader(b), conn: c})
		admitted := len(b) >= infoHead && b[0] == frameClientInfo && bytes.Equal(b[5:infoHead], good[5:])
		if admitted && (err != nil || !bytes.Equal(out, b)) || !admitted && len(out) > 0 {
			t.Errorf("admitted %v, %d bytes through of %d, %v", admitted, len(out), len(b), err)
		}
		c.Close()
		if len(r.conns) != 0 {
			t.Error("a closed connection is remembered")
		}
	})
}

var discard = slog.New(slog.DiscardHandler)

type nopConn struct{ net.Conn }

func (nopConn) Close() error { return nil }
