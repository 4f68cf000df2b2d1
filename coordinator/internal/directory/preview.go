package directory

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/sallyport-mesh/sallyport/coordinator/internal/store"
	apiv1 "github.com/sallyport-mesh/sallyport/pkg/api/sallyport/v1"
)

// Touched is one object that a change wrote or removed.
type Touched struct {
	Kind string // "user", "grant", ..., "join token", "password"
	ID   string
	// Before is nil for what is new, After for what is removed. Both are nil for
	// what holds secrets; Removed tells then.
	Before, After any
	Removed       bool
}

// Preview runs a change against the newest revision and throws it away: what it
// returns is what the change would have touched, by the change's own code. Run
// gets a directory of which it makes one change.
func (d *Directory) Preview(ctx context.Context, run func(*Directory) error) ([]Touched, error) {
	dry := &dryStore{Store: d.store}
	p := &Directory{
		store: dry, now: d.now, log: d.log, maxSession: d.maxSession, guard: d.guard,
		newer: make(chan struct{}), subscribers: make(map[chan *Snapshot]struct{}), done: d.done,
	}
	p.current.Store(d.Snapshot())
	if err := run(p); err != nil {
		return nil, err
	}
	return dry.touched, nil
}

// dryStore commits nothing: it keeps what the last transaction touched.
type dryStore struct {
	store.Store
	touched []Touched
}

var errDry = errors.New("not committed: this is a preview")

// Update runs f and rolls it back.
func (s *dryStore) Update(ctx context.Context, f func(store.Txn) error) (uint64, error) {
	_, err := s.Store.Update(ctx, func(tx store.Txn) error {
		seen := &recorder{Txn: tx, before: make(map[string]*store.Item)}
		if err := f(seen); err != nil {
			return err
		}
		var err error
		if s.touched, err = seen.touched(); err != nil {
			return err
		}
		return errDry
	})
	if !errors.Is(err, errDry) {
		return 0, err
	}
	return 0, nil // a revision that every snapshot has reached
}

// recorder notes what was there before a transaction wrote over it.
type recorder struct {
	store.Txn
	before map[string]*store.Item
	err    error
}

// Put writes, and notes what was there.
func (r *recorder) Put(key string, value []byte) {
	r.note(key)
	r.Txn.Put(key, value)
}

// Delete deletes, and notes what was there.
func (r *recorder) Delete(key string) {
	r.note(key)
	r.Txn.Delete(key)
}

func (r *recorder) note(key string) {
	if _, seen := r.before[key]; seen {
		return
	}
	it, err := r.Get(key)
	r.before[key], r.err = it, errors.Join(r.err, err)
}

// touched compares what the transaction wrote with what was there, in the order
// of kinds that people think in.
func (r *recorder) touched() ([]Touched, error) {
	if r.err != nil {
		return nil, r.err
	}
	var out []Touched
	for key, was := range r.before {
		kind, id, ok := strings.Cut(key, "/")
		if !ok {
			continue
		}
		is, err := r.Get(key)
		if err != nil {
			return nil, err
		}
		t, err := touchedOf(kind+"/", id, was, is)
		if err != nil {
			return nil, err
		}
		if t != nil {
			out = append(out, *t)
		}
	}
	slices.SortFunc(out, func(a, b Touched) int {
		return cmp.Or(slices.Index(shownKinds, a.Kind)-slices.Index(shownKinds, b.Kind), cmp.Compare(a.ID, b.ID))
	})
	return out, nil
}

// shownKinds is the order in which a preview lists what it touches.
var shownKinds = []string{
	"project", "user", "group", "role", "cluster", "agent", "grant", "device", "session", joinTokenKind, welcomeKind, "password",
}

// touchedOf is what happened to one key, or nil for what is no object of its own
// (names, keys, the outbox) and for what stayed as it was.
func touchedOf(prefix, id string, was, is *store.Item) (*Touched, error) {
	if was == nil && is == nil || was != nil && is != nil && string(was.Value) == string(is.Value) {
		return nil, nil
	}
	t := &Touched{ID: id, Removed: is == nil}
	var err error
	switch prefix {
	case users.prefix:
		err = decodeBoth(t, users, was, is)
	case groups.prefix:
		err = decodeBoth(t, groups, was, is)
	case projects.prefix:
		err = decodeBoth(t, projects, was, is)
	case clusters.prefix:
		err = decodeBoth(t, clusters, was, is)
	case roles.prefix:
		err = decodeBoth(t, roles, was, is)
	case grants.prefix:
		err = decodeBoth(t, grants, was, is)
	case devices.prefix:
		err = decodeBoth(t, devices, was, is)
	case sessions.prefix:
		err = decodeBoth(t, sessions, was, is)
	case agents.prefix:
		err = decodeBoth(t, agents, was, is)
	case joinTokenPrefix:
		t.Kind, t.ID = joinTokenKind, joinTokenID(id)
	case welcomePrefix:
		t.Kind, t.ID = welcomeKind, ""
	case passwordPrefix:
		t.Kind, t.ID = "password", ""
	default:
		return nil, nil
	}
	return t, err
}

func decodeBoth[T any, P message[T]](t *Touched, table table[T, P], was, is *store.Item) error {
	t.Kind = table.kind
	for item, into := range map[*store.Item]*any{was: &t.Before, is: &t.After} {
		if item == nil {
			continue
		}
		obj, err := table.decode(t.ID, item.Value)
		if err != nil {
			return err
		}
		*into = obj
	}
	return nil
}

// Name is how people call what was touched, where it has a name.
func (t *Touched) Name() string {
	obj := t.After
	if t.Removed {
		obj = t.Before
	}
	if named, ok := obj.(interface{ GetName() string }); ok {
		return named.GetName()
	}
	if g, ok := obj.(*apiv1.Grant); ok {
		return "role " + g.Role
	}
	return ""
}
