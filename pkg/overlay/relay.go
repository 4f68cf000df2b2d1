package overlay

import (
	"context"
	"strings"
	"sync"
)

// relayLink follows whether the node stands connected to its relay. Until it
// does, a peer that has no direct path yet cannot answer, and WireGuard repeats
// a lost handshake only after five seconds.
//
// tsnet tells nobody but its log, so this reads along, by the formats of
// v1.102.5. If they change, waiting ends at its bound and nothing breaks;
// TestNodeKnowsWhenItsRelayIsConnected then fails.
type relayLink struct {
	mu sync.Mutex
	up chan struct{} // closed while connected
}

func newRelayLink() *relayLink { return &relayLink{up: make(chan struct{})} }

// read takes in one call of tsnet's Logf.
func (l *relayLink) read(format string) {
	switch {
	case strings.HasSuffix(format, "magicsock: derp-%d connected; connGen=%v"):
		l.set(true)
	case strings.HasSuffix(format, "magicsock: closing connection to derp-%v (%v), age %v"),
		strings.HasSuffix(format, "magicsock: [%p] derp.Recv(derp-%d): %v"):
		l.set(false)
	}
}

func (l *relayLink) set(up bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	select {
	case <-l.up:
		if !up {
			l.up = make(chan struct{})
		}
	default:
		if up {
			close(l.up)
		}
	}
}

func (l *relayLink) connected() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	select {
	case <-l.up:
		return true
	default:
		return false
	}
}

// wait waits until the relay is connected.
func (l *relayLink) wait(ctx context.Context) error {
	l.mu.Lock()
	up := l.up
	l.mu.Unlock()
	select {
	case <-up:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
