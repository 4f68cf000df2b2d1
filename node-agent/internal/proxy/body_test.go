package proxy_test

import (
	"bytes"
	"compress/gzip"
	"io"
	"net/http"
	"sync/atomic"
	"testing"
)

// A body without end goes no further than the apiserver takes it: the agent
// holds a window of it and no more, and others are served.
func TestEndlessBodyIsHeldBackByTheApiserver(t *testing.T) {
	for _, proto := range []string{"h1", "h2"} {
		t.Run(proto, func(t *testing.T) {
			w := newWorld(t)
			release := make(chan struct{})
			w.upstream.answer(func(_ http.ResponseWriter, r *http.Request) {
				if r.Method == "POST" {
					select {
					case <-release:
					case <-r.Context().Done():
					}
				}
			})
			mallory, alice := w.person("mallory", "edit"), w.person("alice", "view")
			var sent atomic.Int64
			req, err := http.NewRequestWithContext(t.Context(), "POST", w.url(pods), &endless{&sent})
			must(t, err)
			req.Header.Set("X-Test-Stream-Body", "1")
			ended := make(chan struct{})
			go func() {
				defer close(ended)
				if res, err := w.client(mallory, proto).Do(req); err == nil {
					res.Body.Close()
				}
			}()
			last, still := int64(-1), 0
			eventually(t, "the upload stalls", func() bool {
				if n := sent.Load(); n != last {
					last, still = n, 0
				}
				still++
				return last > 0 && still > 50
			})
			// Windows and socket buffers of four hops; a proxy that read on would never stall.
			if n := sent.Load(); n > 32<<20 {
				t.Errorf("%d bytes were taken of a body that nobody reads", n)
			}
			res, err := w.client(alice, proto).Get(w.url(pods))
			must(t, err)
			if res.Body.Close(); res.StatusCode != 200 {
				t.Errorf("the other device: answer %d", res.StatusCode)
			}
			close(release)
			<-ended
		})
	}
}

type endless struct{ n *atomic.Int64 }

func (e *endless) Read(p []byte) (int, error) {
	e.n.Add(int64(len(p)))
	return len(p), nil
}

// Bodies are nobody's business: compressed, protobuf, with trailers, of no type.
func TestAnswersComeBackByteForByte(t *testing.T) {
	var zipped bytes.Buffer
	z := gzip.NewWriter(&zipped)
	io.WriteString(z, `{"kind":"PodList"}`)
	z.Close()
	for _, proto := range []string{"h1", "h2"} {
		for name, header := range map[string]http.Header{
			"gzip":     {"Content-Type": {"application/json"}, "Content-Encoding": {"gzip"}, "Vary": {"Accept-Encoding"}},
			"protobuf": {"Content-Type": {"application/vnd.kubernetes.protobuf"}},
			"no type":  {"Content-Type": nil},
		} {
			t.Run(proto+" "+name, func(t *testing.T) {
				w := newWorld(t)
				w.upstream.answer(func(rw http.ResponseWriter, _ *http.Request) {
					for k, v := range header {
						rw.Header()[k] = v
					}
					rw.Header().Set("Trailer", "X-Late")
					rw.WriteHeader(http.StatusOK)
					rw.Write(zipped.Bytes())
					rw.Header().Set("X-Late", "yes")
				})
				p := w.person("alice", "view")
				req, _ := http.NewRequest("GET", w.url(pods), nil)
				req.Header.Set("Accept-Encoding", "gzip")
				res, err := w.client(p, proto).Do(req)
				must(t, err)
				body, err := io.ReadAll(res.Body)
				res.Body.Close()
				if err != nil || !bytes.Equal(body, zipped.Bytes()) {
					t.Errorf("%d bytes of %d came back (%v)", len(body), zipped.Len(), err)
				}
				for k, v := range header {
					if got := res.Header[k]; len(got) != len(v) || (len(v) > 0 && got[0] != v[0]) {
						t.Errorf("%s: %q, want %q", k, got, v)
					}
				}
				if res.Trailer.Get("X-Late") != "yes" {
					t.Errorf("trailer %v", res.Trailer)
				}
				if got := w.upstream.only(t).Header.Get("Accept-Encoding"); got != "gzip" {
					t.Errorf("Accept-Encoding went upstream as %q", got)
				}
			})
		}
	}
}
