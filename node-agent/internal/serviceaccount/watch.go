package serviceaccount

import (
	"context"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"

	"github.com/sallyport-mesh/sallyport/deploy/manifest"
	"github.com/sallyport-mesh/sallyport/pkg/identity"
)

// repair is something seen in the cluster that may not be as we made it.
type repair struct {
	object
	user    string
	deleted bool
	right   bool
}

// watch looks at what is ours in the cluster until ctx ends, and hands on what
// changes.
func (m *Minter) watch(ctx context.Context, all *sync.WaitGroup) {
	mine := labelAgent + "=" + m.cfg.AgentID
	core, rbac := m.client.CoreV1().RESTClient(), m.client.RbacV1().RESTClient()
	m.inform(ctx, all, core, "serviceaccounts", manifest.UsersNamespace, mine, &corev1.ServiceAccount{}, m.sawObject)
	m.inform(ctx, all, rbac, "clusterrolebindings", "", mine, &rbacv1.ClusterRoleBinding{}, m.sawObject)
	m.inform(ctx, all, rbac, "rolebindings", "", mine, &rbacv1.RoleBinding{}, m.sawObject)
	m.inform(ctx, all, rbac, "clusterroles", "", labelManaged+"="+managedBy, &rbacv1.ClusterRole{}, m.sawRole)
}

func (m *Minter) inform(ctx context.Context, all *sync.WaitGroup, client rest.Interface, resource, namespace, selector string, kind runtime.Object,
	saw func(ctx context.Context, obj any, deleted bool),
) {
	lw := cache.NewFilteredListWatchFromClient(client, resource, namespace,
		func(o *metav1.ListOptions) { o.LabelSelector = selector })
	_, controller := cache.NewInformerWithOptions(cache.InformerOptions{
		ListerWatcher: lw, ObjectType: kind,
		Handler: cache.ResourceEventHandlerFuncs{
			AddFunc:    func(obj any) { saw(ctx, obj, false) },
			UpdateFunc: func(_, obj any) { saw(ctx, obj, false) },
			DeleteFunc: func(obj any) {
				if last, ok := obj.(cache.DeletedFinalStateUnknown); ok {
					obj = last.Obj
				}
				saw(ctx, obj, true)
			},
		},
	})
	all.Go(func() { controller.RunWithContext(ctx) })
}

func (m *Minter) sawObject(ctx context.Context, obj any, deleted bool) {
	r := repair{deleted: deleted, right: true}
	var meta metav1.ObjectMeta
	switch x := obj.(type) {
	case *corev1.ServiceAccount:
		meta, r.kind = x.ObjectMeta, kindAccount
	case *rbacv1.ClusterRoleBinding:
		meta, r.kind = x.ObjectMeta, kindCluster
		r.right = wellMade(x.Name, "", x.Subjects, x.RoleRef)
	case *rbacv1.RoleBinding:
		meta, r.kind = x.ObjectMeta, kindBinding
		r.right = wellMade(x.Name, x.Namespace, x.Subjects, x.RoleRef)
	default:
		return
	}
	r.namespace, r.name, r.uid, r.user = meta.Namespace, meta.Name, meta.UID, meta.Labels[labelUser]
	m.queue(ctx, r)
}

// repairAgain is how long a repair that failed waits.
const repairAgain = 5 * time.Second

func (m *Minter) queue(ctx context.Context, r repair) {
	select {
	case m.repairs <- r:
	case <-ctx.Done():
	}
}

// wellMade reports whether a binding is what its name, a hash, says it is.
func wellMade(name, namespace string, subs []rbacv1.Subject, ref rbacv1.RoleRef) bool {
	return len(subs) == 1 && slices.Equal(subs, subjects(subs[0].Name)) && ref == roleRef(ref.Name) &&
		name == bindingName(subs[0].Name, scope{namespace, ref.Name})
}

// repairAll takes in what watch saw, one after the other.
func (m *Minter) repairAll(ctx context.Context) {
	for {
		select {
		case r := <-m.repairs:
			if err := m.repair(ctx, r); err != nil && ctx.Err() == nil {
				m.cfg.Log.Warn("repairing failed; trying again", "kind", r.kind, "namespace", r.namespace, "name", r.name, "error", err)
				time.AfterFunc(repairAgain, func() { m.queue(ctx, r) })
			}
		case <-ctx.Done():
			return
		}
	}
}

func (m *Minter) repair(ctx context.Context, r repair) error {
	if !identity.IsID(identity.User, r.user) {
		if r.deleted {
			return nil
		}
		return m.deleteObject(ctx, r.object)
	}
	a := m.account(r.user)
	if err := a.acquire(ctx); err != nil {
		return err
	}
	defer a.release()
	known := slices.Contains(a.objects(), r.object)
	switch {
	case !r.deleted && known && r.right, r.deleted && !known:
		return nil
	case !r.deleted:
		m.cfg.Log.Warn("an object is not as we made it: deleting it", "kind", r.kind, "namespace", r.namespace, "name", r.name)
		if err := m.deleteObject(ctx, r.object); err != nil {
			return err
		}
	default:
		m.cfg.Log.Warn("an object of ours was deleted by somebody else", "kind", r.kind, "namespace", r.namespace, "name", r.name)
	}
	if !known {
		return nil
	}
	a.drop(r.object)
	a.lent.Store(nil)
	if err := m.write(a.record); err != nil {
		return err
	}
	return m.lookAfterLocked(ctx, a)
}

// sawRole puts a role of ours right, and takes in a changed ceiling.
func (m *Minter) sawRole(ctx context.Context, obj any, deleted bool) {
	role, ok := obj.(*rbacv1.ClusterRole)
	if !ok {
		return
	}
	if role.Name == manifest.CeilingRole {
		m.sawCeiling(ctx, role, deleted)
		return
	}
	pol := m.cfg.Policy()
	if pol == nil || !strings.HasPrefix(role.Name, rolePrefix) {
		return
	}
	plan, err := m.planFor(pol)
	if err != nil {
		return
	}
	rules, wanted := plan.rules[role.Name]
	if !wanted || !deleted && roleAsMade(role, rules) {
		return
	}
	m.forgetRole(role.Name)
	if err := m.ensureRole(ctx, role.Name, rules); err != nil && ctx.Err() == nil {
		m.cfg.Log.Warn("putting a role right failed; its next use tries again", "role", role.Name, "error", err)
	}
}

func (m *Minter) sawCeiling(ctx context.Context, role *rbacv1.ClusterRole, deleted bool) {
	rules := role.Rules
	if deleted {
		rules = nil // nobody gets anything
	}
	if have := m.Ceiling(); slices.EqualFunc(have, rules, sameRule) {
		return
	}
	m.cfg.Log.Info("the ceiling has changed", "rules", len(rules))
	m.ceiling.Store(&rules)
	if pol := m.cfg.Policy(); pol != nil {
		go func() {
			if err := m.Apply(ctx, pol); err != nil && ctx.Err() == nil {
				m.cfg.Log.Warn("applying the new ceiling failed; trying again", "error", err)
			}
		}()
	}
}
