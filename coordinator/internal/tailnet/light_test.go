package tailnet

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/netip"
	"testing"
	"time"

	"tailscale.com/control/ts2021"
	"tailscale.com/net/tsdial"
	"tailscale.com/tailcfg"
	"tailscale.com/types/key"
	"tailscale.com/util/zstdframe"
)

// light is a node that speaks the control protocol and nothing else.
type light struct {
	t       testing.TB
	m       *mesh
	machine key.MachinePrivate
	node    key.NodePrivate
	nc      *ts2021.Client
}

func (m *mesh) light() *light {
	l := &light{t: m.t, m: m, machine: key.NewMachine(), node: key.NewNode()}
	l.connect()
	return l
}

// connect makes a client for the server that is running now.
func (l *light) connect() {
	l.t.Helper()
	nc, err := ts2021.NewClient(ts2021.ClientOpts{
		ServerURL: l.m.plain, PrivKey: l.machine, ServerPubKey: l.m.noise.Public(),
		Dialer: tsdial.NewFromFuncForDebug(func(string, ...any) {}, (&net.Dialer{}).DialContext),
		Logf:   func(string, ...any) {},
	})
	if err != nil {
		l.t.Fatal(err)
	}
	l.nc = nc
	l.t.Cleanup(func() { nc.Close() })
}

// post sends a request inside Noise and gives the status and the body.
func (l *light) post(path string, body any) (int, string) {
	l.t.Helper()
	b, ok := body.([]byte)
	if !ok {
		var err error
		if b, err = json.Marshal(body); err != nil {
			l.t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(l.t.Context(), deadline)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, "POST", "https://control"+path, bytes.NewReader(b))
	if err != nil {
		l.t.Fatal(err)
	}
	res, err := l.nc.Do(req)
	if err != nil {
		l.t.Fatalf("%s: %v", path, err)
	}
	defer res.Body.Close()
	out, err := io.ReadAll(res.Body)
	if err != nil {
		l.t.Fatalf("%s: %v", path, err)
	}
	return res.StatusCode, string(out)
}

func (l *light) registerRequest(authKey string) *tailcfg.RegisterRequest {
	req := &tailcfg.RegisterRequest{Version: tailcfg.CurrentCapabilityVersion, NodeKey: l.node.Public(), Hostinfo: &tailcfg.Hostinfo{Hostname: "light"}}
	if authKey != "" {
		req.Auth = &tailcfg.RegisterResponseAuth{AuthKey: authKey}
	}
	return req
}

func (l *light) register(req *tailcfg.RegisterRequest) tailcfg.RegisterResponse {
	l.t.Helper()
	status, body := l.post("/machine/register", req)
	if status != http.StatusOK {
		l.t.Fatalf("register: %d %s", status, body)
	}
	var res tailcfg.RegisterResponse
	if err := json.Unmarshal([]byte(body), &res); err != nil {
		l.t.Fatal(err)
	}
	return res
}

// enrolled is a light node of the member.
func (m *mesh) enrolled(member string) *light {
	m.t.Helper()
	l := m.light()
	if res := l.register(l.registerRequest(m.key(member))); res.Error != "" {
		m.t.Fatalf("enrolling %s: %s", member, res.Error)
	}
	return l
}

func (l *light) mapRequest() *tailcfg.MapRequest {
	return &tailcfg.MapRequest{Version: tailcfg.CurrentCapabilityVersion, NodeKey: l.node.Public(), KeepAlive: true, Compress: "zstd"}
}

// report tells the server where the node is, as clients do beside their stream.
func (l *light) report(disco key.DiscoPublic, endpoints ...string) {
	l.t.Helper()
	req := l.mapRequest()
	req.OmitPeers, req.DiscoKey = true, disco
	for _, e := range endpoints {
		req.Endpoints = append(req.Endpoints, netip.MustParseAddrPort(e))
	}
	if status, body := l.post("/machine/map", req); status != http.StatusOK || body != "" {
		l.t.Fatalf("report: %d %q", status, body)
	}
}

// updates is an open stream of a light node.
type updates struct {
	t     testing.TB
	res   *http.Response
	frame chan []byte // decompressed; closed at the end
}

func (l *light) stream() *updates {
	l.t.Helper()
	req := l.mapRequest()
	req.Stream = true
	b, err := json.Marshal(req)
	if err != nil {
		l.t.Fatal(err)
	}
	hr, err := http.NewRequestWithContext(l.t.Context(), "POST", "https://control/machine/map", bytes.NewReader(b))
	if err != nil {
		l.t.Fatal(err)
	}
	res, err := l.nc.Do(hr)
	if err != nil {
		l.t.Fatal(err)
	}
	if res.StatusCode != http.StatusOK {
		body, _ := io.ReadAll(res.Body)
		l.t.Fatalf("map: %d %s", res.StatusCode, body)
	}
	u := &updates{t: l.t, res: res, frame: make(chan []byte)}
	l.t.Cleanup(func() { res.Body.Close() })
	go func() {
		defer close(u.frame)
		for {
			b, err := readFrame(res.Body)
			if err != nil {
				return
			}
			select {
			case u.frame <- b:
			case <-l.t.Context().Done():
				return
			}
		}
	}()
	return u
}

func readFrame(r io.Reader) ([]byte, error) {
	var size [4]byte
	if _, err := io.ReadFull(r, size[:]); err != nil {
		return nil, err
	}
	b := make([]byte, binary.LittleEndian.Uint32(size[:]))
	if _, err := io.ReadFull(r, b); err != nil {
		return nil, err
	}
	return zstdframe.AppendDecode(nil, b)
}

// next is the next response; nil says that the stream has ended.
func (u *updates) next() *tailcfg.MapResponse {
	u.t.Helper()
	select {
	case b, ok := <-u.frame:
		if !ok {
			return nil
		}
		res := new(tailcfg.MapResponse)
		if err := json.Unmarshal(b, res); err != nil {
			u.t.Fatalf("%v in %s", err, b)
		}
		return res
	case <-time.After(deadline):
		u.t.Fatal("no map response came")
		return nil
	}
}

// quiet fails if anything comes within d.
func (u *updates) quiet(d time.Duration) {
	u.t.Helper()
	select {
	case b, ok := <-u.frame:
		u.t.Errorf("unexpected on the stream (open %v): %s", ok, b)
	case <-time.After(d):
	}
}

func (u *updates) close() { u.res.Body.Close() }
