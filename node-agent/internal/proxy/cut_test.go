package proxy_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/client-go/transport/spdy"

	apiv1 "github.com/sallyport-mesh/sallyport/pkg/api/sallyport/v1"
	"github.com/sallyport-mesh/sallyport/pkg/policy"
)

// soon is the promise: cut within one second.
const soon = time.Second

// cut suspends the person, and holds Cut to its promise.
func (w *world) cut(t *testing.T, p *person, want int) {
	t.Helper()
	pol := w.publish(suspend(p))
	start := time.Now()
	if n := w.proxy.Cut(pol); n != want {
		t.Errorf("Cut ended %d requests, want %d", n, want)
	}
	if took := time.Since(start); took > soon {
		t.Errorf("Cut took %v", took)
	}
}

// stream answers like a watch or a followed log: a line at once, more on tick,
// and it ends only when the client is gone.
type stream struct {
	contentType, line string
	tick              chan struct{}
	open              atomic.Int64
}

func (s *stream) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.open.Add(1)
	defer s.open.Add(-1)
	w.Header().Set("Content-Type", s.contentType)
	for {
		if _, err := io.WriteString(w, s.line); err != nil {
			return
		}
		w.(http.Flusher).Flush()
		select {
		case <-s.tick:
		case <-r.Context().Done():
			return
		}
	}
}

const event = `{"type":"ADDED","object":{"kind":"Pod","apiVersion":"v1","metadata":{"name":"p"}}}` + "\n"

func TestRevokedUserLosesRunningWatchAndIsToldWhy(t *testing.T) {
	for _, proto := range []string{"h1", "h2"} {
		t.Run(proto, func(t *testing.T) {
			w := newWorld(t)
			s := &stream{contentType: "application/json", line: event, tick: make(chan struct{})}
			w.upstream.answer(s.ServeHTTP)
			p, other := w.person("shivam", "view"), w.person("alice", "view")
			res := w.open(t, p, proto, pods+"?watch=true")
			theirs := w.open(t, other, proto, pods+"?watch=true")
			w.cut(t, p, 1)

			line, err := res.ReadString('\n')
			must(t, err)
			var last struct {
				Type   string
				Object metav1.Status
			}
			if err := json.Unmarshal([]byte(line), &last); err != nil || last.Type != "ERROR" || last.Object.Code != 403 || !strings.Contains(last.Object.Message, "nothing here is granted to you") {
				t.Errorf("last words %q (%v)", line, err)
			}
			if rest, _ := io.ReadAll(res); len(rest) != 0 {
				t.Errorf("%q came after the last words", rest)
			}
			eventually(t, "the apiserver's end is closed", func() bool { return s.open.Load() == 1 })
			if e := w.log.outcome(t, 0); e.Ext.CloseReason != "access ended" || e.User.UID != p.UserID {
				t.Errorf("outcome %+v", e.Ext)
			}
			s.tick <- struct{}{} // the other's goes on
			if line, err := theirs.ReadString('\n'); err != nil || line != event {
				t.Errorf("the other watch got %q (%v)", line, err)
			}
		})
	}
}

func TestRevokedUserLosesFollowedLog(t *testing.T) {
	for _, proto := range []string{"h1", "h2"} {
		t.Run(proto, func(t *testing.T) {
			w := newWorld(t)
			s := &stream{contentType: "text/plain", line: "half a line", tick: make(chan struct{})}
			w.upstream.answer(s.ServeHTTP)
			p := w.person("shivam", "view")
			res := w.open(t, p, proto, pods+"/p/log?follow=true")
			w.cut(t, p, 1)
			rest, err := io.ReadAll(res)
			if err == nil {
				t.Error("the client cannot see that its log was cut")
			}
			if s := string(rest); !strings.HasPrefix(s, "\nsallyport: get pods/log") || !strings.HasSuffix(s, "]\n") || !strings.Contains(s, "nothing here is granted to you") {
				t.Errorf("last words %q", s)
			}
			eventually(t, "the apiserver's end is closed", func() bool { return s.open.Load() == 0 })
		})
	}
}

// open begins a streaming GET and reads its first line or piece.
func (w *world) open(t *testing.T, p *person, proto, target string) *bufio.Reader {
	t.Helper()
	c := w.client(p, proto)
	c.Timeout = 0
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	req, err := http.NewRequestWithContext(ctx, "GET", w.url(target), nil)
	must(t, err)
	res, err := c.Do(req)
	must(t, err)
	t.Cleanup(func() { res.Body.Close() })
	if res.StatusCode != 200 {
		t.Fatalf("answer %d", res.StatusCode)
	}
	br := bufio.NewReader(res.Body)
	if strings.Contains(target, "watch") {
		_, err = br.ReadString('\n')
	} else {
		_, err = io.ReadFull(br, make([]byte, len("half a line")))
	}
	must(t, err)
	return br
}

func TestRevokedUserLosesRunningExec(t *testing.T) {
	for _, transport := range []string{"SPDY", "WebSocket"} {
		t.Run(transport, func(t *testing.T) {
			w := newWorld(t)
			server := &echo{}
			w.upstream.answer(server.ServeHTTP)
			p := w.anywhere(w.person("shivam", "edit"))
			in, typed := io.Pipe()
			shown, out := io.Pipe()
			ended := make(chan error, 1)
			go func() {
				ended <- w.executor(t, p, transport).StreamWithContext(t.Context(), remotecommand.StreamOptions{Stdin: in, Stdout: out})
				out.Close()
			}()
			fmt.Fprintln(typed, "hello")
			if line, err := bufio.NewReader(shown).ReadString('\n'); line != "hello\n" {
				t.Fatalf("echo %q (%v)", line, err)
			}
			go io.Copy(io.Discard, shown)
			w.cut(t, p, 1)
			select {
			case err := <-ended:
				if err == nil || !strings.Contains(err.Error(), "nothing here is granted to you") {
					t.Errorf("the exec ended with %v", err)
				}
			case <-time.After(soon):
				t.Error("the client's exec still runs")
			}
			typed.Close()
			eventually(t, "the apiserver's end is closed", func() bool { return server.running.Load() == 0 })
			if e := w.log.outcome(t, 0); e.Ext.CloseReason != "access ended" || e.ResponseStatus.Code != 101 {
				t.Errorf("outcome %+v", e)
			}
		})
	}
}

func TestRevokedUserLosesPortForward(t *testing.T) {
	w := newWorld(t)
	server := &echo{}
	w.upstream.answer(server.ServeHTTP)
	p := w.anywhere(w.person("shivam", "edit"))
	tr, upgrader, err := spdy.RoundTripperFor(w.restConfig(p))
	must(t, err)
	req, err := http.NewRequest("POST", w.url(pods+"/p/portforward"), nil)
	must(t, err)
	d := spdy.NewDialer(upgrader, &http.Client{Transport: tr}, "POST", req.URL)
	stop, ready := make(chan struct{}), make(chan struct{})
	defer close(stop)
	pf, err := portforward.NewOnAddresses(d, []string{"127.0.0.1"}, []string{"0:80"}, stop, ready, io.Discard, io.Discard)
	must(t, err)
	ended := make(chan error, 1)
	go func() { ended <- pf.ForwardPorts() }()
	select {
	case <-ready:
	case err := <-ended:
		t.Fatalf("port-forward: %v", err)
	}
	ports, err := pf.GetPorts()
	must(t, err)
	c, err := dialer(p).Dial("tcp", fmt.Sprintf("127.0.0.1:%d", ports[0].Local))
	must(t, err)
	defer c.Close()
	fmt.Fprintln(c, "ping")
	if line, err := bufio.NewReader(c).ReadString('\n'); line != "ping\n" {
		t.Fatalf("echo %q (%v)", line, err)
	}
	w.cut(t, p, 1)
	c.SetReadDeadline(time.Now().Add(soon))
	if _, err := c.Read(make([]byte, 1)); err == nil || errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("the forwarded connection lives on: %v", err)
	}
	select {
	case <-ended:
	case <-time.After(soon):
		t.Error("the port-forward still runs")
	}
	eventually(t, "the apiserver's end is closed", func() bool { return server.running.Load() == 0 })
}

// A request that is upstream and has no answer yet is cancelled, and refused.
func TestRevokedWhileTheApiserverThinks(t *testing.T) {
	for _, proto := range []string{"h1", "h2"} {
		w := newWorld(t)
		arrived, gone := make(chan struct{}), make(chan struct{})
		w.upstream.answer(func(_ http.ResponseWriter, r *http.Request) {
			close(arrived)
			<-r.Context().Done()
			close(gone)
		})
		p := w.person("shivam", "edit")
		done := make(chan *http.Response, 1)
		go func() {
			res, err := w.client(p, proto).Get(w.url(pods))
			if err != nil {
				t.Error(err)
			}
			done <- res
		}()
		<-arrived
		w.cut(t, p, 1)
		<-gone
		if res := <-done; res != nil {
			if s := readStatus(t, res); s.Code != 403 {
				t.Errorf("%s: %+v", proto, s)
			}
		}
	}
}

// Narrowing cuts what is no longer allowed and leaves the rest.
func TestNarrowedGrantEndsOnlyWhatItNoLongerCovers(t *testing.T) {
	w := newWorld(t)
	s := &stream{contentType: "application/json", line: event, tick: make(chan struct{})}
	w.upstream.answer(s.ServeHTTP)
	p := w.person("shivam", "view", "default", "team-a")
	lost := w.open(t, p, "h2", "/api/v1/namespaces/team-a/pods?watch=true")
	kept := w.open(t, p, "h2", pods+"?watch=true")
	pol := w.publish(func(b *apiv1.Bundle) { b.Grants[0].Namespaces = []string{"default"} })
	if n := w.proxy.Cut(pol); n != 1 {
		t.Errorf("Cut ended %d", n)
	}
	if line, _ := lost.ReadString('\n'); !strings.Contains(line, `"ERROR"`) {
		t.Errorf("the watch that was lost got %q", line)
	}
	eventually(t, "the lost watch is closed", func() bool { return s.open.Load() == 1 })
	s.tick <- struct{}{}
	if line, err := kept.ReadString('\n'); err != nil || line != event {
		t.Errorf("the watch that was kept got %q (%v)", line, err)
	}
}

// What time alone takes away ends streams too: the session, the grant, and the
// policy's freshness.
func TestStreamsEndWithTheirSessionGrantAndFreshness(t *testing.T) {
	for name, takeAway := range map[string]func(*world, *person){
		"session": func(w *world, p *person) { w.advance(2 * time.Hour) },
		"grant":   func(w *world, p *person) { w.advance(40 * time.Minute) },
		"freshness": func(w *world, p *person) {
			w.policies.stale.Store(int32(policy.Exec))
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			s := &stream{contentType: "application/json", line: event, tick: make(chan struct{})}
			w.upstream.answer(s.ServeHTTP)
			p := w.person("shivam", "view")
			if name == "grant" {
				w.publish(func(b *apiv1.Bundle) { b.Grants[0].ExpiresAt = timestamppb.New(time.Now().Add(30 * time.Minute)) })
			}
			watch := w.open(t, p, "h2", pods+"?watch=true")
			takeAway(w, p)
			line, err := watch.ReadString('\n')
			if err != nil || !strings.Contains(line, `"ERROR"`) {
				t.Errorf("got %q (%v)", line, err)
			}
			eventually(t, "the apiserver's end is closed", func() bool { return s.open.Load() == 0 })
		})
	}
}

// advance moves the clock by which sessions and grants are judged.
func (w *world) advance(d time.Duration) {
	now := func() time.Time { return time.Now().Add(d) }
	w.clock.Store(&now)
}

func TestCutOfNothingReturnsAtOnce(t *testing.T) {
	w := newWorld(t)
	w.person("alice", "view")
	if n := w.proxy.Cut(w.policies.current.Load()); n != 0 {
		t.Errorf("Cut ended %d", n)
	}
}
