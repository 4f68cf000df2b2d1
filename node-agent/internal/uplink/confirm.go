package uplink

import (
	"context"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	apiv1 "github.com/sallyport-mesh/sallyport/pkg/api/sallyport/v1"
	"github.com/sallyport-mesh/sallyport/pkg/policy"
)

// Confirmations wait in a queue of this length; older ones say nothing that
// newer ones do not.
const queueLength = 16

// say queues a confirmation.
func (f *follower) say(c *apiv1.ConfirmRequest) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.queue = append(f.queue, c)
	f.queue = f.queue[max(0, len(f.queue)-queueLength):]
	poke(f.reports)
}

// again says the newest state once more: the coordinator may have been
// restarted.
func (f *follower) again() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.state != nil {
		f.queue = append(f.queue, f.state)
	}
	poke(f.reports)
}

// report sends what is queued, in order, until ctx ends.
func (f *follower) report(ctx context.Context) {
	const first = 100 * time.Millisecond
	wait, tries := first, 0
	for ctx.Err() == nil {
		f.mu.Lock()
		var next *apiv1.ConfirmRequest
		if len(f.queue) > 0 {
			next = f.queue[0]
		}
		f.mu.Unlock()
		if next == nil {
			select {
			case <-ctx.Done():
			case <-f.reports:
			}
			continue
		}
		err := f.confirm(ctx, next)
		if err != nil && ctx.Err() == nil && !hopeless(err) && tries < 10 {
			tries++
			// A stream that comes back is the moment to try again.
			t := time.NewTimer(wait)
			select {
			case <-ctx.Done():
			case <-f.reports:
			case <-t.C:
			}
			t.Stop()
			wait = min(wait*2, f.Backoff)
			continue
		}
		if err != nil && ctx.Err() == nil {
			f.Log.Warn("confirmation not taken", "revision", next.GetRevision(), "err", err)
		}
		wait, tries = first, 0
		f.mu.Lock()
		if len(f.queue) > 0 && f.queue[0] == next {
			f.queue = f.queue[1:]
		}
		f.mu.Unlock()
	}
}

func (f *follower) confirm(ctx context.Context, c *apiv1.ConfirmRequest) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	_, err := f.Client.Confirm(ctx, connect.NewRequest(c))
	return err
}

// hopeless reports whether saying it again would be answered the same.
func hopeless(err error) bool {
	switch connect.CodeOf(err) {
	case connect.CodeInvalidArgument, connect.CodeFailedPrecondition, connect.CodeNotFound, connect.CodeUnimplemented:
		return true
	}
	return false
}

// clean cleans up to the newest policy, again where that fails and whenever a
// grant expires.
func (f *follower) clean(ctx context.Context) {
	const first = time.Second
	wait := first
	var cleaned *policy.Policy
	var asOf time.Time
	for ctx.Err() == nil {
		f.mu.Lock()
		p, c := f.policy, f.state
		f.mu.Unlock()
		if p == nil || (p == cleaned && !f.expired(p, asOf)) {
			f.idle(ctx, p)
			continue
		}
		now := f.Keeper.Now()
		err := f.cleanOnce(ctx, p)
		if ctx.Err() != nil {
			return
		}
		done := proto.CloneOf(c)
		if err != nil {
			f.Log.Error("cluster not cleaned up", "revision", p.Revision(), "err", err, "again_in", wait)
			done.Problem = "cleaning up: " + err.Error()
		} else {
			done.CleanAt, done.Problem = timestamppb.Now(), f.Keeper.Problem()
		}
		f.mu.Lock()
		if f.state == c {
			f.state = done
		}
		f.mu.Unlock()
		f.say(done)
		if err == nil {
			cleaned, asOf, wait = p, now, first
			continue
		}
		t := time.NewTimer(wait)
		select {
		case <-ctx.Done():
		case <-f.work: // a newer policy
			wait = first
		case <-t.C:
			wait = min(wait*2, time.Minute)
		}
		t.Stop()
	}
}

func (f *follower) cleanOnce(ctx context.Context, p *policy.Policy) error {
	ctx, cancel := context.WithTimeout(ctx, f.CleanTimeout)
	defer cancel()
	return f.Clean(ctx, p)
}

// expired reports whether a grant has ended since a moment.
func (f *follower) expired(p *policy.Policy, since time.Time) bool {
	next, ok := p.NextExpiry(since)
	return ok && !f.Keeper.Now().Before(next)
}

// idle waits for a newer policy, or for the next grant to end.
func (f *follower) idle(ctx context.Context, p *policy.Policy) {
	wait := time.Hour
	if p != nil {
		if next, ok := p.NextExpiry(f.Keeper.Now()); ok {
			// The clock may yet be corrected: look again within a minute.
			wait = min(max(next.Sub(f.Keeper.Now()), time.Millisecond), time.Minute)
		}
	}
	t := time.NewTimer(wait)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-f.work:
	case <-t.C:
	}
}
