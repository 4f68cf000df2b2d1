package tailnet

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"tailscale.com/tailcfg"
	"tailscale.com/types/key"

	"github.com/sallyport-mesh/sallyport/coordinator/internal/store"
)

// authKey is an unspent auth key in the store, under the hash of its secret.
type authKey struct {
	Member  string
	Expires time.Time
}

// authKeyMark begins every auth key, so that one in a log or a repository is
// recognised for what it is.
const authKeyMark = "spkey-"

// NewAuthKey makes a key that enrols one machine for the member, once, until
// ttl has passed. Only its hash is kept.
func (s *Server) NewAuthKey(ctx context.Context, memberID string, ttl time.Duration) (string, error) {
	if memberID == "" || ttl <= 0 {
		return "", errors.New("making auth key: no member or no time to use it")
	}
	var secret [32]byte
	rand.Read(secret[:])
	text := authKeyMark + hex.EncodeToString(secret[:])
	now := s.now()
	value, err := json.Marshal(authKey{Member: memberID, Expires: now.Add(ttl).UTC()})
	if err != nil {
		return "", fmt.Errorf("making auth key: %w", err)
	}
	_, err = s.cfg.Store.Update(ctx, func(tx store.Txn) error {
		if err := deleteAuthKeys(tx, func(k authKey) bool { return !now.Before(k.Expires) }); err != nil {
			return err
		}
		tx.Put(authKeyName(text), value)
		return nil
	})
	if err != nil {
		return "", fmt.Errorf("storing auth key: %w", err)
	}
	return text, nil
}

func authKeyName(text string) string {
	sum := sha256.Sum256([]byte(text))
	return authPrefix + hex.EncodeToString(sum[:])
}

// errAuthKey says nothing about which of the three it is.
var errAuthKey = errors.New("the auth key is unknown, expired or used already: ask for a new one")

func readAuthKey(r store.Reader, text string, now time.Time) (authKey, error) {
	it, err := r.Get(authKeyName(text))
	if err != nil {
		return authKey{}, err
	}
	if it == nil {
		return authKey{}, errAuthKey
	}
	var k authKey
	if err := json.Unmarshal(it.Value, &k); err != nil {
		return authKey{}, fmt.Errorf("decoding auth key: %w", err)
	}
	if !now.Before(k.Expires) {
		return authKey{}, errAuthKey
	}
	return k, nil
}

func deleteAuthKeys(tx store.Txn, match func(authKey) bool) error {
	var names []string
	err := tx.List(authPrefix, func(it store.Item) error {
		var k authKey
		if err := json.Unmarshal(it.Value, &k); err != nil {
			return fmt.Errorf("decoding %s: %w", it.Key, err)
		}
		if match(k) {
			names = append(names, it.Key)
		}
		return nil
	})
	for _, name := range names {
		tx.Delete(name)
	}
	return err
}

// enrol spends an auth key on a machine: in one transaction the key goes, with
// any other of the member's, and the member's record names the machine. What
// the machine or the member had before is replaced; the member's address stays.
// s.enrolling is held.
func (s *Server) enrol(ctx context.Context, text string, machine key.MachinePublic, nk key.NodePublic, v tailcfg.CapabilityVersion) (record, error) {
	var rec record
	now := s.now()
	_, err := s.cfg.Store.Update(ctx, func(tx store.Txn) error {
		k, err := readAuthKey(tx, text, now)
		if err != nil {
			return err
		}
		if err := deleteAuthKeys(tx, func(o authKey) bool { return o.Member == k.Member }); err != nil {
			return err
		}
		old, err := readRecord(tx, k.Member)
		if err != nil {
			return err
		}
		it, err := tx.Get(machinePrefix + machine.String())
		if err != nil {
			return err
		}
		if it != nil && string(it.Value) != k.Member {
			if err := deleteRecord(tx, string(it.Value)); err != nil {
				return err
			}
		}
		rec = record{Member: k.Member, Machine: machine, Node: nk, Version: v, Created: now.UTC().Truncate(time.Second)}
		switch {
		case old != nil && old.Machine == machine:
			rec.ID, rec.IPv4, rec.Created, rec.Disco = old.ID, old.IPv4, old.Created, old.Disco
			return writeRecord(tx, rec)
		case old != nil:
			tx.Delete(machinePrefix + old.Machine.String())
			rec.IPv4 = old.IPv4
		}
		if rec.ID, err = nextID(tx); err != nil {
			return err
		}
		if !rec.IPv4.IsValid() {
			if rec.IPv4, err = allocate(tx, rec.ID); err != nil {
				return err
			}
		}
		return writeRecord(tx, rec)
	})
	return rec, err
}
