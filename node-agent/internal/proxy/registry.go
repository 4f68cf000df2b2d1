package proxy

import (
	"context"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/sallyport-mesh/sallyport/pkg/policy"
)

// registry holds every request from parse to its end.
type registry struct {
	perUser int

	mu      sync.Mutex
	entries map[*entry]struct{}
	users   map[string]int
}

func newRegistry(perUser int) *registry {
	return &registry{perUser: perUser, entries: map[*entry]struct{}{}, users: map[string]int{}}
}

// entry is one registered request. It begins before anything went upstream,
// may begin to forward once, and ends once.
type entry struct {
	conn    *connection
	attrs   policy.Attributes
	streams bool
	cancel  context.CancelCauseFunc
	rc      *http.ResponseController
	done    chan struct{} // closed when not one byte more can pass

	// mu orders begin, end and finish: a request that was ended never begins,
	// and one that began is in reach of end until it has finished.
	mu         sync.Mutex
	forwarding bool
	finished   bool
	why        *refusal
	client     net.Conn // an upgrade's own connections, beneath TLS
	upstream   net.Conn
}

func (g *registry) add(conn *connection, q *reading, cancel context.CancelCauseFunc, rc *http.ResponseController) (*entry, *refusal) {
	e := &entry{conn: conn, attrs: q.attrs, streams: q.streams, cancel: cancel, rc: rc, done: make(chan struct{})}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.users[e.attrs.UserID] >= g.perUser {
		return nil, tooMany("you have too many requests in flight")
	}
	g.users[e.attrs.UserID]++
	g.entries[e] = struct{}{}
	return e, nil
}

func (g *registry) remove(e *entry) {
	if e == nil {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.entries, e)
	if g.users[e.attrs.UserID]--; g.users[e.attrs.UserID] == 0 {
		delete(g.users, e.attrs.UserID)
	}
}

func (g *registry) all() []*entry {
	g.mu.Lock()
	defer g.mu.Unlock()
	out := make([]*entry, 0, len(g.entries))
	for e := range g.entries {
		out = append(out, e)
	}
	return out
}

func (g *registry) endAll(why *refusal) {
	for _, e := range g.all() {
		if e.end(why) {
			e.kill()
		}
	}
}

// begin is the moment before the first upstream byte.
func (e *entry) begin() *refusal {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.why != nil {
		return e.why
	}
	e.forwarding = true
	return nil
}

// carry hands over both ends of an upgrade, to be closed when the request is ended.
func (e *entry) carry(client, upstream net.Conn) *refusal {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.why != nil {
		return e.why
	}
	e.client, e.upstream = client, upstream
	return nil
}

// finish says that nothing passes any more.
func (e *entry) finish() {
	if e == nil {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.finished {
		e.finished = true
		close(e.done)
	}
}

// end stops the request: before its first upstream byte for good, later by
// cancelling what goes on upstream and closing an upgrade's upstream end. It
// returns false where there was nothing left to end.
func (e *entry) end(why *refusal) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.finished || e.why != nil {
		return false
	}
	e.why = why
	e.cancel(errCut)
	if e.upstream != nil {
		e.upstream.Close() // nothing gets there any more, whatever the client does
	}
	if e.forwarding {
		e.setWriteDeadline(time.Now().Add(lastWords))
	}
	return true
}

// kill takes the client's stream away from a request that was ended and did
// not get done with it.
func (e *entry) kill() {
	e.mu.Lock()
	defer e.mu.Unlock()
	switch {
	case e.finished:
	case e.client != nil:
		e.client.Close()
	case e.forwarding:
		e.rc.SetWriteDeadline(time.Unix(1, 0))
		// A body that the client has stopped sending would keep the request upstream
		// from being given up: closing it waits for the read that is under way.
		e.rc.SetReadDeadline(time.Unix(1, 0))
	}
}

// setWriteDeadline bounds writing to the client. Called with mu held.
func (e *entry) setWriteDeadline(t time.Time) {
	if e.client != nil {
		e.client.SetWriteDeadline(t)
	} else {
		e.rc.SetWriteDeadline(t)
	}
}

// ended tells why the request was ended, or nil.
func (e *entry) ended() *refusal {
	if e == nil {
		return nil
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.why
}

// running reports whether bytes may still pass.
func (e *entry) running() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.forwarding && !e.finished
}
