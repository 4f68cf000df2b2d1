package serviceaccount

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/sallyport-mesh/sallyport/deploy/manifest"
)

const (
	leasePrefix = "sallyport-agent-"
	sweepLease  = "sallyport-sweep"
)

// leases are how replicas know of one another: each renews one of its own, and
// who holds sallyport-sweep sweeps. Silence is measured by how long we ourselves
// have seen a lease unchanged, so nobody's clock is believed.
type leases struct {
	client  kubernetes.Interface
	agentID string
	seen    map[string]sighting
	now     func() time.Time
}

type sighting struct {
	value string
	since time.Time
}

func newLeases(client kubernetes.Interface, agentID string) *leases {
	return &leases{client, agentID, map[string]sighting{}, time.Now}
}

// silent reports whether a lease had this value for that long.
func (w *leases) silent(name, value string, long time.Duration) bool {
	s, ok := w.seen[name]
	if !ok || s.value != value {
		s = sighting{value, w.now()}
		w.seen[name] = s
	}
	return w.now().Sub(s.since) > long
}

// renew says that this replica is there.
func (w *leases) renew(ctx context.Context) error {
	return w.take(ctx, leasePrefix+w.agentID, 0)
}

// lead tries to become, or stay, the replica that sweeps.
func (w *leases) lead(ctx context.Context, patience time.Duration) (bool, error) {
	err := w.take(ctx, sweepLease, patience)
	if errors.Is(err, errHeld) || apierrors.IsConflict(err) || apierrors.IsAlreadyExists(err) {
		return false, nil
	}
	return err == nil, err
}

var errHeld = errors.New("another replica holds the lease")

// take takes or renews a lease. One that somebody else holds is taken only after
// it was silent for longer than patience.
func (w *leases) take(ctx context.Context, name string, patience time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	api := w.client.CoordinationV1().Leases(manifest.SystemNamespace)
	now := metav1.NewMicroTime(w.now())
	lease, err := api.Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		_, err = api.Create(ctx, &coordinationv1.Lease{
			ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{labelManaged: managedBy}},
			Spec:       coordinationv1.LeaseSpec{HolderIdentity: &w.agentID, RenewTime: &now},
		}, metav1.CreateOptions{})
		return err
	}
	if err != nil {
		return fmt.Errorf("reading lease %s: %w", name, err)
	}
	if h := lease.Spec.HolderIdentity; h != nil && *h != w.agentID && !w.silent(name, lease.ResourceVersion, patience) {
		return errHeld
	}
	lease.Spec.HolderIdentity, lease.Spec.RenewTime = &w.agentID, &now
	_, err = api.Update(ctx, lease, metav1.UpdateOptions{})
	return err
}

// observe returns what every replica's lease looks like now, by agent.
func (w *leases) observe(ctx context.Context) (map[string]string, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	list, err := w.client.CoordinationV1().Leases(manifest.SystemNamespace).List(ctx,
		metav1.ListOptions{LabelSelector: labelManaged + "=" + managedBy})
	if err != nil {
		return nil, fmt.Errorf("listing leases: %w", err)
	}
	agents := map[string]string{}
	for _, l := range list.Items {
		if agent, ok := strings.CutPrefix(l.Name, leasePrefix); ok {
			agents[agent] = l.ResourceVersion
		}
	}
	return agents, nil
}

// forget deletes the lease of a replica that is gone for good.
func (w *leases) forget(ctx context.Context, agent string) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	delete(w.seen, agent)
	err := w.client.CoordinationV1().Leases(manifest.SystemNamespace).Delete(ctx, leasePrefix+agent, metav1.DeleteOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("deleting lease of %s: %w", agent, err)
	}
	return nil
}
