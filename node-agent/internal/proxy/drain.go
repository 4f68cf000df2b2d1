package proxy

import (
	"context"
	"time"
)

// Drain waits until every request has ended and its outcome has been handed to
// the log, or ctx ends. It is called after the context of New has ended, which
// ends them.
func (p *Proxy) Drain(ctx context.Context) error {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for len(p.requests.all()) > 0 {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}
