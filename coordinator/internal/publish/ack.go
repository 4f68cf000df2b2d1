package publish

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/sallyport-mesh/sallyport/coordinator/internal/store"
)

// ack is what the store keeps of an agent's confirmations, so that the overlay
// is the same after a restart.
type ack struct {
	Revision uint64    `json:"revision"`
	Users    []string  `json:"users"`
	LastSeen time.Time `json:"last_seen"`
}

const ackPrefix = "ack/"

// ackBatch is how many bytes of acks go into one transaction.
const ackBatch = 512 << 10

// saveAcks notes the confirmations that are not in the store. A crash before
// loses nothing for long: agents confirm again when they come back.
func (h *Hub) saveAcks(ctx context.Context) error {
	for {
		values := map[string][]byte{}
		size := 0
		h.mu.Lock()
		for id := range h.dirty {
			if size > ackBatch {
				break
			}
			delete(h.dirty, id)
			values[id] = nil
			if a := h.agents[id]; a != nil {
				data, err := json.Marshal(ack{a.confirmed, slices.Sorted(maps.Keys(a.users)), a.lastSeen})
				if err != nil {
					h.mu.Unlock()
					return err
				}
				values[id], size = data, size+len(data)
			}
		}
		h.mu.Unlock()
		if len(values) == 0 {
			return nil
		}
		_, err := h.cfg.Store.Update(ctx, func(tx store.Txn) error {
			for id, data := range values {
				if data == nil {
					tx.Delete(ackPrefix + id)
					continue
				}
				tx.Put(ackPrefix+id, data)
			}
			return nil
		})
		if err != nil {
			h.mu.Lock()
			for id := range values {
				h.dirty[id] = true
			}
			h.mu.Unlock()
			return fmt.Errorf("noting confirmations: %w", err)
		}
	}
}

func (h *Hub) loadAcks(r store.Reader) error {
	return r.List(ackPrefix, func(it store.Item) error {
		var x ack
		if err := json.Unmarshal(it.Value, &x); err != nil {
			return fmt.Errorf("reading %s: %w", it.Key, err)
		}
		a := h.agentLocked(strings.TrimPrefix(it.Key, ackPrefix))
		a.confirmed, a.lastSeen, a.users = x.Revision, x.LastSeen, map[string]bool{}
		for _, id := range x.Users {
			a.users[id] = true
		}
		return nil
	})
}
