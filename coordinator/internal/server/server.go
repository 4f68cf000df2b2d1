package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/sallyport-mesh/sallyport/coordinator/internal/auditstore"
	"github.com/sallyport-mesh/sallyport/coordinator/internal/ca"
	"github.com/sallyport-mesh/sallyport/coordinator/internal/config"
	"github.com/sallyport-mesh/sallyport/coordinator/internal/directory"
	"github.com/sallyport-mesh/sallyport/coordinator/internal/login"
	"github.com/sallyport-mesh/sallyport/coordinator/internal/publish"
	"github.com/sallyport-mesh/sallyport/coordinator/internal/store"
	"github.com/sallyport-mesh/sallyport/coordinator/internal/tailnet"
	"github.com/sallyport-mesh/sallyport/pkg/badgerdir"
	"github.com/sallyport-mesh/sallyport/pkg/pki"
	"github.com/sallyport-mesh/sallyport/pkg/policy"
	"github.com/sallyport-mesh/sallyport/pkg/process"
)

// coordinator is everything that is open.
type coordinator struct {
	cfg     config.Config
	version string
	log     *slog.Logger

	store     store.Store
	directory *directory.Directory
	ca        *ca.Authority
	signer    *policy.Signer
	// cosignerVKey is what agents verify acknowledgements with.
	cosignerVKey string
	audit        *auditstore.Store
	tailnet      *tailnet.Server
	publish      *publish.Hub
	login        *login.App
}

// Run runs a coordinator until ctx ends. cfg is complete.
func Run(ctx context.Context, cfg config.Config, version string, log *slog.Logger) (err error) {
	c := &coordinator{cfg: cfg, version: version, log: log}
	if err := os.MkdirAll(cfg.DataDir, 0o700); err != nil {
		return fmt.Errorf("configuration: data_dir: %w", err)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()

	// 1. The ports, so that a second coordinator or a wrong address is found
	// before anything is made.
	tcp, err := listen("listen", cfg.Listen)
	if err != nil {
		return err
	}
	defer tcp.Close()
	if err := checkUDP("overlay.stun", cfg.Overlay.STUN); err != nil {
		return err
	}

	// 2. State; the data directory is ours from here on.
	if err := c.open(ctx); err != nil {
		return errors.Join(err, c.close())
	}
	defer func() { err = errors.Join(err, c.close()) }()
	unixSocket, err := listenSocket(cfg.Socket)
	if err != nil {
		return err
	}
	defer unixSocket.Close()

	// 3. Serve.
	return c.serve(ctx, tcp, unixSocket)
}

func (c *coordinator) open(ctx context.Context) error {
	dir := func(name string) string { return filepath.Join(c.cfg.DataDir, name) }
	db, err := store.NewBadger(ctx, store.Config{Dir: dir("store"), Log: c.log})
	if err != nil {
		return inUse(err, c.cfg.DataDir)
	}
	c.store = db
	if c.ca, err = ca.Open(ca.Config{Dir: dir("ca"), TrustDomain: c.cfg.TrustDomain}); err != nil {
		return err
	}
	keys, err := openKeys(dir("keys"), c.cfg.TrustDomain)
	if err != nil {
		return err
	}
	c.signer, c.cosignerVKey = keys.policy, keys.cosignerPublic
	c.directory, err = directory.Open(ctx, directory.Config{
		Store: c.store, Builtin: policy.Builtin(), Log: c.log, MaxSession: c.cfg.Session.Duration(),
	})
	if err != nil {
		return err
	}
	c.audit, err = auditstore.Open(ctx, auditstore.Config{
		Dir: dir("audit"), Domain: c.cfg.TrustDomain, CosignerKey: keys.cosigner, OwnKey: keys.own, Logger: c.log,
	})
	if err != nil {
		return inUse(err, c.cfg.DataDir)
	}
	c.tailnet, err = tailnet.New(ctx, tailnet.Config{
		Store: c.store, Domain: c.cfg.Overlay.Domain, PublicURL: c.cfg.PublicURL, STUNAddr: c.cfg.Overlay.STUN, Log: c.log,
	})
	if err != nil {
		return err
	}
	c.publish, err = publish.New(ctx, publish.Config{
		Directory: c.directory, Store: c.store, Signer: c.signer, Domain: c.cfg.Overlay.Domain,
		Issuer:     c.issuer(),
		OnTopology: c.tailnet.SetTopology, Log: c.log,
	})
	if err != nil {
		return err
	}
	providers, err := providers(c.cfg.Login.Providers)
	if err != nil {
		return err
	}
	c.login, err = login.New(ctx, login.Config{
		Directory: c.directory, Store: c.store, URL: c.cfg.PublicURL, Link: c.link().String(), Name: c.cfg.TrustDomain,
		HydraAdmin: c.cfg.Hydra.AdminURL, HydraPublic: c.cfg.Hydra.PublicURL, Record: c.audit.Own, Log: c.log,
		SealKey: keys.login, RequireSecondFactor: c.cfg.Login.RequireSecondFactor, Providers: providers,
	})
	return err
}

func inUse(err error, dir string) error {
	if errors.Is(err, badgerdir.ErrLocked) {
		return process.Hint(err, "stop the other coordinator, or choose another directory with --data-dir (now "+dir+")")
	}
	return err
}

func (c *coordinator) close() error {
	var err error
	if c.audit != nil {
		err = errors.Join(err, c.audit.Close())
	}
	if c.store != nil {
		err = errors.Join(err, c.store.Close())
	}
	return err
}

// shutdownGrace is how long requests may take to end when the process is told
// to; streams are ended at once.
const shutdownGrace = 3 * time.Second

func (c *coordinator) serve(ctx context.Context, tcp, unixSocket net.Listener) error {
	certs, err := newCertificates(c.cfg.TLS, c.ca, c.cfg.Hosts())
	if err != nil {
		return err
	}
	handlers, err := c.handlers()
	if err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	stopping, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()

	public := &http.Server{
		Handler: handlers.public, TLSConfig: handlers.tls(certs),
		ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 32 << 10,
		ErrorLog:    slog.NewLogLogger(c.log.Handler(), slog.LevelDebug),
		BaseContext: func(net.Listener) context.Context { return stopping },
	}
	local := &http.Server{
		Handler: localOnly(handlers.local), ReadHeaderTimeout: 10 * time.Second,
		ErrorLog:    slog.NewLogLogger(c.log.Handler(), slog.LevelDebug),
		ConnContext: socketContext,
		BaseContext: func(net.Listener) context.Context { return stopping },
	}
	group.Go(func() error { return closed(public.ServeTLS(tcp, "", "")) })
	group.Go(func() error { return closed(local.Serve(unixSocket)) })
	group.Go(func() error { return c.tailnet.Run(ctx) })
	group.Go(func() error { return c.publish.Run(ctx) })
	group.Go(func() error { return c.login.Run(ctx) })
	group.Go(func() error { return c.watchHealth(ctx) })
	group.Go(func() error {
		<-ctx.Done()
		stop() // ends streams, which would outlast any grace
		grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownGrace)
		defer cancel()
		return errors.Join(shut(public, grace), shut(local, grace))
	})
	c.announce()
	return group.Wait()
}

// watchHealth ends the process when something that must not fail has.
func (c *coordinator) watchHealth(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case <-c.directory.Done():
		if ctx.Err() != nil {
			return nil
		}
		return fmt.Errorf("state is broken: %w", c.directory.Err())
	case <-c.audit.Failed():
		return fmt.Errorf("audit store is broken: %w", c.audit.Err())
	}
}

// announce says that everything answers, and what to do first.
func (c *coordinator) announce() {
	c.log.Info("coordinator is ready", "login", c.link().String(), "version", c.version, "data", c.cfg.DataDir)
	if len(c.directory.Snapshot().Users) == 0 {
		c.log.Info("there are no users yet", "next", "sallyportctl --socket "+c.cfg.Socket+" user add --admin NAME")
	}
}

// link is the login URL: with the root's pin where the certificate is our own.
func (c *coordinator) link() pki.Link {
	link := pki.Link{URL: c.cfg.PublicURL}
	if c.cfg.TLS.CertFile == "" {
		link.Pin = pki.Pin(c.ca.Root())
	}
	return link
}

func closed(err error) error {
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

func shut(s *http.Server, grace context.Context) error {
	if err := s.Shutdown(grace); err != nil {
		return s.Close()
	}
	return nil
}
