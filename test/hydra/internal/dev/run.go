package dev

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

const (
	startTimeout = 2 * time.Minute // of a machine on which eight others build
	stopGrace    = 3 * time.Second
)

// Run starts Hydra, calls ready once both its APIs answer, and supervises it until ctx ends.
func Run(ctx context.Context, c Config, progress io.Writer, ready func(Endpoints) error) error {
	if err := c.check(); err != nil {
		return err
	}
	syscall.Umask(0o077) // Hydra and PostgreSQL make their sockets before they set the mode
	began := time.Now()
	say := func(format string, args ...any) {
		fmt.Fprintf(progress, "hydra: %s (%.1f s)\n", fmt.Sprintf(format, args...), time.Since(began).Seconds())
	}
	if err := c.makeDirs(); err != nil {
		return err
	}
	supervisor, components, err := c.acquire(ctx)
	if err != nil {
		return err
	}
	defer supervisor.Close()
	defer components.Close()
	k, err := c.load()
	if err != nil {
		return err
	}
	db, err := c.chooseDatabase(&k, progress)
	if err != nil {
		return err
	}
	if err := choosePort(c.PublicPort, &k.PublicPort); err != nil {
		return err
	}
	if err := writeJSON(c.path(keptFile), k); err != nil {
		return err
	}
	dsn := sqliteDSN(c)
	failed := make(chan error, 2)
	if db != nil {
		dsn = db.dsn()
		say("starting PostgreSQL from %s", db.bin)
		server, err := c.startPostgres(ctx, db, components)
		if server != nil {
			defer server.stop(syscall.SIGINT, stopGrace) // a fast shutdown
			go func() { <-server.done; failed <- server.failure() }()
		}
		if err != nil {
			return unlessStopped(ctx, err)
		}
		say("PostgreSQL is ready")
	}
	if err := writeJSON(c.path("hydra.json"), c.hydraConfig(k, dsn)); err != nil {
		return err
	}
	if err := c.migrate(ctx); err != nil {
		return unlessStopped(ctx, err)
	}
	say("database is migrated")
	if err := os.RemoveAll(c.AdminSocket); err != nil {
		return fmt.Errorf("removing stale admin socket: %w", err)
	}
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("finding own binary: %w", err)
	}
	cmd := exec.Command(self, ServeVerb, "serve", "all", "--sqa-opt-out", "-c", c.path("hydra.json"))
	cmd.Dir = c.Dir
	cmd.Env = environment()
	cmd.SysProcAttr = processAttributes(syscall.SIGKILL)
	hydra, err := c.start("hydra", cmd, components)
	if err != nil {
		return err
	}
	defer hydra.stop(syscall.SIGTERM, stopGrace)
	go func() { <-hydra.done; failed <- hydra.failure() }()

	e := Endpoints{
		Public:   fmt.Sprintf("http://127.0.0.1:%d", k.PublicPort),
		Admin:    "unix:" + c.AdminSocket,
		Database: k.Database,
	}
	if err := c.waitForHydra(ctx, e, failed); err != nil {
		return unlessStopped(ctx, err)
	}
	if err := writeJSON(c.path(EndpointsFile), e); err != nil {
		return err
	}
	defer os.Remove(c.path(EndpointsFile))
	say("ready on %s", e.Public)
	if err := ready(e); err != nil {
		return fmt.Errorf("reporting readiness: %w", err)
	}
	select {
	case <-ctx.Done():
		return nil
	case err := <-failed:
		return err
	}
}

func unlessStopped(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// environment is our own without what Hydra would take for configuration: it reads any of its
// settings from a variable of that name.
func environment() []string {
	return []string{"PATH=" + os.Getenv("PATH"), "HOME=" + os.Getenv("HOME"), "GOGC=50"}
}

// makeDirs makes Dir, through which the database's user must be able to pass, and what is in
// it, which is for nobody else.
func (c Config) makeDirs() error {
	if err := os.MkdirAll(filepath.Dir(c.Dir), 0o755); err != nil {
		return fmt.Errorf("making directory: %w", err)
	}
	if err := os.Mkdir(c.Dir, 0o700); err == nil && os.Geteuid() == 0 {
		if err := os.Chmod(c.Dir, 0o711); err != nil {
			return fmt.Errorf("letting the database's user pass: %w", err)
		}
	} else if err != nil && !errors.Is(err, os.ErrExist) {
		return fmt.Errorf("making directory: %w", err)
	}
	for _, dir := range []string{"logs", "run"} {
		if err := os.MkdirAll(c.path(dir), 0o700); err != nil {
			return fmt.Errorf("making directory: %w", err)
		}
	}
	return nil
}

// chooseDatabase returns nil for SQLite. A directory stays with the database it began with.
func (c Config) chooseDatabase(k *kept, progress io.Writer) (*postgres, error) {
	want := c.Database
	if k.Database != "" {
		if want != "auto" && want != k.Database {
			return nil, withHint(fmt.Errorf("%s holds a Hydra on %s, not on %s", c.Dir, k.Database, want), "give another --dir")
		}
		want = k.Database
	}
	if want != "sqlite" {
		p, err := c.findPostgres(k.DataDir)
		if err == nil {
			k.Database, k.DataDir = "postgresql", p.data
			return p, nil
		}
		if want == "postgresql" || !hasSQLite {
			if errors.Is(err, errNoPostgres) {
				err = withHint(err, "install it (Debian: apt-get install postgresql), or a C compiler for a Hydra with SQLite")
			}
			return nil, err
		}
		fmt.Fprintf(progress, "hydra: %v; using SQLite, where two logins at the same time can fail (database is locked)\n", err)
	}
	if !hasSQLite {
		return nil, withHint(errors.New("this hydra-dev was built without SQLite"), "build it with CGO_ENABLED=1, a C compiler and -tags sqlite")
	}
	k.Database = "sqlite"
	return nil, nil
}

func sqliteDSN(c Config) string {
	return (&url.URL{Scheme: "sqlite", Path: c.path("hydra.sqlite"), RawQuery: "_fk=true&mode=rwc&_busy_timeout=10000&_journal_mode=WAL"}).String()
}

// choosePort keeps the port of the last start; a first one takes any that is free, below those
// the system hands out by itself.
func choosePort(wanted int, port *int) error {
	if wanted != 0 {
		*port = wanted
	}
	if *port != 0 {
		return probe(*port)
	}
	for range 200 {
		*port = 20000 + rand.IntN(12000)
		if probe(*port) == nil {
			return nil
		}
	}
	return errors.New("found no free port")
}

func probe(port int) error {
	l, err := net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: port})
	if err != nil {
		return withHint(fmt.Errorf("opening public port: %w", err), "give another --public-port")
	}
	return l.Close()
}

func (c Config) startPostgres(ctx context.Context, p *postgres, components *os.File) (*process, error) {
	if err := p.init(ctx, c); err != nil {
		return nil, err
	}
	if err := p.clean(); err != nil {
		return nil, err
	}
	server, err := c.start("postgresql", p.command(), components)
	if err != nil {
		return nil, err
	}
	deadline := time.After(databaseTimeout)
	for !p.ready() {
		select {
		case <-server.done:
			return server, server.failure()
		case <-ctx.Done():
			return server, ctx.Err()
		case <-deadline:
			return server, fmt.Errorf("PostgreSQL was not ready within %v; see %s", databaseTimeout, server.logPath)
		case <-time.After(10 * time.Millisecond):
		}
	}
	return server, nil
}

func (c Config) migrate(ctx context.Context) error {
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("finding own binary: %w", err)
	}
	cmd := exec.CommandContext(ctx, self, "hydra", "migrate", "sql", "-e", "-y", "-c", c.path("hydra.json"))
	cmd.Env = environment()
	if out, err := cmd.CombinedOutput(); err != nil {
		if len(out) > 4096 {
			out = out[len(out)-4096:]
		}
		return fmt.Errorf("migrating database: %w\n%s", err, out)
	}
	return nil
}

// waitForHydra asks both APIs until they are ready, and gives Hydra a key in between.
func (c Config) waitForHydra(ctx context.Context, e Endpoints, failed chan error) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	admin := &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", c.AdminSocket)
		},
	}}
	if err := c.untilHealthy(ctx, admin, "http://admin/health/ready", failed); err != nil {
		return err
	}
	if err := ensureKeys(ctx, admin); err != nil {
		return fmt.Errorf("giving Hydra a key for ID tokens: %w", err)
	}
	return c.untilHealthy(ctx, http.DefaultClient, e.Public+"/.well-known/jwks.json", failed)
}

func (c Config) untilHealthy(ctx context.Context, client *http.Client, address string, failed chan error) error {
	for {
		status, err := exchange(ctx, client, http.MethodGet, address, nil, nil)
		if err == nil && status == http.StatusOK {
			return nil
		}
		select {
		case failure := <-failed:
			return failure
		case <-ctx.Done():
			return fmt.Errorf("waiting for Hydra: %w (last answer: %d, %v)", ctx.Err(), status, err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}
