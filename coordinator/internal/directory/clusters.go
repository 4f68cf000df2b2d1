package directory

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/sallyport-mesh/sallyport/coordinator/internal/store"
	apiv1 "github.com/sallyport-mesh/sallyport/pkg/api/sallyport/v1"
	"github.com/sallyport-mesh/sallyport/pkg/identity"
)

// Ceilings that a cluster's owner can choose, narrowest first.
var Ceilings = []string{"view", "edit", "admin"}

// DefaultBudgets is for how long an agent that hears nothing decides alone: a
// working day for reads, an hour for writes, a quarter of one for exec, which is
// also what Secrets and running streams count as.
func DefaultBudgets() *apiv1.StalenessBudgets {
	return &apiv1.StalenessBudgets{ReadSeconds: 24 * 3600, WriteSeconds: 4 * 3600, ExecSeconds: 15 * 60}
}

// ClusterSpec describes a new cluster.
type ClusterSpec struct {
	Name    string
	Project string // name or id
	Ceiling string // one of Ceilings
	// TokenTTL is how long the join token waits to be used; 0 means an hour.
	TokenTTL time.Duration
	// Budgets; nil means DefaultBudgets.
	Budgets *apiv1.StalenessBudgets
}

// CreateCluster adds a cluster, with the join token for its first agent.
func (d *Directory) CreateCluster(ctx context.Context, spec ClusterSpec) (*apiv1.Cluster, JoinToken, uint64, error) {
	if !slices.Contains(Ceilings, spec.Ceiling) {
		return nil, JoinToken{}, 0, &InvalidError{"ceiling", fmt.Sprintf("no ceiling %q", spec.Ceiling), "one of view, edit, admin"}
	}
	if spec.Budgets == nil {
		spec.Budgets = DefaultBudgets()
	}
	token, err := d.newJoinToken(spec.TokenTTL)
	if err != nil {
		return nil, JoinToken{}, 0, err
	}
	c, rev, err := change(ctx, d, func(tx store.Txn) (*apiv1.Cluster, error) {
		p, err := projects.find(tx, spec.Project)
		if err != nil {
			return nil, err
		}
		c := &apiv1.Cluster{
			Id: identity.NewID(identity.Cluster), Name: spec.Name, ProjectId: p.Id, CreatedAt: at(d.now()),
			Budgets: spec.Budgets, Ceiling: spec.Ceiling,
		}
		if err := clusters.claim(tx, c.Name, c.Id); err != nil {
			return nil, err
		}
		if err := d.putJoinToken(tx, token, c.Id); err != nil {
			return nil, err
		}
		return c, clusters.put(tx, c.Id, c)
	})
	if err != nil {
		return nil, JoinToken{}, 0, err
	}
	return c, token, rev, nil
}

// RetireCluster takes away all access to a cluster, and every join token, but
// keeps its agents: they have to hear of it, clean up, and bring in the rest of
// their logs before DeleteCluster.
func (d *Directory) RetireCluster(ctx context.Context, cluster string) (*apiv1.Cluster, uint64, error) {
	return change(ctx, d, func(tx store.Txn) (*apiv1.Cluster, error) {
		c, err := clusters.find(tx, cluster)
		if err != nil || c.Retired {
			return c, err
		}
		c.Retired = true
		if err := deleteJoinTokens(tx, c.Id); err != nil {
			return nil, err
		}
		return c, clusters.put(tx, c.Id, c)
	})
}

// DeleteCluster removes a cluster, its agents, its join tokens and the grants
// on it.
func (d *Directory) DeleteCluster(ctx context.Context, cluster string) (*apiv1.Cluster, uint64, error) {
	return change(ctx, d, func(tx store.Txn) (*apiv1.Cluster, error) {
		c, err := clusters.find(tx, cluster)
		if err != nil {
			return nil, err
		}
		clusters.delete(tx, c.Id)
		clusters.release(tx, c.Name)
		err = agents.all(tx, func(a *apiv1.Agent) error {
			if a.ClusterId == c.Id {
				agents.delete(tx, a.Id)
				tx.Delete(agentKey(a.KeySha256))
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
		if err := deleteJoinTokens(tx, c.Id); err != nil {
			return nil, err
		}
		return c, deleteGrants(tx, func(g *apiv1.Grant) bool { return g.ClusterId == c.Id })
	})
}
