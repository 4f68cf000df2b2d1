package uplink

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/sallyport-mesh/sallyport/node-agent/internal/bundle"
	apiv1 "github.com/sallyport-mesh/sallyport/pkg/api/sallyport/v1"
	"github.com/sallyport-mesh/sallyport/pkg/api/sallyport/v1/apiv1connect"
	"github.com/sallyport-mesh/sallyport/pkg/policy"
)

// FollowConfig says whom to follow and what to do about what comes.
type FollowConfig struct {
	Client apiv1connect.AgentServiceClient
	Keeper *bundle.Keeper
	// Cut ends what the policy, which is in force already, no longer allows, and
	// returns how many requests it ended once they have.
	Cut func(*policy.Policy) int
	// Clean makes accounts and bindings in the cluster what the policy says, and
	// returns when they are. It is called again until it succeeds, and when a
	// grant expires; never twice at a time.
	Clean func(context.Context, *policy.Policy) error
	// Changed receives when the Keeper's policy changed without a bundle, and what
	// it no longer allows is cut: accounts and bindings follow. It may be nil.
	Changed <-chan struct{}
	// Version is this agent's; Ceiling its own rights, JSON of
	// []rbacv1.PolicyRule, asked for at every connection. It may be nil.
	Version string
	Ceiling func() []byte
	// Silence is how long a connection may say nothing before it counts as dead:
	// three heartbeats, 45 s, unless set.
	Silence time.Duration
	// Backoff is the longest wait between two attempts; 15 s unless set.
	Backoff time.Duration
	// CleanTimeout bounds one call of Clean; 30 s unless set.
	CleanTimeout time.Duration
	// Log is slog.Default() unless set.
	Log *slog.Logger
}

// Follow keeps the agent's policy what the coordinator says, until ctx ends. A
// bundle is taken in and bites (Cut) where it is received; confirming and
// cleaning happen beside that, so that neither delays the next bundle. While the
// coordinator is away it keeps trying, and keeps the mark of time.
func Follow(ctx context.Context, cfg FollowConfig) error {
	if cfg.Silence == 0 {
		cfg.Silence = 45 * time.Second
	}
	if cfg.Backoff == 0 {
		cfg.Backoff = 15 * time.Second
	}
	if cfg.CleanTimeout == 0 {
		cfg.CleanTimeout = 30 * time.Second
	}
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	f := &follower{FollowConfig: cfg, reports: make(chan struct{}, 1), work: make(chan struct{}, 1)}
	var all sync.WaitGroup
	all.Go(func() { f.report(ctx) })
	all.Go(func() { f.clean(ctx) })
	all.Go(func() { f.mark(ctx) })
	all.Go(func() { f.changes(ctx) })
	if p := cfg.Keeper.Current(); p != nil {
		// From before this start. Nothing runs yet that could be cut.
		now := time.Now()
		f.inForce(&apiv1.ConfirmRequest{
			Revision: p.Revision(), ReceivedAt: timestamppb.New(now), CutAt: timestamppb.New(now), Problem: cfg.Keeper.Problem(),
		})
	}
	f.watch(ctx)
	all.Wait()
	return ctx.Err()
}

type follower struct {
	FollowConfig

	mu sync.Mutex
	// state is the newest confirmation in full: it is said again after every
	// reconnection. queue is what is to be said yet.
	state *apiv1.ConfirmRequest
	queue []*apiv1.ConfirmRequest
	// policy is what is to be cleaned up to, until it is.
	policy  *policy.Policy
	reports chan struct{}
	work    chan struct{}
}

// watch holds one stream after another.
func (f *follower) watch(ctx context.Context) {
	const first = 200 * time.Millisecond
	wait := first
	for ctx.Err() == nil {
		heard, err := f.stream(ctx)
		if heard {
			wait = first
		}
		if ctx.Err() != nil {
			return
		}
		f.Log.Warn("no policy from the coordinator: trying again", "err", err, "in", wait)
		sleep(ctx, wait/2+rand.N(wait/2+1))
		wait = min(wait*2, f.Backoff)
	}
}

// stream follows one stream until it ends. heard says whether anything came.
func (f *follower) stream(ctx context.Context) (heard bool, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	dead := time.AfterFunc(f.Silence, func() { cancel(fmt.Errorf("nothing heard for %s", f.Silence)) })
	defer dead.Stop()
	req := &apiv1.AgentWatchRequest{HeldRevision: f.Keeper.Held(), Version: f.Version, Features: policy.Features}
	if f.Ceiling != nil {
		req.CeilingRules = f.Ceiling()
	}
	s, err := f.Client.Watch(ctx, connect.NewRequest(req))
	if err != nil {
		return false, errors.Join(context.Cause(ctx), err)
	}
	defer func() { _ = s.Close() }()
	for s.Receive() {
		dead.Reset(f.Silence)
		if !heard {
			heard = true
			f.again()
		}
		switch d := s.Msg().GetKind().(type) {
		case *apiv1.AgentDirective_Bundle:
			if err := f.accept(d.Bundle); err != nil {
				return heard, err
			}
		case *apiv1.AgentDirective_Heartbeat:
			if err := f.Keeper.Beat(d.Heartbeat); err != nil {
				f.Log.Warn("heartbeat proves nothing", "err", err)
			}
		}
	}
	return heard, errors.Join(context.Cause(ctx), s.Err())
}

// accept puts a bundle into force. An error asks for another stream, and with it
// for the same bundle.
func (f *follower) accept(signed *apiv1.Signed) error {
	received := time.Now()
	p, err := f.Keeper.Accept(signed)
	switch {
	case p == nil && err == nil:
		return nil // held already
	case p == nil:
		f.Log.Error("bundle refused", "err", err)
		// Which one it was may be made up; the coordinator knows what it sent.
		b, _ := policy.ParseBundle(signed.GetPayload())
		f.say(&apiv1.ConfirmRequest{Revision: b.GetRevision(), ReceivedAt: timestamppb.New(received), Problem: err.Error()})
		return nil
	}
	cut := f.Cut(p)
	f.inForce(&apiv1.ConfirmRequest{
		Revision: p.Revision(), ReceivedAt: timestamppb.New(received), CutAt: timestamppb.Now(),
		CutStreams: uint32(cut), Problem: f.Keeper.Problem(),
	})
	f.Log.Info("policy in force", "revision", p.Revision(), "cut", cut, "problem", f.Keeper.Problem())
	if f.Keeper.Held() < p.Revision() {
		return fmt.Errorf("bundle of revision %d is not kept: %w", p.Revision(), err)
	}
	return nil
}

// inForce confirms a policy and has it cleaned up to.
func (f *follower) inForce(c *apiv1.ConfirmRequest) {
	f.mu.Lock()
	f.policy, f.state = f.Keeper.Current(), c
	f.mu.Unlock()
	f.say(c)
	poke(f.work)
}

// changes has what exists in the cluster follow a policy that changed by itself.
func (f *follower) changes(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-f.Changed:
		}
		f.mu.Lock()
		if f.policy != nil {
			f.policy = f.Keeper.Current()
		}
		f.mu.Unlock()
		poke(f.work)
	}
}

func poke(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}

func sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

// mark keeps the mark of time.
func (f *follower) mark(ctx context.Context) {
	for ctx.Err() == nil {
		if err := f.Keeper.Mark(); err != nil {
			f.Log.Warn("mark of time not written", "err", err)
		}
		sleep(ctx, bundle.MarkEvery)
	}
}
