package bundle

import (
	"errors"
	"fmt"
	"time"

	"github.com/sallyport-mesh/sallyport/pkg/policy"

	apiv1 "github.com/sallyport-mesh/sallyport/pkg/api/sallyport/v1"
)

// Staleness budgets of a cluster that has not set its own.
const (
	DefaultReadBudget  = 24 * time.Hour
	DefaultWriteBudget = 4 * time.Hour
	DefaultExecBudget  = 15 * time.Minute
)

// ErrStale says that the policy is too old for the kind of request.
var ErrStale = errors.New("policy is stale")

// Now is the coordinator's time as far as it is known here. It ends grants and
// judges certificates.
func (k *Keeper) Now() time.Time {
	s := k.state.Load()
	if s == nil || s.anchor.at.IsZero() {
		return k.cfg.Clock.Wall()
	}
	now := s.anchor.now(k.cfg.Clock.Boot())
	if s.gap {
		// The time away is not known; a clock that says more can only make what
		// is held staler.
		if wall := k.cfg.Clock.Wall(); wall.After(now) {
			return wall
		}
	}
	return now
}

// Fresh returns nil if the policy may still decide about requests of class c,
// or an error that says why not and since when.
func (k *Keeper) Fresh(c policy.Class) error {
	s := k.state.Load()
	if s.policy == nil {
		return fmt.Errorf("%w: no policy has come from the coordinator yet", ErrStale)
	}
	if s.proven.IsZero() {
		return fmt.Errorf("%w: the coordinator has not confirmed it yet", ErrStale)
	}
	if s.gap && c != policy.Read {
		return fmt.Errorf("%w: the machine was restarted and the coordinator has not been heard since; %s waits for it", ErrStale, c)
	}
	budget := budget(s.policy.Bundle().GetBudgets(), c)
	age := k.Now().Sub(s.proven)
	if age <= budget {
		return nil
	}
	return fmt.Errorf("%w: the coordinator last confirmed it at %s, %s ago, and %s may rely on it for %s, until %s",
		ErrStale, s.proven.UTC().Format(time.RFC3339), age.Round(time.Second), c, budget, s.proven.Add(budget).UTC().Format(time.RFC3339))
}

func budget(b *apiv1.StalenessBudgets, c policy.Class) time.Duration {
	seconds, otherwise := uint32(0), time.Duration(0)
	switch c {
	case policy.Read:
		seconds, otherwise = b.GetReadSeconds(), DefaultReadBudget
	case policy.Write:
		seconds, otherwise = b.GetWriteSeconds(), DefaultWriteBudget
	case policy.Exec:
		seconds, otherwise = b.GetExecSeconds(), DefaultExecBudget
	}
	if seconds == 0 {
		return otherwise
	}
	return time.Duration(seconds) * time.Second
}
