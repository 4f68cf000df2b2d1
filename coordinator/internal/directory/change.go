package directory

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/sallyport-mesh/sallyport/coordinator/internal/store"
	apiv1 "github.com/sallyport-mesh/sallyport/pkg/api/sallyport/v1"
)

// UserChange says what UpdateUser changes; nil stays as it is.
type UserChange struct {
	Name, DisplayName *string
}

// UpdateUser changes how a user is called. The id stays, and so does all that
// hangs on it: sessions, grants, accounts in clusters.
func (d *Directory) UpdateUser(ctx context.Context, user string, c UserChange) (*apiv1.User, uint64, error) {
	return change(ctx, d, func(tx store.Txn) (*apiv1.User, error) {
		u, err := users.find(tx, user)
		if err != nil {
			return nil, err
		}
		if c.DisplayName != nil {
			if u.DisplayName, err = cleanText("display name", *c.DisplayName, 128); err != nil {
				return nil, err
			}
		}
		if c.Name != nil {
			if err := users.rename(tx, u.Id, u.Name, *c.Name); err != nil {
				return nil, err
			}
			u.Name = *c.Name
		}
		return u, users.put(tx, u.Id, u)
	})
}

// RenameGroup gives a group another name.
func (d *Directory) RenameGroup(ctx context.Context, group, name string) (*apiv1.Group, uint64, error) {
	return change(ctx, d, func(tx store.Txn) (*apiv1.Group, error) {
		g, err := groups.find(tx, group)
		if err != nil {
			return nil, err
		}
		if err := groups.rename(tx, g.Id, g.Name, name); err != nil {
			return nil, err
		}
		g.Name = name
		return g, groups.put(tx, g.Id, g)
	})
}

// RenameProject gives a project another name.
func (d *Directory) RenameProject(ctx context.Context, project, name string) (*apiv1.Project, uint64, error) {
	return change(ctx, d, func(tx store.Txn) (*apiv1.Project, error) {
		p, err := projects.find(tx, project)
		if err != nil {
			return nil, err
		}
		if err := projects.rename(tx, p.Id, p.Name, name); err != nil {
			return nil, err
		}
		p.Name = name
		return p, projects.put(tx, p.Id, p)
	})
}

// rename moves a name, or says that the new one is taken or cannot be one.
func (t table[T, P]) rename(tx store.Txn, id, from, to string) error {
	if from == to {
		return nil
	}
	if err := t.claim(tx, to, id); err != nil {
		return err
	}
	t.release(tx, from)
	return nil
}

// Bounds of a staleness budget. Below the shortest an agent would refuse at the
// first lost heartbeat or two; an agent's certificate outlives the longest.
const (
	minBudget = time.Minute
	maxBudget = 7 * 24 * time.Hour
)

// SetBudgets changes for how long a cluster's agents decide alone. 0 leaves one
// as it is.
func (d *Directory) SetBudgets(ctx context.Context, cluster string, b *apiv1.StalenessBudgets) (*apiv1.Cluster, uint64, error) {
	return change(ctx, d, func(tx store.Txn) (*apiv1.Cluster, error) {
		c, err := clusters.find(tx, cluster)
		if err != nil {
			return nil, err
		}
		if c.Budgets, err = mergeBudgets(c.Budgets, b); err != nil {
			return nil, err
		}
		return c, clusters.put(tx, c.Id, c)
	})
}

// mergeBudgets takes from b what it says, from old what it does not, and the
// defaults for the rest.
func mergeBudgets(old, b *apiv1.StalenessBudgets) (*apiv1.StalenessBudgets, error) {
	out := DefaultBudgets()
	for _, from := range []*apiv1.StalenessBudgets{old, b} {
		if s := from.GetReadSeconds(); s != 0 {
			out.ReadSeconds = s
		}
		if s := from.GetWriteSeconds(); s != 0 {
			out.WriteSeconds = s
		}
		if s := from.GetExecSeconds(); s != 0 {
			out.ExecSeconds = s
		}
	}
	for _, x := range []struct {
		field   string
		seconds uint32
	}{{"budgets.read", out.ReadSeconds}, {"budgets.write", out.WriteSeconds}, {"budgets.exec", out.ExecSeconds}} {
		if t := time.Duration(x.seconds) * time.Second; t < minBudget || t > maxBudget {
			return nil, &InvalidError{x.field, fmt.Sprintf("%s is not between a minute and a week", t), "give a duration such as 24h"}
		}
	}
	if out.ExecSeconds > out.WriteSeconds || out.WriteSeconds > out.ReadSeconds {
		return nil, &InvalidError{
			"budgets", "what does more harm cannot go on for longer: exec at most as long as writes, writes at most as long as reads",
			"the defaults are 24h for reads, 4h for writes, 15m for exec",
		}
	}
	return out, nil
}

// JoinTokenInfo is what there is to see of a join token: never its secret.
type JoinTokenInfo struct {
	ID                 string
	ClusterID          string
	CreatedAt, Expires time.Time
	UsedAt             time.Time // zero while nobody has
	AgentID            string
}

// joinTokenID names a token by the beginning of its hash, which tells nothing of
// its 256 random bits.
func joinTokenID(hash string) string { return "tok-" + hash[:min(16, len(hash))] }

// JoinTokens lists the join tokens that are kept, of all clusters.
func (d *Directory) JoinTokens(ctx context.Context) ([]JoinTokenInfo, error) {
	var out []JoinTokenInfo
	err := d.store.View(ctx, func(r store.Reader) error {
		return eachJSON(r, joinTokenPrefix, func(key string, t joinToken) error {
			out = append(out, infoOf(key, t))
			return nil
		})
	})
	return out, err
}

func infoOf(key string, t joinToken) JoinTokenInfo {
	return JoinTokenInfo{
		ID: joinTokenID(strings.TrimPrefix(key, joinTokenPrefix)), ClusterID: t.ClusterID,
		CreatedAt: t.CreatedAt, Expires: t.ExpiresAt, UsedAt: t.UsedAt, AgentID: t.AgentID,
	}
}

// DeleteJoinToken takes back a token that nobody has used.
func (d *Directory) DeleteJoinToken(ctx context.Context, id string) (JoinTokenInfo, uint64, error) {
	return change(ctx, d, func(tx store.Txn) (JoinTokenInfo, error) {
		var found string
		var info JoinTokenInfo
		err := eachJSON(tx, joinTokenPrefix, func(key string, t joinToken) error {
			if i := infoOf(key, t); i.ID == id {
				found, info = key, i
			}
			return nil
		})
		switch {
		case err != nil:
			return info, err
		case found == "":
			return info, &NotFoundError{joinTokenKind, id}
		case !info.UsedAt.IsZero():
			return info, &RefusedError{"this join token was used: it works no second time, and its agent stays", "to take the agent away: sallyportctl cluster remove-agent " + info.AgentID}
		}
		tx.Delete(found)
		return info, nil
	})
}
