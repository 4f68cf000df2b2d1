package daemon

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/sallyport-mesh/sallyport/pkg/overlay"
	"github.com/sallyport-mesh/sallyport/pkg/profile"
)

// seat is this device's place on the overlay. It outlives a session: a login that
// comes in time does not disturb a connection.
type seat struct {
	d      *Daemon
	node   Node
	device string
	root   string
}

const (
	// look is how often the node is asked how it is.
	look = time.Second
	// grace is for the coordinator's map to show a new session's expiry on a node
	// that is on the overlay already.
	grace = 3 * time.Second
)

// elsewhere reports whether p needs another process: one process trusts one
// private root.
func (s *seat) elsewhere(p *profile.Profile) bool {
	return s.root != "" && s.root != string(p.Trust())
}

// hold takes the place and keeps it until ctx ends.
func (s *seat) hold(ctx context.Context, p *profile.Profile) error {
	pause := backoff{min: 500 * time.Millisecond, max: 15 * time.Second}
	for {
		err := s.take(ctx, p)
		if err == nil {
			pause.reset()
			err = s.keep(ctx, p)
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		s.d.cfg.Log.Warn("not on the overlay", "error", err)
		s.d.state.set(func(st *state) { st.online, st.overlay = nil, err.Error() })
		if err := pause.wait(ctx); err != nil {
			return err
		}
	}
}

// take brings the node up, enrolling it where that is needed.
func (s *seat) take(ctx context.Context, p *profile.Profile) error {
	if s.node != nil && s.device != p.Session.DeviceID {
		s.leave() // another person: another device, with keys of its own
	}
	if s.node == nil {
		dir := s.d.cfg.Home.Path(filepath.Join(overlayDir, p.Session.DeviceID))
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return fmt.Errorf("making the overlay's directory: %w", err)
		}
		host, err := os.Hostname()
		if err != nil {
			host = "device"
		}
		node, err := s.d.cfg.Start(ctx, overlay.Config{
			Dir:        dir,
			Hostname:   host,
			ControlURL: p.Session.ControlURL,
			RootPEM:    p.Trust(),
			AuthKey:    p.Session.AuthKey,
			Logf: func(format string, args ...any) {
				s.d.cfg.Log.Debug("overlay", "detail", fmt.Sprintf(format, args...))
			},
		})
		if err != nil {
			return err
		}
		s.node, s.device, s.root = node, p.Session.DeviceID, string(p.Trust())
	}
	if err := s.enrol(ctx, p.Session); err != nil {
		if ctx.Err() == nil {
			s.leave() // the next try starts from nothing
		}
		return err
	}
	// Before anybody hears that the device has joined: whoever looks then finds no
	// key. A crash in between leaves a used one, which opens nothing.
	if err := s.forgetKey(p.Session); err != nil {
		return err
	}
	s.d.state.set(func(st *state) { st.online, st.overlay = s.node, "" })
	s.d.cfg.Log.Info("on the overlay", "device", s.device)
	return nil
}

// enrol waits for the node to run, for this session: one whose key ran out, or
// will before the session does, is enrolled again.
func (s *seat) enrol(ctx context.Context, session *profile.Session) error {
	ready := make(chan error, 1)
	readying, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() { ready <- s.node.Ready(readying) }()

	tick := time.NewTicker(look)
	defer tick.Stop()
	for started := time.Now(); ; {
		select {
		case err := <-ready:
			if err != nil {
				return err
			}
			return s.extend(ctx, session)
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
			st, err := s.node.Status(ctx)
			if err == nil && st.State == "NeedsLogin" && time.Since(started) > grace {
				return s.reauth(ctx, session)
			}
		}
	}
}

// extend makes sure that the node's key lasts as long as the session.
func (s *seat) extend(ctx context.Context, session *profile.Session) error {
	tick := time.NewTicker(look / 4)
	defer tick.Stop()
	for started := time.Now(); ; {
		st, err := s.node.Status(ctx)
		if err != nil {
			return err
		}
		if st.KeyExpiry.IsZero() || !st.KeyExpiry.Before(session.Expires.Add(-time.Minute)) {
			return nil
		}
		if time.Since(started) > grace {
			if session.AuthKey == "" {
				return nil // as long as it lasts
			}
			return s.reauth(ctx, session)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (s *seat) reauth(ctx context.Context, session *profile.Session) error {
	if session.AuthKey == "" {
		return errors.New("the coordinator wants this device to log in again")
	}
	s.d.cfg.Log.Info("enrolling the node again", "session", session.ID)
	return s.node.Reauth(ctx, session.AuthKey)
}

// keep watches over the node, and returns when it is no longer on the overlay.
func (s *seat) keep(ctx context.Context, p *profile.Profile) error {
	tick := time.NewTicker(look)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
		st, err := s.node.Status(ctx)
		switch {
		case err != nil:
			return err
		case st.State == "NeedsLogin":
			return errors.New("the coordinator took this device off the overlay")
		}
	}
}

// doubt says that the device is not on the overlay until take has seen that it is,
// where the node is not running now.
func (s *seat) doubt(ctx context.Context) {
	if s.node == nil {
		return
	}
	if st, err := s.node.Status(ctx); err != nil || !st.Running {
		s.d.state.set(func(st *state) { st.online = nil })
	}
}

// leave gives the place up. Its keys stay in the home.
func (s *seat) leave() {
	s.d.state.set(func(st *state) { st.online = nil })
	if s.node == nil {
		return
	}
	if err := s.node.Close(); err != nil {
		s.d.cfg.Log.Warn("leaving the overlay", "error", err)
	}
	s.node = nil
}

// forgetKey removes the auth key from the home: it is used up, or not needed.
func (s *seat) forgetKey(session *profile.Session) error {
	if session.AuthKey == "" {
		return nil
	}
	used := session.AuthKey
	session.AuthKey = ""
	return s.d.cfg.Home.Update(func(p *profile.Profile) bool {
		if p.Session == nil || p.Session.AuthKey != used {
			return false // a login came in between; its key is its own
		}
		p.Session.AuthKey = ""
		return true
	})
}
