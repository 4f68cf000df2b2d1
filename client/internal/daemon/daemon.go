package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"runtime/pprof"
	"strings"
	"time"

	"github.com/gofrs/flock"
	"golang.org/x/sync/errgroup"

	"github.com/sallyport-mesh/sallyport/client/internal/localapi"
	"github.com/sallyport-mesh/sallyport/client/internal/socks"
	"github.com/sallyport-mesh/sallyport/pkg/overlay"
	"github.com/sallyport-mesh/sallyport/pkg/process"
	"github.com/sallyport-mesh/sallyport/pkg/profile"
)

// Files of the daemon in the home.
const (
	SocketFile = "daemon.sock"
	LogFile    = "daemon.log"
	SocksFile  = "socks"

	LockFile = "daemon.lock"
	// ClustersFile holds the list of clusters as last heard.
	ClustersFile = "clusters.json"

	overlayDir = "tsnet"
)

// Config of a daemon.
type Config struct {
	Home profile.Home
	// Kubeconfig is the file that contexts are kept in.
	Kubeconfig string
	// Command is the absolute path of this program, for the credential plugin.
	Command string
	Version string
	Log     *slog.Logger
	// OnListening is called once commands are answered. It may be nil.
	OnListening func()
	// Start joins the overlay. Nil is pkg/overlay.
	Start func(ctx context.Context, cfg overlay.Config) (Node, error)
}

// Node is this device on the overlay: *overlay.Node.
type Node interface {
	Ready(ctx context.Context) error
	Reauth(ctx context.Context, authKey string) error
	Status(ctx context.Context) (overlay.Status, error)
	Resolve(ctx context.Context, host string) ([]netip.Addr, error)
	Dial(ctx context.Context, network, addr string) (net.Conn, error)
	Ping(ctx context.Context, addr netip.Addr) (overlay.Ping, error)
	Close() error
}

var _ Node = (*overlay.Node)(nil)

// ErrRunning says that another daemon holds the home.
var ErrRunning = errors.New("a sallyport daemon is running already")

// Daemon is one at work.
type Daemon struct {
	cfg    Config
	socks  socks.Credentials
	state  state
	reload chan chan error
	stop   context.CancelFunc
}

// Run works until ctx ends or somebody says stop.
func Run(ctx context.Context, cfg Config) error {
	if err := cfg.Home.Make(); err != nil {
		return err
	}
	lock := flock.New(cfg.Home.Path(LockFile), flock.SetPermissions(0o600))
	if held, err := lock.TryLock(); err != nil {
		return fmt.Errorf("locking the home: %w", err)
	} else if !held {
		return ErrRunning
	}
	defer func() { _ = lock.Unlock() }() // the kernel does, at the latest

	p, err := cfg.Home.LoadSession(time.Now())
	if err != nil {
		return err
	}
	if cfg.Start == nil {
		cfg.Start = func(ctx context.Context, c overlay.Config) (Node, error) { return overlay.Start(ctx, c) }
	}
	proxy, credentials, err := socks.Listen(ctx, cfg.Home.Path(SocksFile))
	if err != nil {
		return err
	}
	defer proxy.Close()
	commands, err := localapi.Listen(cfg.Home.Path(SocketFile))
	if err != nil {
		return process.Hint(err, "a shorter "+profile.Variable+" may help: a socket's path has 100 characters at most")
	}
	defer commands.Close()

	ctx, stop := context.WithCancel(ctx)
	defer stop()
	d := &Daemon{cfg: cfg, socks: credentials, reload: make(chan chan error), stop: stop}
	remembered := Remembered(cfg.Home, p)
	d.state.init(p, remembered)
	if len(remembered) > 0 {
		// The coordinator may be away, and the proxy may have had to move.
		d.state.blocked, d.state.context = d.keep(ctx, p, remembered)
	}
	cfg.Log.Info("daemon started", "pid", os.Getpid(), "version", cfg.Version, "user", p.Session.UserName, "device", p.Session.DeviceID)

	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return d.sessions(ctx, p) })
	g.Go(func() error { return localapi.Serve(ctx, commands, os.Getuid(), d, cfg.Log) })
	g.Go(func() error {
		return socks.Serve(ctx, proxy, socks.Config{Credentials: credentials, Domain: d.state.domain, Dial: d.dial, Log: cfg.Log})
	})
	if cfg.OnListening != nil {
		cfg.OnListening()
	}
	err = d.finish(ctx, g)
	cfg.Log.Info("daemon ended")
	return err
}

// endTime is how long the parts have to end once the daemon is to.
const endTime = 8 * time.Second

// finish waits for the parts. A daemon that was told to end ends, also when one of
// them hangs: the kernel takes back what it held, and the log says what it was.
func (d *Daemon) finish(ctx context.Context, g *errgroup.Group) error {
	ended := make(chan error, 1)
	go func() { ended <- g.Wait() }()
	<-ctx.Done() // of the group: at the first error too
	select {
	case err := <-ended:
		return err
	case <-time.After(endTime):
		var stacks strings.Builder
		_ = pprof.Lookup("goroutine").WriteTo(&stacks, 1) // a Builder takes everything
		d.cfg.Log.Error("the daemon leaves although a part of it has not ended", "goroutines", stacks.String())
		return nil
	}
}

// Stop ends the daemon.
func (d *Daemon) Stop() { d.stop() }

// Reload takes up the session that is in the home now.
func (d *Daemon) Reload(ctx context.Context) error {
	done := make(chan error, 1)
	select {
	case d.reload <- done:
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// dial carries one connection of kubectl's.
func (d *Daemon) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	n := d.state.node()
	if n == nil {
		return nil, socks.ErrOffline
	}
	c, err := n.Dial(ctx, network, addr)
	if errors.Is(err, overlay.ErrUnknownName) {
		return nil, fmt.Errorf("%w: %w", socks.ErrNotOverlay, err)
	}
	return c, err
}
