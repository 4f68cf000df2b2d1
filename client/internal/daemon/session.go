package daemon

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/sallyport-mesh/sallyport/pkg/profile"
)

// errOver ends a session's work; the text is for people.
type errOver string

func (e errOver) Error() string { return string(e) }

// sessions works for one session after another: the one at the start, and each
// that a login brings.
func (d *Daemon) sessions(ctx context.Context, p *profile.Profile) error {
	seat := &seat{d: d}
	defer seat.leave()
	for {
		working, cancel := context.WithCancel(ctx)
		finished := make(chan error, 1)
		go func() { finished <- d.session(working, p, seat) }()

		asked, err := d.await(ctx, finished, cancel)
		if ctx.Err() != nil {
			return nil
		}
		if asked == nil {
			d.end(err, seat)
			if asked = d.awaitReload(ctx); asked == nil {
				return nil
			}
		}
		p = d.next(ctx, asked, seat)
		for p == nil {
			if asked = d.awaitReload(ctx); asked == nil {
				return nil
			}
			p = d.next(ctx, asked, seat)
		}
	}
}

// await waits until the session's work ends, or somebody asks for a reload, in
// which case the work is ended first.
func (d *Daemon) await(ctx context.Context, finished <-chan error, cancel context.CancelFunc) (asked chan error, err error) {
	defer cancel()
	select {
	case err := <-finished:
		return nil, err
	case asked := <-d.reload:
		cancel()
		d.cfg.Log.Debug("session's work ended for another", "how", <-finished)
		return asked, nil
	case <-ctx.Done():
		return nil, <-finished
	}
}

func (d *Daemon) awaitReload(ctx context.Context) chan error {
	select {
	case asked := <-d.reload:
		return asked
	case <-ctx.Done():
		return nil
	}
}

// next takes up what is in the home, and answers whoever asked for it.
func (d *Daemon) next(ctx context.Context, asked chan error, seat *seat) *profile.Profile {
	p, err := d.cfg.Home.LoadSession(time.Now())
	if err == nil && seat.elsewhere(p) {
		err = errors.New("this daemon is on the overlay of another coordinator")
	}
	if err != nil {
		d.end(err, seat)
		asked <- err
		return nil
	}
	d.cfg.Log.Info("session taken up", "user", p.Session.UserName, "session", p.Session.ID)
	seat.doubt(ctx)
	clusters := Remembered(d.cfg.Home, p)
	d.state.set(func(s *state) {
		s.profile, s.clusters = p, clusters
		s.ended, s.watch, s.overlay, s.context = nil, "", "", ""
		s.synced = false
	})
	asked <- nil
	return p
}

// end leaves the overlay and keeps the reason.
func (d *Daemon) end(err error, seat *seat) {
	seat.leave()
	if err == nil {
		err = errOver("the session is over")
	}
	d.cfg.Log.Warn("session over", "reason", err)
	d.state.set(func(s *state) { s.ended, s.connected = err, false })
}

// session works until the session is over (errOver) or ctx ends.
func (d *Daemon) session(ctx context.Context, p *profile.Profile, seat *seat) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return d.expire(ctx, p.Session) })
	g.Go(func() error { return seat.hold(ctx, p) })
	g.Go(func() error { return d.watch(ctx, p) })
	return g.Wait()
}

// expire ends the session when its time comes. It looks at the wall clock now and
// then, since a timer stands still while a laptop sleeps.
func (d *Daemon) expire(ctx context.Context, s *profile.Session) error {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		if !time.Now().Before(s.Expires) {
			return errOver(fmt.Sprintf("the session was over at %s", s.Expires.Local().Format("Mon 15:04")))
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
