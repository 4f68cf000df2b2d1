package proxy_test

import (
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// A client that has stopped reading must not be able to hold up a cut.
func TestStalledClientsCannotHoldUpACut(t *testing.T) {
	for _, transport := range []string{"h1", "h2", "exec"} {
		t.Run(transport, func(t *testing.T) {
			w := newWorld(t)
			var sent atomic.Int64
			flood := func(write func([]byte) error) {
				junk := make([]byte, 64<<10)
				for write(junk) == nil {
					sent.Add(1)
				}
			}
			w.upstream.answer(func(rw http.ResponseWriter, r *http.Request) {
				if r.Header.Get("Upgrade") == "" {
					flood(func(b []byte) error { _, err := rw.Write(b); return err })
					return
				}
				c, buf, err := http.NewResponseController(rw).Hijack()
				if err != nil {
					return
				}
				defer c.Close()
				buf.WriteString("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\r\n")
				buf.Flush()
				flood(func(b []byte) error { _, err := c.Write(b); return err })
			})
			p := w.person("shivam", "edit")
			switch transport {
			case "exec":
				if res, _, _ := w.rawH1(t, p, "POST "+execTarget+" HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\r\n"); res.StatusCode != 101 {
					t.Fatalf("answer %d", res.StatusCode)
				}
			default:
				req, _ := http.NewRequestWithContext(t.Context(), "GET", w.url(pods+"/p/log?follow=true"), nil)
				res, err := w.client(p, transport).Do(req)
				must(t, err)
				defer res.Body.Close()
			}
			last, still := int64(-1), 0
			eventually(t, "the stream stalls", func() bool {
				if n := sent.Load(); n != last {
					last, still = n, 0
				}
				still++
				return last > 0 && still > 50
			})
			w.cut(t, p, 1)
		})
	}
}

// A client that has stopped sending its body must not be able to either, nor keep
// the access of others standing.
func TestUnsentBodiesCannotHoldUpACut(t *testing.T) {
	for _, transport := range []string{"h1", "h2"} {
		t.Run(transport, func(t *testing.T) {
			w := newWorld(t)
			arrived := make(chan struct{}, 2)
			w.upstream.answer(func(rw http.ResponseWriter, r *http.Request) {
				arrived <- struct{}{}
				io.Copy(io.Discard, r.Body)
			})
			mallory, alice := w.person("mallory", "edit"), w.person("alice", "edit")
			for _, p := range []*person{mallory, alice} {
				unsent, hold := io.Pipe() // never written to
				defer hold.Close()
				req, _ := http.NewRequestWithContext(t.Context(), "POST", w.url(pods), unsent)
				req.ContentLength = 100
				req.Header.Set("X-Test-Stream-Body", "1")
				go func() {
					if res, err := w.client(p, transport).Do(req); err == nil {
						res.Body.Close()
					}
				}()
				<-arrived
			}
			w.cut(t, mallory, 1)
			w.cut(t, alice, 1)
		})
	}
}

// Clients that do not read hold what is theirs, and nobody else's answers:
// everybody's streams share the connections to the apiserver.
func TestStalledClientsDoNotStarveOthers(t *testing.T) {
	w := newWorld(t)
	var sent atomic.Int64
	w.upstream.answer(func(rw http.ResponseWriter, r *http.Request) {
		junk := make([]byte, 64<<10)
		for strings.HasSuffix(r.URL.Path, "/log") {
			if _, err := rw.Write(junk); err != nil {
				return
			}
			sent.Add(1)
		}
		rw.Write(junk)
	})
	mallory, alice := w.person("mallory", "view"), w.person("alice", "view")
	c := w.client(mallory, "h2")
	for range 40 {
		req, _ := http.NewRequestWithContext(t.Context(), "GET", w.url(pods+"/p/log?follow=true"), nil)
		res, err := c.Do(req)
		must(t, err)
		defer res.Body.Close()
	}
	last, still := int64(-1), 0
	eventually(t, "the streams stall", func() bool {
		if n := sent.Load(); n != last {
			last, still = n, 0
		}
		still++
		return still > 50
	})
	other := w.client(alice, "h2")
	other.Timeout = 3 * time.Second
	for range 20 {
		res, err := other.Get(w.url(pods))
		must(t, err)
		body, err := io.ReadAll(res.Body)
		if res.Body.Close(); res.StatusCode != 200 || len(body) != 64<<10 {
			t.Fatalf("answer %d with %d bytes (%v)", res.StatusCode, len(body), err)
		}
	}
}
