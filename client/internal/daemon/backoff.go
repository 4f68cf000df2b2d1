package daemon

import (
	"context"
	"math/rand/v2"
	"time"
)

// backoff waits longer after each failure, with jitter, so that a coordinator
// that comes back is not met by everyone at once.
type backoff struct {
	min, max time.Duration
	next     time.Duration
}

func (b *backoff) reset() { b.next = 0 }

func (b *backoff) wait(ctx context.Context) error {
	b.next = min(max(b.min, b.next*2), b.max)
	t := time.NewTimer(b.next/2 + rand.N(b.next/2))
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
