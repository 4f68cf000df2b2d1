package serviceaccount

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/sallyport-mesh/sallyport/pkg/identity"
	"github.com/sallyport-mesh/sallyport/pkg/policy"
)

// Config of a Minter.
type Config struct {
	// REST reaches the apiserver as the agent's own account. Required.
	REST *rest.Config
	// ClusterID and AgentID are this replica's ids. Required.
	ClusterID, AgentID string
	// Dir is where the ledger is kept. It must exist. Required.
	Dir string
	// Policy is the policy in force, nil before the first. Required.
	Policy func() *policy.Policy
	// Idle is how long an account stays without a request. Default 30 minutes.
	Idle time.Duration
	// Gone is how long another replica may be silent until what it left behind is
	// swept. Default one hour.
	Gone time.Duration
	// Tick is how often idleness, expiry and renewal are looked at. Default 15
	// seconds.
	Tick time.Duration
	// Log gets what an operator wants to know. Default slog.Default().
	Log *slog.Logger
}

// Credential is a person's identity in the cluster for one request. It must not
// leave the agent.
type Credential struct {
	// Token is the bearer token.
	Token string
	// ID names the token without giving it away: "JTI=…", as in the apiserver's
	// own audit log. Empty where the apiserver issues none.
	ID string
	// Account is the account's user name in the cluster,
	// system:serviceaccount:sallyport-users:<name>.
	Account string
}

var (
	// ErrNotEntitled says that policy gives the user nothing in Kubernetes.
	ErrNotEntitled = errors.New("policy entitles the user to nothing in this cluster")
	// ErrNoPolicy says that no bundle has come yet.
	ErrNoPolicy = errors.New("there is no policy yet")
)

// Limits on how long others may keep us waiting.
const (
	callTimeout = 5 * time.Second
	// settleTime is how long an apiserver may take to honour a new binding; it was
	// seen to take 7 ms.
	settleTime = 2 * time.Second
	parallel   = 8
)

// Minter makes, lends and takes back accounts. See the package's documentation.
type Minter struct {
	cfg     Config
	client  kubernetes.Interface
	reviews *reviewer
	ledger  *ledger

	accounts sync.Map // user id → *account
	ceiling  atomic.Pointer[[]rbacv1.PolicyRule]

	planMu sync.Mutex
	plan   *plan

	rolesMu sync.Mutex
	roles   map[string]bool // ClusterRoles seen to be right

	ready   chan struct{} // closed when the ceiling is known and orphans are swept
	repairs chan repair
	failed  chan error // the ledger's failure, which ends Run
}

// New opens the ledger. Nothing is lent before Run has swept the cluster.
func New(_ context.Context, cfg Config) (*Minter, error) {
	if cfg.REST == nil || cfg.Policy == nil || cfg.Dir == "" ||
		!identity.IsID(identity.Cluster, cfg.ClusterID) || !identity.IsID(identity.AgentID, cfg.AgentID) {
		return nil, errors.New("minter needs REST, Policy, Dir, ClusterID and AgentID")
	}
	setDefault(&cfg.Idle, 30*time.Minute)
	setDefault(&cfg.Gone, time.Hour)
	setDefault(&cfg.Tick, 15*time.Second)
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	own := rest.CopyConfig(cfg.REST)
	own.QPS, own.Burst = 200, 400 // the default of 5 a second queues a login wave
	client, err := kubernetes.NewForConfig(own)
	if err != nil {
		return nil, fmt.Errorf("making client for the cluster: %w", err)
	}
	reviews, err := newReviewer(cfg.REST)
	if err != nil {
		return nil, err
	}
	ledger, records, err := openLedger(cfg.Dir)
	if err != nil {
		return nil, err
	}
	m := &Minter{
		cfg: cfg, client: client, reviews: reviews, ledger: ledger,
		roles: map[string]bool{}, ready: make(chan struct{}), repairs: make(chan repair, 1024), failed: make(chan error, 1),
	}
	for user, r := range records {
		a := m.account(user)
		a.record = r
		a.used.Store(time.Now().UnixNano())
	}
	return m, nil
}

func setDefault(d *time.Duration, v time.Duration) {
	if *d == 0 {
		*d = v
	}
}

// account is one person's. Entries are never removed: there are as many as
// there are people in the policy.
type account struct {
	user string
	// lock is held by whoever changes anything of this person's in the cluster.
	lock chan struct{}
	// lent is what the warm path hands out, nil when it has to take the slow path.
	lent atomic.Pointer[lent]
	used atomic.Int64 // Unix nanoseconds of the last request

	// Guarded by lock.
	record  record
	missing map[string]bool // namespaces of a grant that do not exist
}

// lent is a token and what it was lent under.
type lent struct {
	token
	uid    types.UID // of the account
	policy *policy.Policy
	// until is when the token or the first entitlement ends.
	until time.Time
	// settled is when every apiserver has surely seen the newest binding.
	settled time.Time
	missing map[string]bool
}

func (m *Minter) account(user string) *account {
	if a, ok := m.accounts.Load(user); ok {
		return a.(*account)
	}
	a, _ := m.accounts.LoadOrStore(user, &account{user: user, lock: make(chan struct{}, 1), record: record{User: user}})
	return a.(*account)
}

func (a *account) acquire(ctx context.Context) error {
	select {
	case a.lock <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (a *account) release() { <-a.lock }

// Token lends the subject's account for the request that a describes. It makes
// the account and its bindings if this is their first use.
func (m *Minter) Token(ctx context.Context, s policy.Subject, a policy.Attributes) (Credential, error) {
	if s.UserID == "" || a.UserID != s.UserID {
		return Credential{}, errors.New("the request is not the subject's")
	}
	acc := m.account(s.UserID)
	// Before the look at lent: idleness looks at them in the other order, so one
	// of the two sees the other.
	acc.used.Store(time.Now().UnixNano())
	l := acc.lent.Load()
	if !l.good(m.cfg.Policy(), a) {
		var err error
		if l, err = m.mint(ctx, acc, s, a); err != nil {
			return Credential{}, err
		}
	}
	if time.Now().Before(l.settled) {
		if err := m.settle(ctx, l, a); err != nil {
			return Credential{}, err
		}
	}
	return l.Credential, nil
}

func (l *lent) good(pol *policy.Policy, a policy.Attributes) bool {
	return l != nil && l.policy == pol && time.Now().Before(l.until) && !l.missing[a.Namespace]
}

// mint is the slow path: under the person's lock, and the policy as it is then.
func (m *Minter) mint(ctx context.Context, acc *account, s policy.Subject, a policy.Attributes) (*lent, error) {
	select {
	case <-m.ready:
	case <-ctx.Done():
		return nil, fmt.Errorf("waiting for the cluster to be swept: %w", ctx.Err())
	}
	if err := acc.acquire(ctx); err != nil {
		return nil, fmt.Errorf("waiting for the account: %w", err)
	}
	defer acc.release()
	pol := m.cfg.Policy()
	before := acc.lent.Load()
	if before.good(pol, a) {
		return before, nil
	}
	made, ends, err := m.reconcile(ctx, acc, pol, &s)
	if err != nil {
		return nil, err
	}
	return m.lend(ctx, acc, pol, ends, made, before)
}

// lend puts a token at the warm path's disposal. The caller holds the lock.
func (m *Minter) lend(ctx context.Context, acc *account, pol *policy.Policy, ends time.Time, made bool, before *lent) (*lent, error) {
	l := &lent{policy: pol, missing: acc.missing}
	if before != nil && before.uid == acc.record.UID && time.Now().Before(before.renew) {
		l.token, l.uid, l.settled = before.token, before.uid, before.settled
	} else {
		ctx, cancel := context.WithTimeout(ctx, callTimeout)
		defer cancel()
		t, err := requestToken(ctx, m.client, acc.record.Account)
		if err != nil {
			return nil, err
		}
		l.token, l.uid = t, acc.record.UID
	}
	if made {
		l.settled = time.Now().Add(settleTime)
	}
	l.until = l.token.until
	if !ends.IsZero() && ends.Before(l.until) {
		l.until = ends
	}
	acc.lent.Store(l)
	return l, nil
}

// settle waits until the apiserver honours the newest bindings for this very
// request, so that nobody sees a refusal that is only lag. A refusal that lasts
// is Kubernetes' own, and the apiserver says so better than we can.
func (m *Minter) settle(ctx context.Context, l *lent, a policy.Attributes) error {
	ctx, cancel := context.WithDeadline(ctx, l.settled)
	defer cancel()
	for wait := time.Millisecond; ; wait = min(2*wait, 100*time.Millisecond) {
		ok, err := m.reviews.allowed(ctx, l.Token, a)
		if ok {
			return nil
		}
		if err != nil && ctx.Err() == nil {
			m.cfg.Log.Warn("access review failed", "user", a.UserID, "error", err)
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			if errors.Is(context.Cause(ctx), context.Canceled) {
				return context.Canceled
			}
			return nil
		}
	}
}
