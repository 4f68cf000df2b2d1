package proxy

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Step 7, forward: what was decided goes upstream, byte for byte, as the
// person's account. This file and tunnel.go are the only ones that touch an
// upstream transport.

// forward sends a request and streams its answer back.
func (x *exchange) forward(r *http.Request) *refusal {
	if bad := x.begin(); bad != nil {
		return bad
	}
	res, err := x.p.upstream.requests.RoundTrip(x.outgoing())
	if err != nil {
		return x.upstreamFailed(err)
	}
	defer res.Body.Close()
	if bad := x.checkAnswer(res); bad != nil {
		return bad
	}
	return x.relay(res)
}

// outgoing is the request as the apiserver gets it. Nothing of it comes from
// the client but what was read in parse and the body.
func (x *exchange) outgoing() *http.Request {
	q := x.reading
	h := q.header
	h["Authorization"] = []string{"Bearer " + x.credential.Token}
	h["X-Forwarded-For"] = []string{x.conn.remote.Addr().String()}
	h["Audit-Id"] = []string{x.id}
	if _, sent := h["User-Agent"]; !sent {
		h["User-Agent"] = []string{""} // or net/http would put in its own
	}
	out := &http.Request{
		Method: q.method, URL: x.p.upstream.target(q.target), Host: x.p.upstream.host,
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: h, Body: x.body, ContentLength: x.size,
	}
	if x.size == 0 {
		out.Body = http.NoBody
	}
	return out.WithContext(x.ctx)
}

// upstreamFailed says why there is no answer.
func (x *exchange) upstreamFailed(err error) *refusal {
	if why := x.entry.ended(); why != nil {
		x.ending = "access ended"
		return why
	}
	if x.ctx.Err() != nil {
		x.ending = "client went away"
		return clientGone()
	}
	x.p.log.Warn("the apiserver did not answer", "request", x.id, "error", err)
	return unavailable("the cluster's apiserver did not answer; whether it acted on the request is not known")
}

// checkAnswer refuses answers that would take the client elsewhere or that say
// something about our account and not about the person.
func (x *exchange) checkAnswer(res *http.Response) *refusal {
	switch code := res.StatusCode; {
	case code == http.StatusSwitchingProtocols:
		return badGateway("the apiserver upgraded a request that was none")
	case code >= 300 && code < 400 && code != http.StatusNotModified:
		// A redirect would be followed with the person's certificate to wherever
		// an aggregated API likes (CVE-2020-8559, CVE-2022-3172).
		return badGateway("the apiserver answered with a redirect, and those are not passed on")
	case code == http.StatusUnauthorized && !x.reading.proxied:
		x.p.log.Error("the apiserver did not accept a minted token", "request", x.id, "account", x.credential.Account)
		return unavailable("the cluster did not accept your account; try again in a moment")
	}
	return nil
}

var buffers = sync.Pool{New: func() any { return new([32 << 10]byte) }}

// relay passes an answer on as it comes.
func (x *exchange) relay(res *http.Response) *refusal {
	responseHeaders(x.w.Header(), res.Header)
	x.w.Header().Set("Audit-Id", x.id)
	if len(res.Trailer) > 0 {
		x.w.Header().Del("Content-Length") // HTTP/1.1 has room for trailers only behind chunks
	}
	if _, sent := res.Header["Content-Type"]; !sent {
		x.w.Header()["Content-Type"] = nil // or net/http would guess one
	}
	x.answered = true
	x.code = res.StatusCode
	x.w.WriteHeader(res.StatusCode)

	flush := x.reading.streams || res.ContentLength < 0 || len(res.Trailer) > 0
	if flush {
		x.rc.Flush()
	}
	buf := buffers.Get().(*[32 << 10]byte)
	defer buffers.Put(buf)
	last := byte('\n')
	for {
		n, err := res.Body.Read(buf[:])
		if n > 0 {
			if _, werr := x.w.Write(buf[:n]); werr != nil {
				return x.broken(false)
			}
			x.out.Add(int64(n))
			last = buf[n-1]
			if flush {
				if werr := x.rc.Flush(); werr != nil {
					return x.broken(false)
				}
			}
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			x.tellLog(last)
			return x.broken(last == '\n' && x.tellWatch(res))
		}
	}
	for name, values := range res.Trailer {
		for _, v := range values {
			x.w.Header().Add(http.TrailerPrefix+name, v)
		}
	}
	x.ending = "complete"
	return nil
}

// broken ends an answer that stopped half-way. Unless the client has been told
// in the stream's own words, its stream is aborted, so that it cannot take a
// part for the whole.
func (x *exchange) broken(told bool) *refusal {
	x.abort = !told
	if why := x.entry.ended(); why != nil {
		x.ending = "access ended"
		return why
	}
	if errors.Is(context.Cause(x.ctx), context.Canceled) {
		x.ending = "client went away"
	} else {
		x.ending = "apiserver broke off"
	}
	return nil
}

// tellWatch gives a watch that was cut a last event that says why, where it
// stands between two events of JSON.
func (x *exchange) tellWatch(res *http.Response) bool {
	why := x.entry.ended()
	if why == nil || x.reading.verb != "watch" || res.StatusCode != http.StatusOK ||
		!strings.HasPrefix(res.Header.Get("Content-Type"), "application/json") || res.Header.Get("Content-Encoding") != "" {
		return false
	}
	event, err := json.Marshal(struct {
		Type   string         `json:"type"`
		Object *metav1.Status `json:"object"`
	}{"ERROR", x.status(why)})
	if err != nil {
		return false
	}
	n, err := x.w.Write(append(event, '\n'))
	x.out.Add(int64(n))
	return err == nil && x.rc.Flush() == nil
}

// tellLog gives a followed log that was cut a last line that says why. The
// stream is aborted after it all the same: the log itself goes on.
func (x *exchange) tellLog(last byte) {
	why := x.entry.ended()
	if why == nil || !x.reading.streams || x.reading.attrs.Subresource != "log" || x.code != http.StatusOK {
		return
	}
	line := x.status(why).Message + "\n"
	if last != '\n' {
		line = "\n" + line
	}
	n, _ := io.WriteString(x.w, line)
	x.out.Add(int64(n))
	x.rc.Flush()
}
