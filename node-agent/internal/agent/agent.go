package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"strconv"
	"sync"
	"time"

	"github.com/sallyport-mesh/sallyport/node-agent/internal/auditlog"
	"github.com/sallyport-mesh/sallyport/node-agent/internal/bundle"
	"github.com/sallyport-mesh/sallyport/node-agent/internal/config"
	"github.com/sallyport-mesh/sallyport/node-agent/internal/enroll"
	"github.com/sallyport-mesh/sallyport/node-agent/internal/namespaces"
	"github.com/sallyport-mesh/sallyport/node-agent/internal/proxy"
	"github.com/sallyport-mesh/sallyport/node-agent/internal/serviceaccount"
	"github.com/sallyport-mesh/sallyport/node-agent/internal/uplink"
	"github.com/sallyport-mesh/sallyport/pkg/overlay"
	"github.com/sallyport-mesh/sallyport/pkg/policy"
	"github.com/sallyport-mesh/sallyport/pkg/process"
)

// Bounds of the end: what runs gets this long to end, and what it left on record
// this long to reach the coordinator. The log is on disk either way.
const (
	drainTime = 5 * time.Second
	flushTime = 3 * time.Second
)

// Run runs an agent until ctx ends, and then returns nil, or until it can go on
// no longer.
func Run(ctx context.Context, cfg config.Config, version string, log *slog.Logger) (err error) {
	// 1. The directory, which is ours alone.
	dir, err := openDirectory(cfg.DataDir)
	if err != nil {
		return err
	}
	defer func() { _ = dir.close() }() // its lock goes with the process

	// 2. The cluster, and who we are in it and to the coordinator.
	kube, err := openCluster(cfg.Kubeconfig, version)
	if err != nil {
		dir.abandon()
		return err
	}
	id, err := whoWeAre(ctx, cfg, dir, kube, version, log)
	if err != nil {
		return err
	}

	// 3. What is on disk.
	a := &agent{
		cfg: cfg, version: version, log: log, id: id, kube: kube,
		failed: make(chan error, 1), verified: make(chan struct{}), relabelled: make(chan struct{}, 1),
	}
	if err := a.open(ctx, dir); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, a.audit.Close()) }()

	// 4. Everything that runs, until the end or the first that cannot go on.
	if err := a.start(ctx, dir); err != nil {
		return err
	}
	log.Info("serving", "cluster", id.Enrolment().ClusterName, "project", id.Enrolment().ProjectName, "agent", id.Enrolment().AgentID, "version", version)
	select {
	case <-ctx.Done():
	case err = <-a.failed:
	case <-a.audit.Failed():
		err = process.Hint(fmt.Errorf("the audit log failed, and nothing may happen without it: %w", a.audit.Err()), "check the disk that holds "+cfg.DataDir)
	}
	log.Info("stopping")
	a.end()
	return err
}

// agent is what runs, and how it is ended: in the order of the fields.
type agent struct {
	cfg     config.Config
	version string
	log     *slog.Logger
	id      *enroll.Identity
	kube    *cluster

	keeper *bundle.Keeper
	audit  *auditlog.Log
	minter *serviceaccount.Minter
	proxy  *proxy.Proxy
	node   *overlay.Node

	serving   stage // listener and requests
	following stage // policy, accounts, certificates
	shipping  stage // records

	verified   chan struct{} // closed when the cluster is known to be ours
	relabelled chan struct{} // receives when labels of namespaces changed the policy
	failed     chan error    // the first thing that cannot go on
}

// stage is goroutines that end together.
type stage struct {
	ctx    context.Context
	cancel context.CancelFunc
	all    sync.WaitGroup
}

func (s *stage) begin() {
	s.ctx, s.cancel = context.WithCancel(context.Background())
}

func (s *stage) end() {
	s.cancel()
	s.all.Wait()
}

func (a *agent) open(ctx context.Context, dir *directory) error {
	e := a.id.Enrolment()
	verifier, err := policy.NewVerifier(e.PolicyKeys...)
	if err != nil {
		return fmt.Errorf("reading policy keys: %w", err)
	}
	a.keeper, err = bundle.Open(ctx, bundle.Config{
		Dir: dir.sub("policy"), ClusterID: e.ClusterID, TrustDomain: e.TrustDomain, Verifier: verifier, Log: a.log,
	})
	if err != nil {
		return err
	}
	a.minter, err = serviceaccount.New(ctx, serviceaccount.Config{
		REST: a.kube.rest, ClusterID: e.ClusterID, AgentID: e.AgentID, Dir: dir.path, Policy: a.keeper.Current,
		Idle: a.cfg.Accounts.IdleDuration(), Log: a.log,
	})
	if err != nil {
		return err
	}
	a.audit, err = auditlog.Open(ctx, auditlog.Config{
		Dir: dir.sub("audit"), Origin: e.LogOrigin + "/" + strconv.FormatUint(uint64(e.Epoch), 10),
		Key: a.id.Checkpoint, Cosigner: e.CosignerVKey, Logger: a.log,
	})
	return err
}

// start begins what runs. If it fails, what it has begun is ended.
func (a *agent) start(ctx context.Context, dir *directory) (err error) {
	a.serving.begin()
	a.following.begin()
	a.shipping.begin()
	defer func() {
		if err != nil {
			a.end()
		}
	}()
	e := a.id.Enrolment()
	a.node, err = overlay.Start(ctx, overlay.Config{
		Dir: dir.sub("overlay"), Hostname: e.ClusterName, ControlURL: e.ControlURL, RootPEM: a.id.PrivateRoot(), AuthKey: e.AuthKey,
		Logf: func(format string, args ...any) { a.log.Debug("overlay", "said", fmt.Sprintf(format, args...)) },
	})
	if err != nil {
		return err
	}
	listener, err := a.node.Listen(":443")
	if err != nil {
		return err
	}
	a.proxy, err = proxy.New(a.serving.ctx, proxy.Config{
		TrustDomain: e.TrustDomain, ClusterName: e.ClusterName, Upstream: a.kube.rest,
		Identify: a.identify, Policies: a.keeper, Log: a.audit, Accounts: accounts{a.minter, a.verified},
		ServingCert: a.id.ServingCertificate, Now: a.keeper.Now, Logger: a.log,
	})
	if err != nil {
		return err
	}
	a.run(&a.serving, func(context.Context) error { return a.proxy.Serve(listener) })
	a.run(&a.following, func(ctx context.Context) error {
		if err := sameCluster(ctx, a.kube, a.id, a.log); err != nil || ctx.Err() != nil {
			return err
		}
		close(a.verified)
		return a.minter.Run(ctx)
	})
	a.run(&a.following, a.followNamespaces)
	a.run(&a.following, func(ctx context.Context) error { joinOverlay(ctx, a.node, a.id, a.log); return nil })
	a.run(&a.following, func(ctx context.Context) error { a.id.KeepFresh(ctx, a.log); return nil })
	a.run(&a.following, func(ctx context.Context) error {
		return uplink.Follow(ctx, uplink.FollowConfig{
			Client: a.id.Client().Agent(), Keeper: a.keeper, Cut: a.proxy.Cut, Clean: a.minter.Apply, Changed: a.relabelled,
			Version: a.version, Ceiling: a.ceiling, Log: a.log,
		})
	})
	a.run(&a.shipping, func(ctx context.Context) error {
		err := uplink.Ship(ctx, uplink.ShipConfig{Client: a.id.Client().Agent(), Log: a.audit, Logger: a.log})
		if _, ok := errors.AsType[*uplink.DivergedError](err); ok {
			// The log refuses from here on, and says why. Staying up keeps policy,
			// revocation and the evidence where they are.
			a.log.Error("the audit log and the coordinator's copy have parted: every request is refused until an administrator has looked", "error", err)
			return nil
		}
		return err
	})
	return nil
}

// run runs f in a stage. An error before the stage ends ends the agent.
func (a *agent) run(s *stage, f func(context.Context) error) {
	s.all.Go(func() {
		if err := f(s.ctx); err != nil && s.ctx.Err() == nil {
			select {
			case a.failed <- err:
			default:
			}
		}
	})
}

// end ends everything, first that which makes records.
func (a *agent) end() {
	a.serving.end()
	if a.proxy != nil {
		ctx, cancel := context.WithTimeout(context.Background(), drainTime)
		if err := a.proxy.Drain(ctx); err != nil {
			a.log.Warn("requests were still running at the end", "error", err)
		}
		cancel()
	}
	a.flush()
	a.shipping.end()
	a.following.end()
	if a.node != nil {
		if err := a.node.Close(); err != nil {
			a.log.Warn("leaving the overlay failed", "error", err)
		}
	}
	a.id.Client().Close()
}

// flush gives the last outcomes a moment to reach the coordinator. They are on
// disk in any case; where the coordinator is away, the next start ships them.
func (a *agent) flush() {
	deadline := time.NewTimer(flushTime)
	defer deadline.Stop()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for settled := 0; settled < 10; settled++ { // outcomes are committed within 100 ms
		if a.audit.Acked() < a.audit.Size() {
			settled = 0
		}
		select {
		case <-tick.C:
		case <-a.audit.Failed():
			return
		case <-deadline.C:
			return
		}
	}
}

// followNamespaces keeps grants on namespaces by label what the labels say: what
// they no longer give is cut at once, and accounts follow.
func (a *agent) followNamespaces(ctx context.Context) error {
	select {
	case <-a.verified: // another cluster's labels are not ours
	case <-ctx.Done():
		return nil
	}
	return namespaces.Follow(ctx, namespaces.Config{REST: a.kube.rest, Log: a.log, Tell: func(ns policy.Namespaces) {
		p := a.keeper.SeeNamespaces(ns)
		if p == nil {
			return
		}
		cut := a.proxy.Cut(p)
		a.log.Info("labels of namespaces changed what is granted", "known", ns != nil, "cut", cut)
		select {
		case a.relabelled <- struct{}{}:
		default:
		}
	}})
}

// identify is the second key: which device the overlay says this address is.
func (a *agent) identify(ctx context.Context, remote netip.AddrPort) (proxy.Peer, error) {
	p, err := a.node.WhoIs(ctx, remote)
	if err != nil {
		return proxy.Peer{}, err
	}
	return proxy.Peer{DeviceID: p.DeviceID, UserID: p.UserID}, nil
}

// ceiling is what the cluster's owner allows, for the coordinator's reports.
func (a *agent) ceiling() []byte {
	rules := a.minter.Ceiling()
	if rules == nil {
		return nil
	}
	// Strings always encode.
	b, _ := json.Marshal(rules)
	return b
}

// accounts gives the proxy what the Minter lends, once the cluster is known to
// be the right one.
type accounts struct {
	minter   *serviceaccount.Minter
	verified <-chan struct{}
}

func (m accounts) Token(ctx context.Context, s policy.Subject, a policy.Attributes) (proxy.Credential, error) {
	select {
	case <-m.verified:
	default:
		return proxy.Credential{}, errors.New("the apiserver has not answered since the agent started")
	}
	c, err := m.minter.Token(ctx, s, a)
	if errors.Is(err, serviceaccount.ErrNotEntitled) {
		err = errors.Join(proxy.ErrNotEntitled, err)
	}
	return proxy.Credential{Token: c.Token, ID: c.ID, Account: c.Account}, err
}
