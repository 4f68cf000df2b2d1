package tailnet

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"net/http"
	"time"

	"tailscale.com/tailcfg"
	"tailscale.com/types/key"

	"github.com/sallyport-mesh/sallyport/coordinator/internal/store"
)

const (
	// startupTime is how long a request waits for the first topology.
	startupTime = 10 * time.Second
	// publishTime is how long the holder of a good auth key waits for its member
	// to appear in the topology: the key is handed out when the member has been
	// created, and the topology follows a moment later.
	publishTime = 5 * time.Second
)

// serveRegister answers a machine that enrols, comes back, rotates its node key
// or leaves. Refusals are sentences in RegisterResponse.Error, which clients
// show to people.
func (s *Server) serveRegister(w http.ResponseWriter, r *http.Request, machine key.MachinePublic) {
	var req tailcfg.RegisterRequest
	if err := readRequest(w, r, &req); err != nil {
		s.answerError(w, err)
		return
	}
	res, err := s.register(r.Context(), machine, &req)
	var refused *requestError
	switch {
	case errors.As(err, &refused) && refused.status == http.StatusForbidden:
		s.log.Info("overlay registration refused", "machine", machine.ShortString(), "reason", refused.text)
		res = &tailcfg.RegisterResponse{Error: refused.text}
	case err != nil:
		s.answerError(w, err)
		return
	}
	reply(w, res)
}

func (s *Server) register(ctx context.Context, machine key.MachinePublic, req *tailcfg.RegisterRequest) (*tailcfg.RegisterResponse, error) {
	forbid := func(text string) (*tailcfg.RegisterResponse, error) {
		return nil, refuse(http.StatusForbidden, "%s", text)
	}
	if err := checkVersion(req.Version); err != nil {
		return forbid(err.Error())
	}
	switch {
	case req.NodeKey.IsZero():
		return forbid("the request names no node key")
	case req.Followup != "":
		return forbid("this overlay has no login page: enrol with an auth key")
	case !req.Expiry.IsZero() && req.Expiry.After(s.now()):
		return forbid("a node cannot choose when its key expires")
	}
	starting, cancel := context.WithTimeout(ctx, startupTime)
	err := s.awaitTopology(starting)
	cancel()
	if err != nil {
		return nil, refuse(http.StatusServiceUnavailable, "the coordinator is starting: try again")
	}
	if !req.Expiry.IsZero() {
		return s.logout(ctx, machine, req.NodeKey)
	}
	text := ""
	if req.Auth != nil {
		text = req.Auth.AuthKey
	}
	if text != "" {
		if err := s.awaitMember(ctx, text); err != nil && !errors.Is(err, errAuthKey) {
			return nil, err
		}
	}

	s.enrolling.Lock()
	defer s.enrolling.Unlock()
	s.mu.RLock()
	known, holder := s.byMachine[machine], s.byKey[req.NodeKey]
	var rec record
	if known != nil {
		rec = known.record
	}
	foreign := holder != nil && holder.Machine != machine
	s.mu.RUnlock()
	if foreign {
		return forbid("this node key belongs to another machine")
	}

	if text != "" {
		fresh, err := s.enrolMember(ctx, text, machine, req)
		switch {
		case err == nil:
			return s.welcome(fresh), nil
		case !errors.Is(err, errAuthKey):
			return nil, err
		case known == nil || rec.LoggedOut:
			return forbid(errAuthKey.Error())
		}
		// The key is spent, but the machine is enrolled: its client repeats a
		// registration whose answer it did not get, or has kept the key.
	}
	if known == nil {
		return forbid("this machine is not enrolled and sent no auth key")
	}
	if rec.LoggedOut {
		return forbid("this machine has left the overlay: enrol it with a new auth key")
	}
	s.mu.RLock()
	standing := s.plan.standing(rec.Member, s.now())
	s.mu.RUnlock()
	switch standing {
	case removed:
		return forbid("this machine is not allowed on the overlay any more")
	case lapsed:
		return forbid("the session has ended: log in again")
	}
	if rec.Node == req.NodeKey && rec.Version == req.Version {
		return s.welcome(rec), nil // comes back as it was: nothing to write
	}
	rec.Node, rec.Version = req.NodeKey, req.Version
	if err := s.commit(ctx, rec); err != nil {
		return nil, err
	}
	return s.welcome(rec), nil
}

// awaitMember waits for the member of an auth key to be in the topology, which
// may be a moment behind.
func (s *Server) awaitMember(ctx context.Context, text string) error {
	var k authKey
	err := s.cfg.Store.View(ctx, func(r store.Reader) (err error) {
		k, err = readAuthKey(r, text, s.now())
		return err
	})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, publishTime)
	defer cancel()
	err = s.await(ctx, func(p *plan) bool { return p.standing(k.Member, s.now()) == good })
	if err != nil {
		return refuse(http.StatusForbidden, "whom this auth key is for is not allowed on the overlay, or the session has ended: log in again")
	}
	return nil
}

// enrolMember spends an auth key and makes the new node known. s.enrolling is
// held.
func (s *Server) enrolMember(ctx context.Context, text string, machine key.MachinePublic, req *tailcfg.RegisterRequest) (record, error) {
	rec, err := s.enrol(ctx, text, machine, req.NodeKey, req.Version)
	if err != nil {
		return record{}, err
	}
	s.apply(rec)
	s.log.Info("overlay node enrolled", "member", rec.Member, "node", rec.ID, "addr", rec.IPv4, "machine", machine.ShortString())
	return rec, nil
}

// commit stores a changed record and makes it known. s.enrolling is held.
func (s *Server) commit(ctx context.Context, rec record) error {
	_, err := s.cfg.Store.Update(ctx, func(tx store.Txn) error { return writeRecord(tx, rec) })
	if err != nil {
		return err
	}
	s.apply(rec)
	return nil
}

// apply makes a stored record known, and tells those whom it concerns.
func (s *Server) apply(rec record) {
	s.mu.Lock()
	old := s.byMachine[rec.Machine]
	s.adopt(rec)
	if old != nil && old.gone {
		s.wakeNeighbours(old.Member) // the machine was another member's before
	}
	s.wakeNeighbours(rec.Member)
	out := s.outcasts(func(yield func(string) bool) { yield(rec.Member) })
	s.mu.Unlock()
	s.relay.drop(out)
	s.pokeRun()
}

// logout takes a machine's node off the overlay at its own wish.
func (s *Server) logout(ctx context.Context, machine key.MachinePublic, nk key.NodePublic) (*tailcfg.RegisterResponse, error) {
	s.enrolling.Lock()
	defer s.enrolling.Unlock()
	s.mu.RLock()
	n := s.byKey[nk]
	var rec record
	if n != nil {
		rec = n.record
	}
	s.mu.RUnlock()
	if n == nil || rec.Machine != machine {
		return nil, refuse(http.StatusForbidden, "this machine has no such node key")
	}
	rec.LoggedOut = true
	if err := s.commit(ctx, rec); err != nil {
		return nil, err
	}
	s.log.Info("overlay node left", "member", rec.Member)
	return s.welcome(rec), nil
}

// welcome is the answer to a machine that is registered.
func (s *Server) welcome(rec record) *tailcfg.RegisterResponse {
	s.mu.RLock()
	m := s.plan.members[rec.Member]
	s.mu.RUnlock()
	o := ownerOf(m)
	return &tailcfg.RegisterResponse{
		MachineAuthorized: true,
		User:              tailcfg.User{ID: o.id, DisplayName: o.name, Created: rec.Created},
		Login:             tailcfg.Login{ID: tailcfg.LoginID(o.id), Provider: "sallyport", LoginName: o.login, DisplayName: o.name},
	}
}

// owner is the user that a member's node is shown to belong to: a device's
// person, or the cluster for an agent.
type owner struct {
	id          tailcfg.UserID
	login, name string
}

func ownerOf(m Member) owner {
	if m.Kind == Agent {
		return owner{userID("cluster", m.Cluster), m.Cluster, "cluster " + m.Cluster}
	}
	return owner{userID("user", m.UserID), m.UserName, m.UserName}
}

func (o owner) profile() tailcfg.UserProfile {
	return tailcfg.UserProfile{ID: o.id, LoginName: o.login, DisplayName: o.name}
}

// userID makes the number that the protocol wants for a user. Nothing is decided
// by it: who a device belongs to is in the capability.
func userID(kind, id string) tailcfg.UserID {
	sum := sha256.Sum256([]byte(kind + "/" + id))
	return tailcfg.UserID(binary.BigEndian.Uint64(sum[:8])>>12 | 1) // 52 bits, exact in any JSON
}
