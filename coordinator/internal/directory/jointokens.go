package directory

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/sallyport-mesh/sallyport/coordinator/internal/store"
	apiv1 "github.com/sallyport-mesh/sallyport/pkg/api/sallyport/v1"
	"github.com/sallyport-mesh/sallyport/pkg/identity"
)

const (
	joinTokenPrefix = "jointoken/" // + hex SHA-256 of the token
	joinTokenKind   = "join token"

	defaultJoinTTL = time.Hour
	maxJoinTTL     = 30 * 24 * time.Hour
)

// JoinToken lets one agent into one cluster, once. Only its hash is stored: the
// Secret exists in the answer that holds it and nowhere else.
type JoinToken struct {
	Secret    string
	ExpiresAt time.Time
}

// joinToken is what is stored. A used one stays until some time after it would
// have run out, so that it can be told from one that never was.
type joinToken struct {
	ClusterID string    `json:"cluster_id"`
	CreatedAt time.Time `json:"created_at"`
	ExpiresAt time.Time `json:"expires_at"`
	UsedAt    time.Time `json:"used_at,omitzero"`
	AgentID   string    `json:"agent_id,omitempty"`
}

// CreateJoinToken makes a token for another replica of a cluster, or in place
// of one that ran out unused. A ttl of 0 means an hour.
func (d *Directory) CreateJoinToken(ctx context.Context, cluster string, ttl time.Duration) (JoinToken, uint64, error) {
	token, err := d.newJoinToken(ttl)
	if err != nil {
		return JoinToken{}, 0, err
	}
	return change(ctx, d, func(tx store.Txn) (JoinToken, error) {
		c, err := clusters.find(tx, cluster)
		if err != nil {
			return JoinToken{}, err
		}
		if c.Retired {
			return JoinToken{}, &RefusedError{fmt.Sprintf("cluster %s is being removed", c.Name), "sallyportctl cluster remove " + c.Name + " finishes that"}
		}
		return token, d.putJoinToken(tx, token, c.Id)
	})
}

func (d *Directory) newJoinToken(ttl time.Duration) (JoinToken, error) {
	if ttl == 0 {
		ttl = defaultJoinTTL
	}
	if ttl < 0 || ttl > maxJoinTTL {
		return JoinToken{}, &InvalidError{Field: "token lifetime", Reason: "must be positive and 30 days at most"}
	}
	return JoinToken{Secret: newSecret(string(identity.JoinKind)), ExpiresAt: d.now().Add(ttl)}, nil
}

func (d *Directory) putJoinToken(tx store.Txn, t JoinToken, clusterID string) error {
	return store.PutJSON(tx, joinTokenPrefix+tokenHash(t.Secret), joinToken{ClusterID: clusterID, CreatedAt: d.now(), ExpiresAt: t.ExpiresAt})
}

// useJoinToken checks a token and returns its record, for the caller to mark as
// used in the same transaction.
func (d *Directory) useJoinToken(tx store.Txn, secret string) (key string, t joinToken, err error) {
	key = joinTokenPrefix + tokenHash(secret)
	found, err := store.GetJSON(tx, key, &t)
	switch {
	case err != nil:
		return "", t, err
	case !found:
		return "", t, &TokenError{Kind: joinTokenKind, Problem: TokenUnknown}
	case !t.UsedAt.IsZero():
		return "", t, &TokenError{joinTokenKind, TokenUsed, t.UsedAt}
	case !d.now().Before(t.ExpiresAt):
		return "", t, &TokenError{joinTokenKind, TokenExpired, t.ExpiresAt}
	}
	return key, t, nil
}

func deleteJoinTokens(tx store.Txn, clusterID string) error {
	return eachJSON(tx, joinTokenPrefix, func(key string, t joinToken) error {
		if t.ClusterID == clusterID {
			tx.Delete(key)
		}
		return nil
	})
}

func eachJSON[T any](r store.Reader, prefix string, f func(key string, v T) error) error {
	return r.List(prefix, func(it store.Item) error {
		var v T
		if err := json.Unmarshal(it.Value, &v); err != nil {
			return fmt.Errorf("decoding a record: %w", err)
		}
		return f(it.Key, v)
	})
}

// Join is what an agent presents.
type Join struct {
	Token         string
	KubeSystemUID string
	// KeySHA256 of the key's SubjectPublicKeyInfo; the caller has verified that
	// the agent holds the key.
	KeySHA256      [32]byte
	CheckpointVKey string
	Version        string
}

// RedeemJoinToken turns a token into an agent, once; the agent that did so may
// ask again with the same keys, since its answer may have been lost. The first agent binds the
// cluster to the UID of its kube-system namespace; an agent in another cluster
// is refused then, and the token stays good. A replica that comes with a fresh
// token and the key it has already is the same agent again.
func (d *Directory) RedeemJoinToken(ctx context.Context, j Join) (*apiv1.Agent, uint64, error) {
	version, err := cleanText("version", j.Version, 64)
	if err != nil {
		return nil, 0, err
	}
	switch {
	case len(j.KubeSystemUID) < 8 || len(j.KubeSystemUID) > 64 || !printable(j.KubeSystemUID):
		return nil, 0, &InvalidError{Field: "kube-system UID", Reason: "is not the UID of a namespace"}
	case j.CheckpointVKey == "" || len(j.CheckpointVKey) > 512 || !printable(j.CheckpointVKey):
		return nil, 0, &InvalidError{Field: "checkpoint key", Reason: "is not a verifier key"}
	}
	return change(ctx, d, func(tx store.Txn) (*apiv1.Agent, error) {
		key, token, err := d.useJoinToken(tx, j.Token)
		if e, ok := errors.AsType[*TokenError](err); ok && e.Problem == TokenUsed && d.now().Before(token.ExpiresAt) {
			if a, getErr := agents.get(tx, token.AgentID); getErr == nil && isFrom(tx, a, j) {
				return a, nil
			}
		}
		if err != nil {
			return nil, err
		}
		c, err := clusters.get(tx, token.ClusterID)
		if err != nil {
			return nil, err
		}
		if c.KubeSystemUid == "" {
			c.KubeSystemUid = j.KubeSystemUID
			if err := clusters.put(tx, c.Id, c); err != nil {
				return nil, err
			}
		} else if c.KubeSystemUid != j.KubeSystemUID {
			return nil, &RefusedError{
				fmt.Sprintf("this token is for cluster %q, which is bound to another Kubernetes cluster (the UID of namespace kube-system differs)", c.Name),
				"add this cluster under a name of its own: sallyportctl cluster add NAME",
			}
		}
		a, err := agentByKey(tx, j.KeySHA256[:])
		if err != nil {
			return nil, err
		}
		switch {
		case a == nil:
			a = &apiv1.Agent{Id: identity.NewID(identity.AgentID), ClusterId: c.Id, CreatedAt: at(d.now()), KeySha256: j.KeySHA256[:]}
			tx.Put(agentKey(a.KeySha256), []byte(a.Id))
		case a.Removed:
			return nil, &RefusedError{"this agent was removed", "delete its state directory, so that it makes a new key"}
		case a.ClusterId != c.Id:
			return nil, &RefusedError{"this agent's key belongs to another cluster", "give it a state directory of its own"}
		}
		a.Version, a.CheckpointVkey = version, j.CheckpointVKey
		token.UsedAt, token.AgentID = d.now(), a.Id
		if err := store.PutJSON(tx, key, token); err != nil {
			return nil, err
		}
		return a, agents.put(tx, a.Id, a)
	})
}

// isFrom reports whether an agent is the one that presents j.
func isFrom(tx store.Txn, a *apiv1.Agent, j Join) bool {
	c, err := clusters.get(tx, a.ClusterId)
	return err == nil && !a.Removed && !c.Retired && c.KubeSystemUid == j.KubeSystemUID &&
		bytes.Equal(a.KeySha256, j.KeySHA256[:]) && a.CheckpointVkey == j.CheckpointVKey
}
