package overlay

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"tailscale.com/client/local"
	"tailscale.com/ipn"
	"tailscale.com/tsnet"
)

// Config says how to join.
type Config struct {
	// Dir holds the node's keys and state; it is created 0700. One node each.
	Dir string
	// Hostname is what the node calls itself to the coordinator. The name it is
	// known by on the overlay is the coordinator's choice.
	Hostname string
	// ControlURL is the coordinator's URL, such as https://coordinator:8443.
	ControlURL string
	// RootPEM is the coordinator's private root, or empty where its certificate
	// is a public one for the name in ControlURL. A process joins with one
	// private root only, and by default verifies every server with it from then
	// on.
	RootPEM []byte
	// AuthKey enrols this machine's key with the coordinator, once. It is not
	// looked at when Dir holds a node that is enrolled already; use
	// [Node.Reauth] to enrol that again.
	AuthKey string
	// Logf gets tsnet's own log, which is verbose. Nil discards it.
	Logf func(format string, args ...any)
}

// Node is a running member of the overlay.
type Node struct {
	ts     *tsnet.Server
	lc     *local.Client
	peers  peerCache
	names  nameCache
	met    acquaintances
	relay  *relayLink
	cancel context.CancelFunc
	done   chan struct{} // closed when the watch has ended
}

// Join starts a node and waits until it is running. The error is the
// coordinator's own sentence where it refused.
func Join(ctx context.Context, cfg Config) (*Node, error) {
	n, err := Start(ctx, cfg)
	if err != nil {
		return nil, err
	}
	if err := n.Ready(ctx); err != nil {
		return nil, errors.Join(err, n.Close())
	}
	return n, nil
}

// Start starts a node without waiting for the coordinator: an agent that comes
// up while the coordinator is away serves from the map it has kept. ctx bounds
// the start alone.
func Start(ctx context.Context, cfg Config) (*Node, error) {
	u, err := parseControlURL(cfg.ControlURL)
	if err != nil {
		return nil, err
	}
	if cfg.Dir == "" {
		return nil, errors.New("joining the overlay: no state directory")
	}
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("making overlay state directory: %w", err)
	}
	if err := configureProcess(u, cfg.RootPEM); err != nil {
		return nil, err
	}
	port, err := choosePort(cfg.Dir)
	if err != nil {
		return nil, err
	}
	relay := newRelayLink()
	logf := func(format string, args ...any) {
		relay.read(format)
		if cfg.Logf != nil {
			cfg.Logf(format, args...)
		}
	}
	ts := &tsnet.Server{
		Dir:        cfg.Dir,
		Hostname:   cfg.Hostname,
		ControlURL: u.Scheme + "://" + u.Host,
		AuthKey:    cfg.AuthKey,
		Port:       port,
		Logf:       logf,
		UserLogf:   logf,
	}
	lc, err := ts.LocalClient() // starts it
	if err != nil {
		return nil, fmt.Errorf("starting overlay node: %w", err)
	}
	watching, cancel := context.WithCancel(context.WithoutCancel(ctx))
	n := &Node{ts: ts, lc: lc, relay: relay, cancel: cancel, done: make(chan struct{})}
	go n.watch(watching)
	return n, nil
}

// Ready waits until the node is running: it has a map, and a relay or a peer to
// talk through. Where the coordinator refuses, the error is its sentence.
func (n *Node) Ready(ctx context.Context) error {
	w, err := n.lc.WatchIPNBus(ctx, ipn.NotifyInitialState)
	if err != nil {
		return fmt.Errorf("waiting for the overlay: %w", err)
	}
	defer func() { _ = w.Close() }() // a watch has nothing to lose
	for {
		ev, err := w.Next()
		switch {
		case ctx.Err() != nil:
			return fmt.Errorf("waiting for the overlay: %w", context.Cause(ctx))
		case err != nil:
			return fmt.Errorf("waiting for the overlay: %w", err)
		case ev.ErrMessage != nil:
			return fmt.Errorf("joining the overlay: %s", *ev.ErrMessage)
		case ev.State != nil && *ev.State == ipn.Running:
			return nil
		}
	}
}

// Listen listens on the node's overlay addresses: ":443". It may be called
// before the node is ready.
func (n *Node) Listen(addr string) (net.Listener, error) {
	ln, err := n.ts.Listen("tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("listening on the overlay: %w", err)
	}
	return ln, nil
}

// Reauth enrols the running node again with a new auth key, as after a login
// that follows the end of a session, and waits until it is running. The node
// takes a new key for WireGuard; the machine stays the same.
func (n *Node) Reauth(ctx context.Context, authKey string) error {
	if authKey == "" {
		return errors.New("enrolling again: no auth key")
	}
	if err := n.reauth(ctx, authKey); err != nil {
		return fmt.Errorf("enrolling again: %w", err)
	}
	return nil
}

func (n *Node) reauth(ctx context.Context, authKey string) error {
	before, err := n.lc.StatusWithoutPeers(ctx)
	if err != nil {
		return err
	}
	w, err := n.lc.WatchIPNBus(ctx, 0) // from before it begins, so that nothing is missed
	if err != nil {
		return err
	}
	defer func() { _ = w.Close() }() // a watch has nothing to lose
	prefs := ipn.NewPrefs()
	prefs.ControlURL, prefs.Hostname, prefs.WantRunning = n.ts.ControlURL, n.ts.Hostname, true
	if err := n.lc.Start(ctx, ipn.Options{AuthKey: authKey, UpdatePrefs: prefs}); err != nil {
		return err
	}
	if err := n.lc.StartLoginInteractive(ctx); err != nil {
		return err
	}
	for {
		ev, err := w.Next()
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case err != nil:
			return err
		case ev.ErrMessage != nil:
			return errors.New(*ev.ErrMessage)
		}
		// The node may have been running all along, so it is its key that tells.
		now, err := n.lc.StatusWithoutPeers(ctx)
		if err != nil {
			return err
		}
		if now.BackendState == ipn.Running.String() && now.Self != nil && before.Self != nil && now.Self.PublicKey != before.Self.PublicKey {
			return nil
		}
	}
}

// Logout tells the coordinator that this node's key ends now, wipes the key and
// closes the node. The machine needs a new auth key to come back.
func (n *Node) Logout(ctx context.Context) error {
	// tsnet goes on with an empty profile, whose control server would be
	// Tailscale's. So the node is closed, whatever became of the call.
	return errors.Join(n.logout(ctx), n.Close())
}

func (n *Node) logout(ctx context.Context) error {
	if err := n.lc.Logout(ctx); err != nil {
		return fmt.Errorf("leaving the overlay: %w", err)
	}
	return nil
}

// closeGrace bounds how long Close waits for the node, and for the watch of changes.
const closeGrace = 5 * time.Second

// Close stops the node. Its state stays in Dir. It does not wait for ever: closing
// wireguard-go's device was seen to deadlock with a receiver that waits for the
// device's lock, and what is left then ends with the process.
func (n *Node) Close() error {
	n.cancel()
	closed := make(chan error, 1)
	go func() { closed <- n.ts.Close() }()
	var err error
	select {
	case err = <-closed:
	case <-time.After(closeGrace):
		return errors.New("closing the overlay node: it does not end")
	}
	select {
	case <-n.done:
	case <-time.After(closeGrace):
	}
	if errors.Is(err, net.ErrClosed) {
		return nil // closed before
	}
	return err
}
