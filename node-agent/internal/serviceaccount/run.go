package serviceaccount

import (
	"context"
	"errors"
	"sync"
	"time"
)

// Run sweeps what a crash left behind, then lends: it renews tokens ahead of
// time, removes what is idle or has expired, and repairs what others change,
// until ctx ends or the ledger cannot be written. It is called once. What exists
// then stays, on record, for the next start.
func (m *Minter) Run(ctx context.Context) error {
	defer func() { _ = m.ledger.close() }() // every line in it was synced when it was written
	if !m.prepareAtLast(ctx) {
		return nil
	}
	close(m.ready)
	ctx, cancel := context.WithCancel(ctx)
	var all sync.WaitGroup
	defer all.Wait()
	defer cancel()
	m.watch(ctx, &all)
	all.Go(func() { m.repairAll(ctx) })
	all.Go(func() { m.attend(ctx) })
	tick := time.NewTicker(m.cfg.Tick)
	defer tick.Stop()
	for {
		if err := m.tick(ctx); err != nil && ctx.Err() == nil {
			m.cfg.Log.Warn("looking after accounts failed; trying again", "error", err)
		}
		select {
		case <-tick.C:
		case err := <-m.failed:
			return err
		case <-ctx.Done():
			return nil
		}
	}
}

// prepareAtLast prepares, however long the apiserver is away. It is false when
// ctx ended before that.
func (m *Minter) prepareAtLast(ctx context.Context) bool {
	for wait := 100 * time.Millisecond; ; wait = min(2*wait, 15*time.Second) {
		err := m.prepare(ctx)
		if err == nil || ctx.Err() != nil {
			return err == nil
		}
		m.cfg.Log.Warn("the cluster is not ready for accounts; trying again", "error", err, "in", wait)
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return false
		}
	}
}

// tick looks at every account once. Where nothing is due it costs the cluster
// nothing.
func (m *Minter) tick(ctx context.Context) error {
	var errs []error
	m.accounts.Range(func(_, v any) bool {
		errs = append(errs, m.attendTo(ctx, v.(*account)))
		return ctx.Err() == nil
	})
	return errors.Join(errs...)
}

func (m *Minter) attendTo(ctx context.Context, a *account) error {
	if err := a.acquire(ctx); err != nil {
		return err
	}
	defer a.release()
	if a.record.empty() {
		return nil
	}
	unused := func() time.Duration { return time.Since(time.Unix(0, a.used.Load())) }
	l := a.lent.Load()
	switch {
	case unused() > m.cfg.Idle:
		a.lent.Store(nil)
		if unused() <= m.cfg.Idle { // a request came in between; see Token
			return nil
		}
		m.cfg.Log.Info("account is idle", "user", a.user, "account", a.record.Account)
		return m.remove(ctx, a)
	case l != nil && unused() > tokenSeconds*time.Second:
		a.lent.Store(nil) // the next request asks for a token; until then none is needed
	}
	return m.lookAfterLocked(ctx, a)
}

// attend keeps this replica's lease, and looks after those that are gone.
func (m *Minter) attend(ctx context.Context) {
	w := newLeases(m.client, m.cfg.AgentID)
	every := m.sweepEvery()
	t := time.NewTicker(every)
	defer t.Stop()
	for {
		err := w.renew(ctx)
		if leads, e := w.lead(ctx, 3*every); e != nil {
			err = errors.Join(err, e)
		} else if leads {
			err = errors.Join(err, m.sweepGone(ctx, w))
		}
		if err != nil && ctx.Err() == nil {
			m.cfg.Log.Warn("looking after replicas failed; trying again", "error", err)
		}
		select {
		case <-t.C:
		case <-ctx.Done():
			return
		}
	}
}
