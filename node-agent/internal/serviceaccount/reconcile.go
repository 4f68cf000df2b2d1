package serviceaccount

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/sallyport-mesh/sallyport/deploy/manifest"
	"github.com/sallyport-mesh/sallyport/pkg/policy"
)

// reconcile makes what exists for a person what the policy says: less first,
// then more. With a subject it makes an account where there is none; without,
// only what exists is looked after. It tells whether it made a binding, and when
// the first entitlement ends. The caller holds the lock.
func (m *Minter) reconcile(ctx context.Context, acc *account, pol *policy.Policy, s *policy.Subject) (made bool, ends time.Time, err error) {
	if pol == nil {
		return false, ends, ErrNoPolicy
	}
	plan, err := m.planFor(pol)
	if err != nil {
		return false, ends, err
	}
	want, ends := plan.scopes(acc.user)
	if len(want) == 0 {
		if err := m.remove(ctx, acc); err != nil {
			return false, ends, err
		}
		return false, ends, ErrNotEntitled
	}
	if s == nil && acc.record.Account == "" && len(acc.record.Bindings) == 0 {
		return false, ends, nil
	}
	changed := false
	defer func() { err = m.note(acc, changed, err) }()

	extra := slices.DeleteFunc(slices.Clone(acc.record.Bindings), func(b boundTo) bool { return want[b.scope] })
	if acc.record.Account == "" { // what is left of one that went away
		extra = slices.Clone(acc.record.Bindings)
	}
	if len(extra) > 0 {
		acc.lent.Store(nil) // what it was lent under is no more
		changed = true
		if err := m.unbind(ctx, acc, extra); err != nil {
			return false, ends, err
		}
	}
	if s == nil && acc.record.Account == "" {
		return false, ends, nil
	}
	if acc.record.Account == "" {
		changed = true
		if err := m.createAccount(ctx, acc, *s); err != nil {
			return false, ends, err
		}
	}
	for _, b := range acc.record.Bindings {
		delete(want, b.scope)
	}
	was := acc.missing
	if s == nil { // nobody is waiting for a namespace that is not there
		maps.DeleteFunc(want, func(s scope, _ bool) bool { return was[s.Namespace] })
	} else {
		acc.missing = nil
	}
	if len(want) > 0 {
		made, err = m.bind(ctx, acc, plan, want, was)
		changed = changed || made
	}
	return made, ends, err
}

// note puts what is there now on record, after a failure too. A record that
// cannot be written ends the Minter: it would make what it could not find again.
func (m *Minter) note(acc *account, changed bool, err error) error {
	if !changed {
		return err
	}
	return errors.Join(err, m.write(acc.record))
}

func (m *Minter) write(r record) error {
	err := m.ledger.put(r)
	if err != nil {
		select {
		case m.failed <- err:
		default:
		}
	}
	return err
}

// remove takes everything of a person's away: bindings, then the account.
func (m *Minter) remove(ctx context.Context, acc *account) (err error) {
	acc.lent.Store(nil)
	acc.missing = nil
	if acc.record.empty() {
		return nil
	}
	defer func() { err = m.note(acc, true, err) }()
	err = m.unbind(ctx, acc, slices.Clone(acc.record.Bindings))
	if acc.record.Account == "" {
		return err
	}
	// Also when a binding stayed: without the account it gives nobody anything,
	// and it stays on record until it is gone.
	if e := m.deleteAccount(ctx, acc.record.Account); e != nil {
		return errors.Join(err, e)
	}
	m.cfg.Log.Info("account removed", "user", acc.user, "account", acc.record.Account)
	acc.record.Account, acc.record.UID = "", ""
	return err
}

func (m *Minter) deleteAccount(ctx context.Context, name string) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	err := m.client.CoreV1().ServiceAccounts(manifest.UsersNamespace).Delete(ctx, name, metav1.DeleteOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("deleting account %s: %w", name, err)
	}
	return nil
}

// createAccount makes the account. Where one stands that is not on record,
// somebody else made it, or we did and never heard: it goes, and with it the
// name, whose tokens the apiserver may honour for some seconds more.
func (m *Minter) createAccount(ctx context.Context, acc *account, s policy.Subject) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	no := false
	for attempt := range 5 {
		sa := &corev1.ServiceAccount{
			ObjectMeta:                   m.meta(m.accountName(s, attempt), manifest.UsersNamespace, s.UserID),
			AutomountServiceAccountToken: &no,
		}
		sa.Annotations = map[string]string{noteName: s.Name}
		got, err := m.client.CoreV1().ServiceAccounts(manifest.UsersNamespace).Create(ctx, sa, metav1.CreateOptions{})
		if err == nil {
			acc.record.Account, acc.record.UID = got.Name, got.UID
			m.cfg.Log.Info("account made", "user", s.UserID, "account", got.Name)
			return nil
		}
		if !apierrors.IsAlreadyExists(err) {
			return fmt.Errorf("making account %s: %w", sa.Name, err)
		}
		m.cfg.Log.Warn("account was there already and is not ours: deleting it", "account", sa.Name)
		if err := m.deleteAccount(ctx, sa.Name); err != nil {
			return err
		}
	}
	return fmt.Errorf("making account for %s: somebody else keeps taking its name", s.UserID)
}

// bind makes the bindings that are wanted, in parallel. A namespace that does
// not exist is not made: its binding is left out until somebody asks again. was
// are those that were missing before, which has been said already.
func (m *Minter) bind(ctx context.Context, acc *account, plan *plan, want map[scope]bool, was map[string]bool) (made bool, err error) {
	for s := range want {
		if err := m.ensureRole(ctx, s.Role, plan.rules[s.Role]); err != nil {
			return false, err
		}
	}
	var (
		mu   sync.Mutex
		errs []error
	)
	inParallel(want, func(s scope) {
		uid, err := m.createBinding(ctx, acc.record.Account, acc.user, s)
		mu.Lock()
		defer mu.Unlock()
		switch {
		case err == nil:
			made = true
			acc.record.Bindings = append(acc.record.Bindings, boundTo{s, bindingName(acc.record.Account, s), uid})
		case noNamespace(err):
			missing := maps.Clone(acc.missing) // the warm path reads the old one
			if missing == nil {
				missing = map[string]bool{}
			}
			missing[s.Namespace] = true
			acc.missing = missing
			if !was[s.Namespace] {
				m.cfg.Log.Warn("namespace of a grant does not exist", "user", acc.user, "namespace", s.Namespace)
			}
		default:
			errs = append(errs, err)
		}
	})
	return made, errors.Join(errs...)
}

func noNamespace(err error) bool {
	if apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
		return true
	}
	var status apierrors.APIStatus
	return apierrors.IsNotFound(err) && errors.As(err, &status) &&
		status.Status().Details != nil && status.Status().Details.Kind == "namespaces"
}

// unbind deletes bindings in parallel and takes off the record what is gone.
func (m *Minter) unbind(ctx context.Context, acc *account, bindings []boundTo) error {
	var (
		mu   sync.Mutex
		errs []error
	)
	todo := map[boundTo]bool{}
	for _, b := range bindings {
		todo[b] = true
	}
	inParallel(todo, func(b boundTo) {
		err := m.deleteBinding(ctx, b.Namespace, b.Name)
		mu.Lock()
		defer mu.Unlock()
		if err != nil {
			errs = append(errs, err)
			return
		}
		acc.record.Bindings = slices.DeleteFunc(acc.record.Bindings, func(x boundTo) bool { return x == b })
	})
	return errors.Join(errs...)
}

func (m *Minter) deleteBinding(ctx context.Context, namespace, name string) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	var err error
	if namespace == "" {
		err = m.client.RbacV1().ClusterRoleBindings().Delete(ctx, name, metav1.DeleteOptions{})
	} else {
		err = m.client.RbacV1().RoleBindings(namespace).Delete(ctx, name, metav1.DeleteOptions{})
	}
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("deleting binding %s: %w", describe(namespace, name), err)
	}
	return nil
}

// createBinding makes one binding and returns its UID. One that is there already
// is not on record, so it is not ours, and is replaced.
func (m *Minter) createBinding(ctx context.Context, account, user string, s scope) (types.UID, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	name := bindingName(account, s)
	for attempt := 0; ; attempt++ {
		uid, err := m.postBinding(ctx, account, user, s)
		switch {
		case err == nil:
			return uid, nil
		case attempt == 2 || !apierrors.IsAlreadyExists(err):
			return "", fmt.Errorf("making binding %s: %w", describe(s.Namespace, name), err)
		}
		m.cfg.Log.Warn("binding was there already and is not ours: deleting it", "binding", name, "namespace", s.Namespace)
		if err := m.deleteBinding(ctx, s.Namespace, name); err != nil {
			return "", err
		}
	}
}

func (m *Minter) postBinding(ctx context.Context, account, user string, s scope) (types.UID, error) {
	meta := m.meta(bindingName(account, s), s.Namespace, user)
	if s.Namespace == "" {
		got, err := m.client.RbacV1().ClusterRoleBindings().Create(ctx,
			&rbacv1.ClusterRoleBinding{ObjectMeta: meta, Subjects: subjects(account), RoleRef: roleRef(s.Role)}, metav1.CreateOptions{})
		if err != nil {
			return "", err
		}
		return got.UID, nil
	}
	got, err := m.client.RbacV1().RoleBindings(s.Namespace).Create(ctx,
		&rbacv1.RoleBinding{ObjectMeta: meta, Subjects: subjects(account), RoleRef: roleRef(s.Role)}, metav1.CreateOptions{})
	if err != nil {
		return "", err
	}
	return got.UID, nil
}

func describe(namespace, name string) string {
	if namespace == "" {
		return name
	}
	return namespace + "/" + name
}

// inParallel calls f for every key, a bounded number at a time.
func inParallel[K comparable](keys map[K]bool, f func(K)) {
	slots := make(chan struct{}, parallel)
	var wg sync.WaitGroup
	for k := range keys {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			f(k)
		})
	}
	wg.Wait()
}
