package proxy_test

import (
	"io"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/http2"

	"github.com/sallyport-mesh/sallyport/node-agent/internal/proxy"
)

// A device that opens connections and never finishes a handshake runs into its
// own limit, and then out of time; another device is served all the while.
func TestHalfOpenHandshakesAreBoundedPerDevice(t *testing.T) {
	w := newWorld(t, func(cfg *proxy.Config) {
		cfg.Limits = proxy.Limits{HandshakesPerDevice: 4, HandshakeTimeout: 500 * time.Millisecond}
	})
	mallory, alice := w.person("mallory", "view"), w.person("alice", "view")
	closed := func(c net.Conn, within time.Duration) bool {
		c.SetReadDeadline(time.Now().Add(within))
		_, err := c.Read(make([]byte, 1))
		ne, ok := err.(net.Error)
		return err != nil && !(ok && ne.Timeout())
	}
	var conns []net.Conn
	for range 12 {
		c, err := dialer(mallory).Dial("tcp", w.addr)
		must(t, err)
		defer c.Close()
		conns = append(conns, c)
	}
	refused := 0
	for _, c := range conns {
		if closed(c, 50*time.Millisecond) {
			refused++
		}
	}
	if refused < 8 {
		t.Errorf("%d of 12 half-open connections were refused, want 8", refused)
	}
	res, err := w.client(alice, "h2").Get(w.url(pods))
	must(t, err)
	if res.Body.Close(); res.StatusCode != 200 {
		t.Errorf("the other device: answer %d", res.StatusCode)
	}
	for i, c := range conns {
		if !closed(c, 5*time.Second) {
			t.Errorf("half-open connection %d outlived the handshake timeout", i)
		}
	}
	eventually(t, "the device may come back", func() bool {
		c, err := w.dial(t, mallory, "h2")
		if err != nil {
			return false
		}
		c.Close()
		return true
	})
}

func TestConnectionsPerDeviceAreBoundedAndGivenBack(t *testing.T) {
	w := newWorld(t, func(cfg *proxy.Config) { cfg.Limits = proxy.Limits{ConnsPerDevice: 3} })
	p := w.person("alice", "view")
	var open []net.Conn
	for range 3 {
		c, err := w.dial(t, p, "http/1.1")
		must(t, err)
		open = append(open, c)
	}
	if c, err := w.dial(t, p, "http/1.1"); err == nil {
		c.Close()
		t.Error("a fourth connection was taken")
	}
	for _, c := range open {
		c.Close()
	}
	eventually(t, "places are given back", func() bool {
		c, err := w.dial(t, p, "http/1.1")
		if err != nil {
			return false
		}
		c.Close()
		return true
	})
}

func TestRequestsInFlightPerUserAreBounded(t *testing.T) {
	w := newWorld(t, func(cfg *proxy.Config) { cfg.Limits = proxy.Limits{RequestsPerUser: 2} })
	s := &stream{contentType: "application/json", line: event, tick: make(chan struct{})}
	w.upstream.answer(s.ServeHTTP)
	p, other := w.person("mallory", "view"), w.person("alice", "view")
	w.open(t, p, "h2", pods+"?watch=1")
	w.open(t, p, "h2", pods+"?watch=1")
	res, err := w.client(p, "h2").Get(w.url(pods))
	must(t, err)
	if s := readStatus(t, res); s.Code != http.StatusTooManyRequests {
		t.Errorf("the third: %+v", s)
	}
	w.open(t, other, "h2", pods+"?watch=1")
}

// Headers that come a byte at a time end with the header timeout.
func TestSlowHeadersRunOutOfTime(t *testing.T) {
	w := newWorld(t, func(cfg *proxy.Config) { cfg.Limits = proxy.Limits{HeaderTimeout: 300 * time.Millisecond} })
	p := w.person("mallory", "view")
	c, err := w.dial(t, p, "http/1.1")
	must(t, err)
	io.WriteString(c, "GET "+pods+" HTTP/1.1\r\nHost: x\r\nX-Slow: ")
	start := time.Now()
	io.Copy(io.Discard, c)
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("the connection was held for %v", took)
	}
	w.upstream.untouched(t)
}

// Rapid reset (CVE-2023-44487): streams opened and reset in one go. The
// apiserver sees no more of them at a time than streams are allowed, and others
// are served.
func TestRapidResetIsContained(t *testing.T) {
	w := newWorld(t)
	var mu sync.Mutex
	now, most := 0, 0
	w.upstream.answer(func(rw http.ResponseWriter, r *http.Request) {
		mu.Lock()
		now++
		most = max(most, now)
		mu.Unlock()
		select {
		case <-r.Context().Done():
		case <-time.After(20 * time.Millisecond):
		}
		mu.Lock()
		now--
		mu.Unlock()
	})
	mallory, alice := w.person("mallory", "view"), w.person("alice", "view")
	c, err := w.dial(t, mallory, "h2")
	must(t, err)
	go io.Copy(io.Discard, c)
	fr := startH2(t, c)
	for i := range 5000 {
		id := uint32(2*i + 1)
		if fr.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: headerBlock(t, pods), EndHeaders: true, EndStream: true}) != nil {
			break // the server has had enough
		}
		if fr.WriteRSTStream(id, http2.ErrCodeCancel) != nil {
			break
		}
	}
	res, err := w.client(alice, "h2").Get(w.url(pods))
	must(t, err)
	if res.Body.Close(); res.StatusCode != 200 {
		t.Errorf("the other device: answer %d", res.StatusCode)
	}
	mu.Lock()
	defer mu.Unlock()
	if most > 260 {
		t.Errorf("%d requests at the apiserver at once", most)
	}
}

// A CONTINUATION flood (CVE-2023-45288) ends with the header limit.
func TestContinuationFloodIsCutOff(t *testing.T) {
	w := newWorld(t)
	p := w.person("mallory", "view")
	c, err := w.dial(t, p, "h2")
	must(t, err)
	closed := make(chan struct{})
	go func() { io.Copy(io.Discard, c); close(closed) }()
	fr := startH2(t, c)
	must(t, fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: headerBlock(t, pods), EndHeaders: false, EndStream: true}))
	junk := literal("x-flood", make([]byte, 8<<10))
	for range 4096 { // 32 MiB if nobody minded
		if fr.WriteContinuation(1, false, junk) != nil {
			break
		}
	}
	c.CloseWrite()
	select {
	case <-closed:
	case <-time.After(10 * time.Second):
		t.Error("the flood is still being read")
	}
	w.upstream.untouched(t)
}
