package play

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/sallyport-mesh/sallyport/pkg/pki"
	"github.com/sallyport-mesh/sallyport/test/parts"
)

// Config says where a world lives and what is in it.
type Config struct {
	// Dir holds everything; it can be started again.
	Dir string
	// Bin holds the four binaries.
	Bin string
	// Session is how long logins last. 0 means 12 hours.
	Session time.Duration
	// Login answers with the login section of the coordinator's configuration, once
	// its URL is known. Nil means none.
	Login func(ctx context.Context, coordinatorURL string) (string, error)
	// Progress is told what is being done. It may be nil.
	Progress func(what string)
}

// World is everything that runs.
type World struct {
	Dir         string
	Bin         string
	Kubectl     string
	Hydra       *parts.RunningHydra
	Coordinator *Coordinator

	mu       sync.Mutex
	Clusters map[string]*Cluster
	People   map[string]*Person

	life     context.Context // what runs ends with it
	ports    ports
	session  time.Duration
	login    string
	progress func(string)
}

// New starts Hydra and the coordinator; clusters and people follow. Everything
// ends with ctx, or with Stop.
func New(ctx context.Context, cfg Config) (*World, error) {
	w := &World{
		Dir: cfg.Dir, Bin: cfg.Bin, Clusters: map[string]*Cluster{}, People: map[string]*Person{},
		life: ctx, session: cfg.Session, progress: cfg.Progress,
	}
	if w.session == 0 {
		w.session = 12 * time.Hour
	}
	if w.progress == nil {
		w.progress = func(string) {}
	}
	var err error
	if w.Bin, err = filepath.Abs(w.Bin); err != nil {
		return nil, err
	}
	if w.Dir, err = filepath.Abs(w.Dir); err != nil {
		return nil, err
	}
	// Others may pass through to where PostgreSQL has its own directory (it does
	// not run as root), and list nothing; what else is here is for its owner.
	hydra := filepath.Join(w.Dir, "hydra")
	for _, dir := range []string{w.Dir, hydra} {
		if err := os.MkdirAll(dir, 0o711); err != nil {
			return nil, err
		}
		if err := os.Chmod(dir, 0o711); err != nil {
			return nil, err
		}
	}
	if err := w.loadPorts(); err != nil {
		return nil, fmt.Errorf("choosing ports: %w", err)
	}
	if w.Kubectl, err = parts.Binary(ctx, parts.Kubectl); err != nil {
		return nil, err
	}
	w.progress("starting Hydra (a few seconds)")
	url := w.coordinatorURL()
	w.Hydra, err = parts.StartHydra(ctx, parts.HydraConfig{
		Dir: hydra, Issuer: url, LoginURL: url + "/login", ConsentURL: url + "/consent", LogoutURL: url + "/logout",
		PublicPort: w.ports.HydraPublic,
	})
	if err != nil {
		return nil, err
	}
	if w.Hydra.Database == "sqlite" {
		w.progress("there is no PostgreSQL here, so Hydra runs on SQLite: two logins at the same moment break each other there, so people log in one by one (apt-get install postgresql)")
	}
	if cfg.Login != nil {
		if w.login, err = cfg.Login(ctx, url); err != nil {
			w.Stop()
			return nil, err
		}
	}
	w.progress("starting the coordinator")
	if err := w.StartCoordinator(ctx); err != nil {
		w.Stop()
		return nil, err
	}
	return w, nil
}

// Stop ends everything that runs, what depends on others first.
func (w *World) Stop() {
	w.mu.Lock()
	defer w.mu.Unlock()
	var wg sync.WaitGroup
	for _, p := range w.People {
		wg.Go(func() { _ = p.Daemon.Stop() })
	}
	for _, c := range w.Clusters {
		wg.Go(func() {
			_ = c.Agent.Stop()
			c.Stop()
		})
	}
	wg.Wait()
	if w.Coordinator != nil {
		_ = w.Coordinator.Process.Stop()
	}
	if w.Hydra != nil {
		w.Hydra.Stop()
	}
}

func (w *World) bin(name string) string { return filepath.Join(w.Bin, name) }

// OverlayEnv lets nodes believe in the network of a machine that has only
// loopback.
func (w *World) OverlayEnv() []string { return []string{"TS_ASSUME_NETWORK_UP_FOR_TEST=1"} }

// secret reads a password, or makes one that nobody has to type.
func secret(path string) (string, error) {
	raw, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		raw = []byte(rand.Text())
		err = pki.WriteFile(path, raw)
	}
	return strings.TrimSpace(string(raw)), err
}

// clusters and people of the quickstart and of scenarios A and B.
var (
	quickClusters = [][2]string{{"edge-1", "aws"}, {"edge-2", "aws"}, {"edge-3", "gcp"}}
	quickPeople   = []string{"alice", "virat", "shivam"}
)

// Quickstart makes the place to play in: clusters edge-1 and edge-2 in project
// aws and edge-3 in gcp; alice the administrator, virat who manages aws, and
// shivam the trainee, who has cluster admin on aws by mistake. Starting it again
// changes nothing that is there.
func (w *World) Quickstart(ctx context.Context) error {
	// 1. The clusters come up while the directory is filled.
	clusters, cctx := errgroup.WithContext(ctx)
	for _, qc := range quickClusters {
		w.progress("starting Kubernetes cluster " + qc[0] + " (5 to 20 seconds)")
		clusters.Go(func() error {
			_, err := w.StartCluster(cctx, qc[0], qc[1])
			return err
		})
	}
	// 2. People, groups, projects, grants.
	w.progress("adding projects, people and grants")
	if err := w.directory(ctx); err != nil {
		return err
	}
	if err := clusters.Wait(); err != nil {
		return err
	}
	// 3. Agents.
	agents, actx := errgroup.WithContext(ctx)
	for _, c := range w.Clusters {
		agents.Go(func() error {
			w.progress("importing " + c.Name + " and starting its agent")
			if err := w.Import(actx, c); err != nil {
				return err
			}
			return w.StartAgent(actx, c)
		})
	}
	if err := agents.Wait(); err != nil {
		return err
	}
	// 4. Everyone logs in and joins.
	people, pctx := errgroup.WithContext(ctx)
	if w.Hydra.Database == "sqlite" {
		people.SetLimit(1)
	}
	for _, name := range quickPeople {
		people.Go(func() error {
			w.progress(name + " logs in and joins the overlay")
			p, err := w.Person(name)
			if err != nil {
				return err
			}
			return p.arrive(pctx)
		})
	}
	return people.Wait()
}

// arrive logs in anew and joins.
func (p *Person) arrive(ctx context.Context) error {
	if err := p.Login(ctx); err != nil {
		return err
	}
	return p.Up(ctx)
}

// NewUser adds a local user with a password and answers with the person.
func (w *World) NewUser(ctx context.Context, name string, flags ...string) (*Person, error) {
	p, err := w.Person(name)
	if err != nil {
		return nil, err
	}
	args := append([]string{"user", "add", "--password-stdin"}, flags...)
	return p, w.adminOnce(ctx, p.Password+"\n", append(args, name)...)
}

func (w *World) directory(ctx context.Context) error {
	for _, name := range quickPeople {
		var flags []string
		if name == "alice" {
			flags = append(flags, "--admin")
		}
		if _, err := w.NewUser(ctx, name, flags...); err != nil {
			return err
		}
	}
	for _, args := range [][]string{
		{"project", "add", "aws"},
		{"project", "add", "gcp"},
		{"group", "add", "aws-members"},
		{"group", "join", "aws-members", "virat"},
		{"group", "join", "aws-members", "shivam"},
		{"user", "admin", "--project", "aws", "virat", "project-manager"},
	} {
		if err := w.adminOnce(ctx, "", args...); err != nil {
			return err
		}
	}
	r, err := w.Admin(ctx, "", "grant", "list", "--project", "aws")
	if err != nil || strings.Contains(r.Stdout, "aws-members") {
		return err
	}
	_, err = w.Admin(ctx, "", "grant", "add", "--role", "cluster-admin", "--group", "aws-members", "--project", "aws")
	return err
}
