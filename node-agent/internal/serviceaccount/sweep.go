package serviceaccount

import (
	"context"
	"errors"
	"fmt"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/sallyport-mesh/sallyport/deploy/manifest"
)

// prepare is what has to be so before anybody is lent anything: the ceiling is
// known, and what exists for this replica is what its ledger says. Nobody else
// touches the records until it is done.
func (m *Minter) prepare(ctx context.Context) error {
	if err := m.readCeiling(ctx); err != nil {
		return err
	}
	found, err := m.list(ctx, labelAgent+"="+m.cfg.AgentID)
	if err != nil {
		return err
	}
	known := map[object]bool{}
	m.accounts.Range(func(_, v any) bool {
		a := v.(*account)
		for _, o := range a.objects() {
			known[o] = true
		}
		return true
	})
	for o, seen := range found {
		if known[o] && seen.right {
			continue
		}
		delete(found, o)
		if !known[o] {
			m.cfg.Log.Warn("sweeping an object that is not on record", "kind", o.kind, "namespace", o.namespace, "name", o.name)
		}
		if err := m.deleteObject(ctx, o); err != nil {
			return err
		}
	}
	m.accounts.Range(func(_, v any) bool {
		a := v.(*account)
		err = m.forgetLost(a, found)
		return err == nil
	})
	return err
}

// forgetLost takes off the record what is not in the cluster any more.
func (m *Minter) forgetLost(a *account, found map[object]sight) error {
	lost := false
	for _, o := range a.objects() {
		if _, ok := found[o]; !ok {
			lost = a.drop(o) || lost
		}
	}
	if !lost {
		return nil
	}
	return m.write(a.record)
}

// object is one thing of ours in the cluster.
type object struct {
	kind, namespace, name string
	uid                   types.UID
}

const (
	kindAccount = "ServiceAccount"
	kindCluster = "ClusterRoleBinding"
	kindBinding = "RoleBinding"
)

// objects are what is on record.
func (a *account) objects() []object {
	var out []object
	for _, b := range a.record.Bindings {
		out = append(out, object{bindingKind(b.Namespace), b.Namespace, b.Name, b.UID})
	}
	if a.record.Account != "" {
		out = append(out, object{kindAccount, manifest.UsersNamespace, a.record.Account, a.record.UID})
	}
	return out
}

func bindingKind(namespace string) string {
	if namespace == "" {
		return kindCluster
	}
	return kindBinding
}

// drop takes an object off the record, if it is on it.
func (a *account) drop(o object) bool {
	if o.kind == kindAccount {
		if a.record.Account != o.name || a.record.UID != o.uid {
			return false
		}
		a.record.Account, a.record.UID = "", ""
		return true
	}
	for i, b := range a.record.Bindings {
		if b.Name == o.name && b.Namespace == o.namespace && b.UID == o.uid {
			a.record.Bindings = append(a.record.Bindings[:i:i], a.record.Bindings[i+1:]...)
			return true
		}
	}
	return false
}

// sight is what the cluster says about an object of ours.
type sight struct {
	agent string // whose it is, by its label
	// right is false for a binding that does not bind exactly one account of ours
	// to one role of ours.
	right bool
}

// list finds accounts and bindings by label.
func (m *Minter) list(ctx context.Context, selector string) (map[object]sight, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	found := map[object]sight{}
	opts := metav1.ListOptions{LabelSelector: selector}
	accounts, err := m.client.CoreV1().ServiceAccounts(manifest.UsersNamespace).List(ctx, opts)
	if err != nil {
		return nil, fmt.Errorf("listing accounts: %w", err)
	}
	for _, x := range accounts.Items {
		found[object{kindAccount, x.Namespace, x.Name, x.UID}] = sight{x.Labels[labelAgent], true}
	}
	inCluster, err := m.client.RbacV1().ClusterRoleBindings().List(ctx, opts)
	if err != nil {
		return nil, fmt.Errorf("listing bindings: %w", err)
	}
	for _, x := range inCluster.Items {
		found[object{kindCluster, "", x.Name, x.UID}] = sight{x.Labels[labelAgent], wellMade(x.Name, "", x.Subjects, x.RoleRef)}
	}
	inNamespaces, err := m.client.RbacV1().RoleBindings("").List(ctx, opts)
	if err != nil {
		return nil, fmt.Errorf("listing bindings: %w", err)
	}
	for _, x := range inNamespaces.Items {
		found[object{kindBinding, x.Namespace, x.Name, x.UID}] = sight{x.Labels[labelAgent], wellMade(x.Name, x.Namespace, x.Subjects, x.RoleRef)}
	}
	return found, nil
}

// deleteObject deletes exactly this object: not one that took its name since.
func (m *Minter) deleteObject(ctx context.Context, o object) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	opts := metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &o.uid}}
	var err error
	switch o.kind {
	case kindAccount:
		err = m.client.CoreV1().ServiceAccounts(o.namespace).Delete(ctx, o.name, opts)
	case kindCluster:
		err = m.client.RbacV1().ClusterRoleBindings().Delete(ctx, o.name, opts)
	case kindBinding:
		err = m.client.RbacV1().RoleBindings(o.namespace).Delete(ctx, o.name, opts)
	}
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		return fmt.Errorf("deleting %s %s: %w", o.kind, describe(o.namespace, o.name), err)
	}
	return nil
}

// sweepGone removes what replicas left behind that have been silent for longer
// than Gone. Bindings go before accounts.
func (m *Minter) sweepGone(ctx context.Context, w *leases) error {
	agents, err := w.observe(ctx)
	if err != nil {
		return err
	}
	found, err := m.list(ctx, labelAgent)
	if err != nil {
		return err
	}
	byAgent := map[string][]object{}
	for o, seen := range found {
		byAgent[seen.agent] = append(byAgent[seen.agent], o)
	}
	var errs []error
	for agent, objects := range byAgent {
		if agent == m.cfg.AgentID || !w.silent(agent, agents[agent], m.cfg.Gone) {
			continue
		}
		m.cfg.Log.Info("sweeping what a replica left behind", "agent", agent, "objects", len(objects))
		for _, accounts := range []bool{false, true} {
			for _, o := range objects {
				if (o.kind == kindAccount) == accounts {
					errs = append(errs, m.deleteObject(ctx, o))
				}
			}
		}
		errs = append(errs, w.forget(ctx, agent))
	}
	return errors.Join(errs...)
}

// sweepEvery is how often one replica looks after all of them.
func (m *Minter) sweepEvery() time.Duration { return max(m.cfg.Gone/6, time.Second/10) }
