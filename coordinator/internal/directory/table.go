package directory

import (
	"fmt"

	"google.golang.org/protobuf/proto"

	"github.com/sallyport-mesh/sallyport/coordinator/internal/store"
	apiv1 "github.com/sallyport-mesh/sallyport/pkg/api/sallyport/v1"
	"github.com/sallyport-mesh/sallyport/pkg/identity"
)

// message is a pointer to a generated message.
type message[T any] interface {
	*T
	proto.Message
}

// table is one kind of object in the store: <prefix><id> holds the protobuf,
// and name/<prefix><name> the id of whoever has the name, so that uniqueness is
// one read inside the transaction that creates.
type table[T any, P message[T]] struct {
	kind   string // as people say it
	prefix string
	id     identity.Kind // "" for roles, whose id is their name
	check  func(name string) error
}

var (
	users    = table[apiv1.User, *apiv1.User]{"user", "user/", identity.User, identity.CheckName}
	groups   = table[apiv1.Group, *apiv1.Group]{"group", "group/", identity.Group, identity.CheckName}
	projects = table[apiv1.Project, *apiv1.Project]{"project", "project/", identity.Project, identity.CheckName}
	clusters = table[apiv1.Cluster, *apiv1.Cluster]{"cluster", "cluster/", identity.Cluster, identity.CheckClusterName}
	roles    = table[apiv1.Role, *apiv1.Role]{"role", "role/", "", identity.CheckName}
	grants   = table[apiv1.Grant, *apiv1.Grant]{"grant", "grant/", identity.Grant, nil}
	devices  = table[apiv1.Device, *apiv1.Device]{"device", "device/", identity.Device, nil}
	sessions = table[apiv1.Session, *apiv1.Session]{"session", "session/", identity.Session, nil}
	agents   = table[apiv1.Agent, *apiv1.Agent]{"agent", "agent/", identity.AgentID, nil}
)

// prefixes is every kind that a snapshot holds.
var prefixes = []string{
	users.prefix, groups.prefix, projects.prefix, clusters.prefix, roles.prefix,
	grants.prefix, devices.prefix, sessions.prefix, agents.prefix,
}

func (t table[T, P]) decode(id string, value []byte) (*T, error) {
	obj := new(T)
	if err := proto.Unmarshal(value, P(obj)); err != nil {
		return nil, fmt.Errorf("decoding %s %s: %w", t.kind, id, err)
	}
	return obj, nil
}

// get reads by id; a NotFoundError if there is none.
func (t table[T, P]) get(r store.Reader, id string) (*T, error) {
	it, err := r.Get(t.prefix + id)
	if err != nil {
		return nil, err
	}
	if it == nil {
		return nil, &NotFoundError{t.kind, id}
	}
	return t.decode(id, it.Value)
}

// find reads by name or id.
func (t table[T, P]) find(r store.Reader, ref string) (*T, error) {
	if t.check == nil || t.id == "" || identity.IsID(t.id, ref) {
		return t.get(r, ref)
	}
	it, err := r.Get(t.nameKey(ref))
	if err != nil {
		return nil, err
	}
	if it == nil {
		return nil, &NotFoundError{t.kind, ref}
	}
	return t.get(r, string(it.Value))
}

// all reads every object of the kind.
func (t table[T, P]) all(r store.Reader, f func(*T) error) error {
	return r.List(t.prefix, func(it store.Item) error {
		obj, err := t.decode(it.Key, it.Value)
		if err != nil {
			return err
		}
		return f(obj)
	})
}

func (t table[T, P]) put(tx store.Txn, id string, obj *T) error {
	value, err := proto.MarshalOptions{Deterministic: true}.Marshal(P(obj))
	if err != nil {
		return fmt.Errorf("encoding %s %s: %w", t.kind, id, err)
	}
	tx.Put(t.prefix+id, value)
	return nil
}

func (t table[T, P]) delete(tx store.Txn, id string) { tx.Delete(t.prefix + id) }

func (t table[T, P]) nameKey(name string) string { return "name/" + t.prefix + name }

// claim takes a name for id, or says that it is taken or cannot be a name.
func (t table[T, P]) claim(tx store.Txn, name, id string) error {
	if err := t.check(name); err != nil {
		return &InvalidError{Field: "name", Reason: err.Error()}
	}
	it, err := tx.Get(t.nameKey(name))
	if err != nil {
		return err
	}
	if it != nil {
		return &ExistsError{t.kind, name}
	}
	tx.Put(t.nameKey(name), []byte(id))
	return nil
}

func (t table[T, P]) release(tx store.Txn, name string) { tx.Delete(t.nameKey(name)) }
