package proxy

import (
	"context"
	"errors"
	"runtime/debug"
	"time"

	"github.com/sallyport-mesh/sallyport/pkg/policy"
)

var errCut = errors.New("access ended while the request ran")

// lastWords is how long a client that reads gets to be told why its stream ends.
const lastWords = 150 * time.Millisecond

// overdueAfter is how long a request may take to end once its client's end is
// closed. It takes none; this only keeps a fault in one from holding up others.
const overdueAfter = time.Second

// Cut decides every registered request again by pol, which must be in force
// already, and ends those that are no longer allowed: a request in an early step
// will not be forwarded, one upstream is cancelled, upgrades lose both
// connections. It returns how many once they have ended.
func (p *Proxy) Cut(pol *policy.Policy) int {
	return p.cut(func(e *entry) *refusal { return p.checkEntry(pol, e) })
}

func (p *Proxy) cut(check func(*entry) *refusal) int {
	var ended []*entry
	for _, e := range p.requests.all() {
		if why := p.guarded(check, e); why != nil && e.end(why) {
			ended = append(ended, e)
		}
	}
	// 1. A moment for last words, for all of them together.
	deadline := time.NewTimer(lastWords + 50*time.Millisecond)
	defer deadline.Stop()
	for patient, left := true, ended; patient && len(left) > 0; left = left[1:] {
		if !left[0].running() {
			continue // it has not begun and now never will
		}
		select {
		case <-left[0].done:
		case <-deadline.C:
			patient = false
		}
	}
	// 2. Then the clients' ends go, all of them before any is waited for: one that
	// clings to its stream must not keep another's open.
	for _, e := range ended {
		e.kill()
	}
	overdue := time.NewTimer(overdueAfter)
	defer overdue.Stop()
	for i, e := range ended {
		if !e.running() {
			continue
		}
		select {
		case <-e.done:
		case <-overdue.C:
			// Nothing passes any more: its context has ended and both sides are
			// closed. That its goroutine has not noticed is a fault of ours, and no
			// reason to leave others without their cut.
			p.log.Error("requests that were cut do not end", "requests", len(ended)-i)
			return len(ended)
		}
	}
	return len(ended)
}

// guarded takes a check that panics for one that refuses.
func (p *Proxy) guarded(check func(*entry) *refusal, e *entry) (why *refusal) {
	defer func() {
		if v := recover(); v != nil {
			p.log.Error("deciding a running request again panicked", "panic", v, "stack", string(debug.Stack()))
			why = internal()
		}
	}()
	return check(e)
}

// checkEntry decides a registered request again.
func (p *Proxy) checkEntry(pol *policy.Policy, e *entry) *refusal {
	if bad := p.checkSession(pol, e.conn); bad != nil {
		return bad
	}
	if d := pol.Decide(e.attrs); !d.Allowed {
		return denied(d)
	}
	return nil
}

// watchOver ends, once a second, what time alone takes away: sessions and
// grants that run out, and policies that go stale.
func (p *Proxy) watchOver(ctx context.Context) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if n := p.cut(func(e *entry) *refusal {
			if bad := p.checkEntry(p.cfg.Policies.Current(), e); bad != nil {
				return bad
			}
			return p.checkFresh(e.attrs, e.streams)
		}); n > 0 {
			p.log.Info("ended requests whose access ran out", "requests", n)
		}
	}
}
