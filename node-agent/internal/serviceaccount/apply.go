package serviceaccount

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/sallyport-mesh/sallyport/pkg/policy"
)

// Apply brings the cluster in line with the policy in force, pol or a later one:
// what people may no longer have is taken from them first, then what the policy
// newly needs is made ready. When it returns nil the cluster is clean; an error
// names every account and object that is not, and Run goes on trying.
func (m *Minter) Apply(ctx context.Context, pol *policy.Policy) error {
	if pol == nil {
		return ErrNoPolicy
	}
	select {
	case <-m.ready:
	case <-ctx.Done():
		return fmt.Errorf("waiting for the cluster to be swept: %w", ctx.Err())
	}
	err := m.reconcileAll(ctx)
	if now := m.cfg.Policy(); now != nil {
		pol = now
	}
	plan, planErr := m.planFor(pol)
	if planErr != nil {
		return errors.Join(err, planErr)
	}
	for name, rules := range plan.rules {
		err = errors.Join(err, m.ensureRole(ctx, name, rules))
	}
	return errors.Join(err, m.collectRoles(ctx, plan))
}

// reconcileAll looks after every account that exists.
func (m *Minter) reconcileAll(ctx context.Context) error {
	all := map[*account]bool{}
	m.accounts.Range(func(_, a any) bool {
		all[a.(*account)] = true
		return true
	})
	var (
		mu   sync.Mutex
		errs []error
	)
	inParallel(all, func(a *account) {
		if err := m.lookAfter(ctx, a); err != nil {
			mu.Lock()
			errs = append(errs, fmt.Errorf("account of %s: %w", a.user, err))
			mu.Unlock()
		}
	})
	return errors.Join(errs...)
}

// lookAfter reconciles one account with the policy in force, and lends it anew
// under that policy if it was lent.
func (m *Minter) lookAfter(ctx context.Context, a *account) error {
	if err := a.acquire(ctx); err != nil {
		return err
	}
	defer a.release()
	return m.lookAfterLocked(ctx, a)
}

func (m *Minter) lookAfterLocked(ctx context.Context, a *account) error {
	pol := m.cfg.Policy()
	if a.record.empty() || pol == nil {
		return nil // without a policy nobody is lent anything either
	}
	before := a.lent.Load()
	made, ends, err := m.reconcile(ctx, a, pol, nil)
	switch {
	case errors.Is(err, ErrNotEntitled):
		return nil // and removed
	case err != nil:
		return err
	case before == nil || a.record.Account == "":
		return nil
	}
	_, err = m.lend(ctx, a, pol, ends, made, before)
	return err
}
