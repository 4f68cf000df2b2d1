package proxy_test

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/sallyport-mesh/sallyport/node-agent/internal/proxy"
	"github.com/sallyport-mesh/sallyport/pkg/audit"
	"github.com/sallyport-mesh/sallyport/pkg/policy"
)

// policies are the real policy with a freshness that tests decide.
type policies struct {
	w       *world
	current atomic.Pointer[policy.Policy]
	stale   atomic.Int32 // classes of this value and above are stale; 0 means none

	panicking atomic.Bool
	cas       atomic.Pointer[authority] // instead of the world's, when set
}

func (p *policies) Current() *policy.Policy {
	if p.panicking.Load() {
		panic("policy panics")
	}
	return p.current.Load()
}

func (p *policies) Fresh(c policy.Class) error {
	if s := p.stale.Load(); s != 0 && int32(c) >= s {
		return errors.New("last heard from the coordinator 10m0s ago")
	}
	return nil
}

func (p *policies) UserCAs() *x509.CertPool {
	users := p.w.users
	if other := p.cas.Load(); other != nil {
		users = other
	}
	pool := x509.NewCertPool()
	pool.AddCert(users.cert)
	return pool
}

// overlay is WhoIs.
type overlay struct {
	mu    sync.Mutex
	peers map[netip.Addr]proxy.Peer
	err   error
	panic bool
}

func (o *overlay) set(a netip.Addr, p proxy.Peer) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.peers[a] = p
}

func (o *overlay) fail(err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.err = err
}

func (o *overlay) setPanic(on bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.panic = on
}

func (o *overlay) identify(_ context.Context, remote netip.AddrPort) (proxy.Peer, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.panic { // as a nil map in an overlay's code would
		panic("whois panics")
	}
	if o.err != nil {
		return proxy.Peer{}, o.err
	}
	p, ok := o.peers[remote.Addr()]
	if !ok {
		return proxy.Peer{}, fmt.Errorf("no peer at %v", remote.Addr())
	}
	return p, nil
}

// memoryLog keeps records in memory.
type memoryLog struct {
	mu       sync.Mutex
	intents  []*audit.Event
	outcomes []*audit.Event
	intent   func(context.Context, *audit.Event) error // called first, when set
	next     proxy.Log                                 // the real one, in a real world
	discard  atomic.Bool
}

func (l *memoryLog) Intent(ctx context.Context, e *audit.Event) error {
	if l.discard.Load() {
		return nil
	}
	l.mu.Lock()
	hook := l.intent
	l.mu.Unlock()
	if hook != nil {
		if err := hook(ctx, e); err != nil {
			return err
		}
	}
	if l.next != nil {
		if err := l.next.Intent(ctx, e); err != nil {
			return err
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	c := *e
	l.intents = append(l.intents, &c)
	return nil
}

func (l *memoryLog) Outcome(e *audit.Event) {
	if l.next != nil {
		l.next.Outcome(e)
	}
	if l.discard.Load() {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	c := *e
	l.outcomes = append(l.outcomes, &c)
}

func (l *memoryLog) hook(f func(context.Context, *audit.Event) error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.intent = f
}

// outcome waits for the outcome of the nth request.
func (l *memoryLog) outcome(t testing.TB, n int) *audit.Event {
	t.Helper()
	var e *audit.Event
	eventually(t, fmt.Sprintf("outcome %d is recorded", n), func() bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		if len(l.outcomes) <= n {
			return false
		}
		e = l.outcomes[n]
		return true
	})
	return e
}

func (l *memoryLog) counts() (intents, outcomes int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.intents), len(l.outcomes)
}

// accounts mint a token that names its user.
type accounts struct {
	mu   sync.Mutex
	mint func(context.Context, policy.Subject, policy.Attributes) (proxy.Credential, error)
}

func (a *accounts) Token(ctx context.Context, s policy.Subject, at policy.Attributes) (proxy.Credential, error) {
	a.mu.Lock()
	hook := a.mint
	a.mu.Unlock()
	if hook != nil {
		return hook(ctx, s, at)
	}
	return proxy.Credential{Token: tokenOf(s.UserID), ID: "jti-" + s.UserID, Account: "system:serviceaccount:sallyport-users:sp-" + s.Name}, nil
}

func (a *accounts) hook(f func(context.Context, policy.Subject, policy.Attributes) (proxy.Credential, error)) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.mint = f
}

func tokenOf(userID string) string { return "token-of-" + userID }
