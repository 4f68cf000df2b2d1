package serviceaccount

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/sallyport-mesh/sallyport/deploy/manifest"
	"github.com/sallyport-mesh/sallyport/pkg/policy"
)

// ErrNoCeiling says that the cluster's owner has not applied the manifest, or
// took it away.
var ErrNoCeiling = errors.New("the cluster has no ClusterRole " + manifest.CeilingRole)

// readCeiling takes the ceiling from the cluster.
func (m *Minter) readCeiling(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	role, err := m.client.RbacV1().ClusterRoles().Get(ctx, manifest.CeilingRole, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return ErrNoCeiling
	}
	if err != nil {
		return fmt.Errorf("reading the ceiling: %w", err)
	}
	m.ceiling.Store(&role.Rules)
	return nil
}

// Ceiling is the rules above which nobody gets; nil until it has been read.
func (m *Minter) Ceiling() []rbacv1.PolicyRule {
	if c := m.ceiling.Load(); c != nil {
		return *c
	}
	return nil
}

// planFor is the plan of a policy, made once for each.
func (m *Minter) planFor(pol *policy.Policy) (*plan, error) {
	ceiling := m.ceiling.Load()
	if ceiling == nil {
		return nil, ErrNoCeiling
	}
	m.planMu.Lock()
	defer m.planMu.Unlock()
	if m.plan == nil || m.plan.policy != pol || m.plan.ceiling != ceiling {
		m.plan = newPlan(pol, ceiling)
		for role, above := range m.plan.above {
			m.cfg.Log.Warn("a granted role reaches above the ceiling of this cluster", "role", role, "rules left out", len(above))
		}
	}
	return m.plan, nil
}

// ensureRole makes a ClusterRole, or puts it right: its name says what its rules
// must be.
func (m *Minter) ensureRole(ctx context.Context, name string, rules []rbacv1.PolicyRule) error {
	m.rolesMu.Lock()
	defer m.rolesMu.Unlock()
	if m.roles[name] {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	want := &rbacv1.ClusterRole{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{labelManaged: managedBy}},
		Rules:      rules,
	}
	roles := m.client.RbacV1().ClusterRoles()
	_, err := roles.Create(ctx, want, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		var have *rbacv1.ClusterRole
		if have, err = roles.Get(ctx, name, metav1.GetOptions{}); err == nil && !roleAsMade(have, rules) {
			m.cfg.Log.Warn("role is not as it was made: putting it right", "role", name)
			want.ResourceVersion = have.ResourceVersion
			_, err = roles.Update(ctx, want, metav1.UpdateOptions{})
		}
	}
	if err != nil {
		return fmt.Errorf("making role %s: %w", name, err)
	}
	m.roles[name] = true
	return nil
}

func roleAsMade(have *rbacv1.ClusterRole, rules []rbacv1.PolicyRule) bool {
	return have.AggregationRule == nil && have.Labels[labelManaged] == managedBy && reflect.DeepEqual(have.Rules, rules)
}

// forgetRole makes the next use of a role look at it again.
func (m *Minter) forgetRole(name string) {
	m.rolesMu.Lock()
	defer m.rolesMu.Unlock()
	delete(m.roles, name)
}

// collectRoles deletes roles that no policy in force gives and no binding of any
// replica holds any more.
func (m *Minter) collectRoles(ctx context.Context, plan *plan) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	ours := metav1.ListOptions{LabelSelector: labelManaged + "=" + managedBy}
	roles, err := m.client.RbacV1().ClusterRoles().List(ctx, ours)
	if err != nil {
		return fmt.Errorf("listing roles: %w", err)
	}
	var unused []string
	for _, r := range roles.Items {
		if strings.HasPrefix(r.Name, rolePrefix) && plan.rules[r.Name] == nil {
			unused = append(unused, r.Name)
		}
	}
	if len(unused) == 0 {
		return nil
	}
	bound := map[string]bool{}
	inCluster, err := m.client.RbacV1().ClusterRoleBindings().List(ctx, ours)
	if err != nil {
		return fmt.Errorf("listing bindings: %w", err)
	}
	for _, b := range inCluster.Items {
		bound[b.RoleRef.Name] = true
	}
	inNamespaces, err := m.client.RbacV1().RoleBindings("").List(ctx, ours)
	if err != nil {
		return fmt.Errorf("listing bindings: %w", err)
	}
	for _, b := range inNamespaces.Items {
		bound[b.RoleRef.Name] = true
	}
	var errs []error
	for _, name := range unused {
		if bound[name] {
			continue
		}
		m.forgetRole(name)
		if err := m.client.RbacV1().ClusterRoles().Delete(ctx, name, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
			errs = append(errs, fmt.Errorf("deleting role %s: %w", name, err))
		}
	}
	return errors.Join(errs...)
}
