package proxy_test

import (
	"io"
	"net/http"
	"testing"
)

// BenchmarkSmallGet is a get of one object through the whole path, the
// apiserver, the log and the accounts being in memory. "direct" is the same
// request without the proxy, for what TLS and HTTP cost by themselves.
func BenchmarkSmallGet(b *testing.B) {
	for _, proto := range []string{"direct", "h1", "h2"} {
		b.Run(proto, func(b *testing.B) {
			w := newWorld(b)
			p := w.person("alice", "view")
			client, url := w.client(p, proto), w.url(pods+"/p")
			if proto == "direct" {
				client, url = w.upstream.client(), "https://"+w.upstream.addr+pods+"/p"
			}
			w.log.discard.Store(true)
			w.upstream.discard.Store(true)
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					res, err := client.Get(url)
					if err != nil {
						b.Error(err)
						return
					}
					io.Copy(io.Discard, res.Body)
					if res.Body.Close(); res.StatusCode != http.StatusOK {
						b.Errorf("answer %d", res.StatusCode)
						return
					}
				}
			})
		})
	}
}
