package proxy

import (
	"bufio"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

// Step 7 for upgrades: exec, attach and port-forward, over WebSocket or SPDY.

// What is relayed of the answer to a failed upgrade is bounded in bytes and in
// time: it has no end where the apiserver keeps its connection open.
const (
	maxUpgradeError  = 64 << 10
	upgradeErrorTime = 2 * time.Second
)

// forwardUpgrade sends the upgrade on a connection of its own and joins both
// connections where the apiserver agrees. Where it does not, its answer is
// relayed and both connections are closed: nothing that a client sent behind its
// upgrade may reach an apiserver that did not switch (CVE-2018-1002105).
func (x *exchange) forwardUpgrade(*http.Request) *refusal {
	if bad := x.begin(); bad != nil {
		return bad
	}
	out := x.outgoing()
	out.Body, out.ContentLength = nil, 0
	out.Header["Connection"] = []string{"Upgrade"}
	out.Header["Upgrade"] = []string{x.reading.upgrade}
	var raw net.Conn
	out = out.WithContext(httptrace.WithClientTrace(x.ctx, &httptrace.ClientTrace{
		GotConn: func(info httptrace.GotConnInfo) { raw = underneath(info.Conn) },
	}))
	res, err := x.p.upstream.upgrades.RoundTrip(out)
	if err != nil {
		return x.upstreamFailed(err)
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusSwitchingProtocols {
		return x.upgradeFailed(res, raw)
	}
	backend, ok := res.Body.(io.ReadWriteCloser)
	if !ok || raw == nil {
		return badGateway("the connection to the apiserver cannot be upgraded")
	}
	if bad := x.checkSwitch(res); bad != nil {
		return bad
	}
	return x.join(res, backend, raw)
}

// checkSwitch holds the apiserver to what was asked for.
func (x *exchange) checkSwitch(res *http.Response) *refusal {
	if !strings.EqualFold(res.Header.Get("Upgrade"), x.reading.upgrade) || len(res.Header["Upgrade"]) != 1 {
		return badGateway("the apiserver upgraded to another protocol than asked for")
	}
	if chosen := res.Header["Sec-Websocket-Protocol"]; len(chosen) > 0 {
		for _, offered := range splitList(x.reading.header["Sec-Websocket-Protocol"]) {
			if len(chosen) == 1 && offered == chosen[0] {
				return nil
			}
		}
		return badGateway("the apiserver chose a WebSocket protocol that was not offered")
	}
	return nil
}

// upgradeFailed relays why the apiserver did not upgrade.
func (x *exchange) upgradeFailed(res *http.Response, raw net.Conn) *refusal {
	if res.StatusCode < 400 {
		return badGateway("the apiserver answered an upgrade with status " + strconv.Itoa(res.StatusCode))
	}
	if bad := x.checkAnswer(res); bad != nil {
		return bad
	}
	h := x.w.Header()
	responseHeaders(h, res.Header)
	h.Del("Content-Length")
	h.Set("Connection", "close")
	h.Set("Audit-Id", x.id)
	x.answered, x.code = true, res.StatusCode
	x.writeDeadline(time.Now().Add(refusalTimeout))
	x.w.WriteHeader(res.StatusCode)
	if raw != nil {
		defer time.AfterFunc(upgradeErrorTime, func() { raw.Close() }).Stop()
	}
	n, _ := io.Copy(x.w, io.LimitReader(res.Body, maxUpgradeError))
	x.out.Add(n)
	x.ending = "not upgraded"
	return nil
}

// join takes the client's connection and copies until one end closes or the
// request is ended.
func (x *exchange) join(res *http.Response, backend io.ReadWriteCloser, raw net.Conn) *refusal {
	client, buffered, err := x.rc.Hijack()
	if err != nil {
		x.p.log.Error("taking over a connection failed", "request", x.id, "error", err)
		return internal()
	}
	x.hijacked, x.answered, x.code = true, true, http.StatusSwitchingProtocols
	defer client.Close()
	if why := x.entry.carry(underneath(client), raw); why != nil {
		x.ending = "access ended"
		return why
	}
	if err := x.writeSwitch(buffered.Writer, res.Header); err != nil {
		x.ending = "client went away"
		return nil
	}

	word := lastWordFor(x.reading.upgrade, res.Header)
	up, down := make(chan string, 1), make(chan string, 1)
	go func() { up <- pipe(backend, buffered.Reader, word.client, &x.in, "client closed", "apiserver closed") }()
	go func() { down <- pipe(client, backend, word.apiserver, &x.out, "apiserver closed", "client closed") }()
	// One end is enough: neither protocol uses half-closed connections.
	upEnded := false
	select {
	case x.ending = <-up:
		upEnded = true
	case x.ending = <-down:
		down <- ""
	}
	raw.Close() // beneath TLS, which could wait for an end that does not read
	x.writeDeadline(time.Now().Add(time.Second))
	<-down
	why := x.entry.ended()
	if why != nil {
		x.ending = "access ended"
		_, _ = client.Write(word.frame(x.status(why)))
	}
	closeGently(client)
	if !upEnded {
		<-up
	}
	return why
}

// writeSwitch passes the apiserver's 101 on.
func (x *exchange) writeSwitch(w *bufio.Writer, from http.Header) error {
	h := http.Header{}
	responseHeaders(h, from)
	h.Set("Connection", "Upgrade")
	h.Set("Upgrade", x.reading.upgrade)
	h.Set("Audit-Id", x.id)
	h.Del("Content-Length")
	w.WriteString("HTTP/1.1 101 Switching Protocols\r\n")
	if err := h.Write(w); err != nil {
		return err
	}
	w.WriteString("\r\n")
	return w.Flush()
}

// pipe copies until either side is done and says which it was.
func pipe(to io.Writer, from io.Reader, seen func([]byte), count *atomic.Int64, fromDone, toDone string) string {
	buf := buffers.Get().(*[32 << 10]byte)
	defer buffers.Put(buf)
	for {
		n, err := from.Read(buf[:])
		if n > 0 {
			if _, werr := to.Write(buf[:n]); werr != nil {
				return toDone
			}
			count.Add(int64(n))
			seen(buf[:n])
		}
		if err != nil {
			if !errors.Is(err, io.EOF) {
				return fromDone + " abruptly"
			}
			return fromDone
		}
	}
}

// closeGently says goodbye in TLS where that does not have to wait for long,
// and closes the connection beneath in any case.
func closeGently(c net.Conn) {
	beneath := underneath(c)
	stop := time.AfterFunc(lastWords, func() { beneath.Close() })
	defer stop.Stop()
	c.Close()
}

// underneath is the connection that TLS runs on.
func underneath(c net.Conn) net.Conn {
	if tc, ok := c.(*tls.Conn); ok {
		return tc.NetConn()
	}
	return c
}
