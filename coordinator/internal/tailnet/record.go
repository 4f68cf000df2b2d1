package tailnet

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"time"

	"tailscale.com/net/tsaddr"
	"tailscale.com/tailcfg"
	"tailscale.com/types/key"

	"github.com/sallyport-mesh/sallyport/coordinator/internal/store"
)

// Where things are in the store.
const (
	nodePrefix    = "tailnet/node/"    // + member id: a record
	machinePrefix = "tailnet/machine/" // + machine key: the member id it is enrolled for
	addrPrefix    = "tailnet/addr/"    // + IPv4 address: the member id it belongs to
	authPrefix    = "tailnet/authkey/" // + SHA-256 of the key: an authKey
	serial        = "tailnet/serial"   // the last node id given out
	noiseKey      = "tailnet/key/noise"
	derpKey       = "tailnet/key/derp"
)

// record is a member's node as it is stored. A member has one at most, and a
// machine key is in one at most.
type record struct {
	Member  string
	ID      tailcfg.NodeID
	Machine key.MachinePublic
	Node    key.NodePublic
	IPv4    netip.Addr
	Created time.Time
	// Disco and Version are what the node last reported. They are kept so that
	// after a restart peers can be introduced before they have called again.
	Disco   key.DiscoPublic           `json:",omitzero"`
	Version tailcfg.CapabilityVersion `json:",omitzero"`
	// LoggedOut says that the node asked to leave: it needs a new auth key.
	LoggedOut bool `json:",omitzero"`
}

// ipv6 is the address that Tailscale's own mapping gives for the IPv4 one.
func (r record) ipv6() netip.Addr { return tsaddr.Tailscale4To6(r.IPv4) }

type serverKeys struct {
	noise key.MachinePrivate
	derp  key.NodePrivate
}

// load reads the nodes, and makes the server's keys where there are none.
func (s *Server) load(ctx context.Context) (serverKeys, error) {
	var keys serverKeys
	_, err := s.cfg.Store.Update(ctx, func(tx store.Txn) error {
		keys = serverKeys{}
		if err := loadKey(tx, noiseKey, &keys.noise, key.NewMachine); err != nil {
			return err
		}
		return loadKey(tx, derpKey, &keys.derp, key.NewNode)
	})
	if err != nil {
		return keys, fmt.Errorf("loading the overlay's keys: %w", err)
	}
	err = s.cfg.Store.View(ctx, func(r store.Reader) error {
		return r.List(nodePrefix, func(it store.Item) error {
			var rec record
			if err := json.Unmarshal(it.Value, &rec); err != nil {
				return fmt.Errorf("decoding %s: %w", it.Key, err)
			}
			s.adopt(rec)
			return nil
		})
	})
	if err != nil {
		return keys, fmt.Errorf("loading overlay nodes: %w", err)
	}
	return keys, nil
}

type textKey[T any] interface {
	*T
	MarshalText() ([]byte, error)
	UnmarshalText([]byte) error
}

func loadKey[T any, P textKey[T]](tx store.Txn, name string, k P, generate func() T) error {
	it, err := tx.Get(name)
	if err != nil {
		return err
	}
	if it != nil {
		if err := k.UnmarshalText(it.Value); err != nil {
			return fmt.Errorf("decoding %s: %w", name, err)
		}
		return nil
	}
	*k = generate()
	text, err := k.MarshalText()
	if err != nil {
		return err
	}
	tx.Put(name, text)
	return nil
}

// adopt makes a record that is in the store the member's node in memory. The
// node of the member, or of the machine, that it replaces ends. s.mu is held,
// but for New.
func (s *Server) adopt(rec record) *node {
	old := s.nodes[rec.Member]
	if old != nil && old.Machine == rec.Machine {
		delete(s.byKey, old.Node)
		old.record = rec
		s.byKey[rec.Node] = old
		if old.poll != nil {
			old.poll.wake() // it may be for the key that was just replaced
		}
		return old
	}
	s.retire(old)
	s.retire(s.byMachine[rec.Machine])
	n := &node{record: rec, home: regionID}
	s.nodes[rec.Member], s.byKey[rec.Node], s.byMachine[rec.Machine] = n, n, n
	return n
}

// retire takes a node out of memory; its stream is told that its key has ended.
// s.mu is held.
func (s *Server) retire(n *node) {
	if n == nil {
		return
	}
	n.gone, n.online = true, false
	delete(s.nodes, n.Member)
	delete(s.byKey, n.Node)
	delete(s.byMachine, n.Machine)
	if n.poll != nil {
		n.poll.wake()
	}
	s.relay.drop([]key.NodePublic{n.Node})
}

// Forget removes what is kept of a member that has been deleted for good: its
// node, its address and its unspent auth keys.
func (s *Server) Forget(ctx context.Context, memberID string) error {
	s.enrolling.Lock()
	defer s.enrolling.Unlock()
	_, err := s.cfg.Store.Update(ctx, func(tx store.Txn) error {
		if err := deleteAuthKeys(tx, func(k authKey) bool { return k.Member == memberID }); err != nil {
			return err
		}
		return deleteRecord(tx, memberID)
	})
	if err != nil {
		return fmt.Errorf("forgetting overlay member: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.retire(s.nodes[memberID])
	if s.plan != nil {
		s.wakeNeighbours(memberID)
	}
	return nil
}

func readRecord(r store.Reader, memberID string) (*record, error) {
	it, err := r.Get(nodePrefix + memberID)
	if err != nil || it == nil {
		return nil, err
	}
	rec := new(record)
	if err := json.Unmarshal(it.Value, rec); err != nil {
		return nil, fmt.Errorf("decoding %s: %w", it.Key, err)
	}
	return rec, nil
}

func writeRecord(tx store.Txn, rec record) error {
	b, err := json.Marshal(rec)
	if err != nil {
		return fmt.Errorf("encoding overlay node: %w", err)
	}
	tx.Put(nodePrefix+rec.Member, b)
	tx.Put(machinePrefix+rec.Machine.String(), []byte(rec.Member))
	tx.Put(addrPrefix+rec.IPv4.String(), []byte(rec.Member))
	return nil
}

func deleteRecord(tx store.Txn, memberID string) error {
	rec, err := readRecord(tx, memberID)
	if err != nil || rec == nil {
		return err
	}
	tx.Delete(nodePrefix + memberID)
	tx.Delete(machinePrefix + rec.Machine.String())
	tx.Delete(addrPrefix + rec.IPv4.String())
	return nil
}

// flush writes the records of nodes that reported something new. Losing that in
// a crash costs nothing but a round through the relay.
func (s *Server) flush(ctx context.Context) {
	s.enrolling.Lock()
	defer s.enrolling.Unlock()
	s.mu.Lock()
	var recs []record
	for id := range s.dirty {
		if n := s.nodes[id]; n != nil {
			recs = append(recs, n.record)
		}
	}
	clear(s.dirty)
	s.mu.Unlock()
	if len(recs) == 0 {
		return
	}
	_, err := s.cfg.Store.Update(ctx, func(tx store.Txn) error {
		for _, rec := range recs {
			if err := writeRecord(tx, rec); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		s.log.Error("writing what overlay nodes reported failed", "nodes", len(recs), "error", err)
	}
}
