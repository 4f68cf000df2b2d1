package directory

import (
	"bytes"
	"context"
	"encoding/hex"

	"github.com/sallyport-mesh/sallyport/coordinator/internal/store"
	apiv1 "github.com/sallyport-mesh/sallyport/pkg/api/sallyport/v1"
)

const agentKeyPrefix = "agentkey/" // + hex SHA-256 of the key → agent id

func agentKey(sum []byte) string { return agentKeyPrefix + hex.EncodeToString(sum) }

func agentByKey(r store.Reader, sum []byte) (*apiv1.Agent, error) {
	it, err := r.Get(agentKey(sum))
	if err != nil || it == nil {
		return nil, err
	}
	return agents.get(r, string(it.Value))
}

// RenewAgent finds the agent that may renew with a key, and notes its version.
// Possession of the key was proved to the caller.
func (d *Directory) RenewAgent(ctx context.Context, id string, keySHA256 [32]byte, version string) (*apiv1.Agent, uint64, error) {
	version, err := cleanText("version", version, 64)
	if err != nil {
		return nil, 0, err
	}
	return change(ctx, d, func(tx store.Txn) (*apiv1.Agent, error) {
		a, err := agents.get(tx, id)
		if err != nil {
			return nil, err
		}
		if !bytes.Equal(a.KeySha256, keySHA256[:]) {
			return nil, &RefusedError{"this agent was enrolled with another key", "restore its state directory, or join again with a new token"}
		}
		if a.Removed {
			return nil, &RefusedError{"this agent was removed", "join again with a new token and an empty state directory"}
		}
		if version == "" || a.Version == version {
			return a, nil
		}
		a.Version = version
		return a, agents.put(tx, a.Id, a)
	})
}

// RemoveAgent takes a replica out of service for good. Its record stays, so
// that its key is known as removed and its log keeps its verifier key.
func (d *Directory) RemoveAgent(ctx context.Context, id string) (*apiv1.Agent, uint64, error) {
	return change(ctx, d, func(tx store.Txn) (*apiv1.Agent, error) {
		a, err := agents.get(tx, id)
		if err != nil {
			return nil, err
		}
		a.Removed = true
		return a, agents.put(tx, a.Id, a)
	})
}
