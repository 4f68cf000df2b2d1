package proxy_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	apiv1 "github.com/sallyport-mesh/sallyport/pkg/api/sallyport/v1"
)

// Requests of every kind, and a person who is suspended and let back in as fast
// as it goes. After each Cut has returned nothing of his is at the apiserver
// until he is let in again, and what is other people's is never touched.
func TestNothingOfARevokedUserSurvivesACutUnderLoad(t *testing.T) {
	w := newWorld(t)
	var (
		out      atomic.Bool // he is out: Cut has returned
		inside   atomic.Int64
		overstay atomic.Int64
	)
	shivam, alice := w.person("shivam", "edit"), w.person("alice", "edit")
	token := "Bearer " + tokenOf(shivam.UserID)
	ping := &echo{}
	w.upstream.discard.Store(true)
	w.upstream.answer(func(rw http.ResponseWriter, r *http.Request) {
		his := r.Header.Get("Authorization") == token
		if his {
			inside.Add(1)
			defer inside.Add(-1)
			if out.Load() {
				// Bytes that left before the cut may arrive after it; then their end
				// arrives with them.
				select {
				case <-r.Context().Done():
				case <-time.After(2 * time.Second):
					overstay.Add(1)
				}
				return
			}
		}
		switch {
		case r.Header.Get("Upgrade") != "":
			ping.ServeHTTP(rw, r)
		case strings.Contains(r.RequestURI, "watch"):
			io.WriteString(rw, event)
			rw.(http.Flusher).Flush()
			select {
			case <-r.Context().Done():
			case <-time.After(5 * time.Millisecond):
			}
		default:
			io.WriteString(rw, "{}")
		}
	})

	ctx, stop := context.WithCancel(t.Context())
	var callers sync.WaitGroup
	var served, failed atomic.Int64
	for _, p := range []*person{shivam, alice} {
		for _, proto := range []string{"h1", "h2"} {
			c := w.client(p, proto)
			for _, target := range []string{pods, pods + "?watch=true"} {
				callers.Go(func() {
					for ctx.Err() == nil {
						res, err := c.Get(w.url(target))
						if err == nil {
							_, err = io.Copy(io.Discard, res.Body)
							res.Body.Close()
						}
						if p == alice {
							if err == nil && res.StatusCode == 200 {
								served.Add(1)
							} else {
								failed.Add(1)
							}
						}
					}
				})
			}
		}
		callers.Go(func() {
			for ctx.Err() == nil {
				c, err := w.dialQuietly(p)
				if err != nil {
					continue
				}
				fmt.Fprintf(c, "POST %s HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: v4.channel.k8s.io\r\n\r\n", execTarget)
				c.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
				io.Copy(io.Discard, c)
				c.Close()
			}
		})
	}

	var slowest time.Duration
	for range 60 {
		var grants []*apiv1.BundleGrant
		var subjects []*apiv1.BundleSubject
		pol := w.publish(func(b *apiv1.Bundle) {
			grants, subjects = append(grants, b.Grants...), append(subjects, b.Subjects...)
			suspend(shivam)(b)
		})
		start := time.Now()
		w.proxy.Cut(pol)
		slowest = max(slowest, time.Since(start))
		out.Store(true)
		eventually(t, "nothing of his is at the apiserver", func() bool { return inside.Load() == 0 })
		out.Store(false)
		w.publish(func(b *apiv1.Bundle) { b.Grants, b.Subjects = grants, subjects })
		time.Sleep(3 * time.Millisecond) // let his requests in again; nothing depends on how many
	}
	stop()
	callers.Wait()
	if overstay.Load() != 0 {
		t.Errorf("%d of his requests were at the apiserver after a cut", overstay.Load())
	}
	if failed.Load() != 0 || served.Load() == 0 {
		t.Errorf("of the other person's requests %d were served and %d failed", served.Load(), failed.Load())
	}
	if slowest > soon {
		t.Errorf("a cut took %v", slowest)
	}
	t.Logf("slowest cut %v, %d requests of the other person", slowest, served.Load())
}
