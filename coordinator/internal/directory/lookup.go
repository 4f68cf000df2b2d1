package directory

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	apiv1 "github.com/sallyport-mesh/sallyport/pkg/api/sallyport/v1"
	"github.com/sallyport-mesh/sallyport/pkg/identity"
)

// names finds objects by name. It is built at the first lookup by name and
// shared by the snapshots that differ in nothing that it holds.
type names struct {
	once                              sync.Once
	users, groups, projects, clusters map[string]string // name → id
}

func (s *Snapshot) index() *names {
	n := s.names
	if n == nil {
		n = &names{}
	}
	n.once.Do(func() {
		n.users = byName(s.Users)
		n.groups = byName(s.Groups)
		n.projects = byName(s.Projects)
		n.clusters = byName(s.Clusters)
	})
	return n
}

func byName[T any, P interface {
	*T
	GetName() string
}](m map[string]*T) map[string]string {
	out := make(map[string]string, len(m))
	for id, obj := range m {
		out[P(obj).GetName()] = id
	}
	return out
}

// User finds a user by name or id.
func (s *Snapshot) User(ref string) (*apiv1.User, error) {
	return lookup("user", ref, identity.User, s.Users, func() map[string]string { return s.index().users })
}

// Group finds a group by name or id.
func (s *Snapshot) Group(ref string) (*apiv1.Group, error) {
	return lookup("group", ref, identity.Group, s.Groups, func() map[string]string { return s.index().groups })
}

// Project finds a project by name or id.
func (s *Snapshot) Project(ref string) (*apiv1.Project, error) {
	return lookup("project", ref, identity.Project, s.Projects, func() map[string]string { return s.index().projects })
}

// Cluster finds a cluster by name or id.
func (s *Snapshot) Cluster(ref string) (*apiv1.Cluster, error) {
	return lookup("cluster", ref, identity.Cluster, s.Clusters, func() map[string]string { return s.index().clusters })
}

// Role finds a role by name.
func (s *Snapshot) Role(name string) (*apiv1.Role, error) {
	return lookup("role", name, "", s.Roles, nil)
}

// Grant finds a grant by id.
func (s *Snapshot) Grant(id string) (*apiv1.Grant, error) {
	return lookup("grant", id, "", s.Grants, nil)
}

// Session finds a session by id.
func (s *Snapshot) Session(id string) (*apiv1.Session, error) {
	return lookup("session", id, "", s.Sessions, nil)
}

// Agent finds an agent by id.
func (s *Snapshot) Agent(id string) (*apiv1.Agent, error) {
	return lookup("agent", id, "", s.Agents, nil)
}

// Device finds a device by id, or by name where only one has it.
func (s *Snapshot) Device(ref string) (*apiv1.Device, error) {
	if d, ok := s.Devices[ref]; ok {
		return d, nil
	}
	var found *apiv1.Device
	for _, d := range s.Devices {
		if d.GetName() != ref {
			continue
		}
		if found != nil {
			return nil, &InvalidError{"device", fmt.Sprintf("several devices are called %q", ref), "name it by its id: sallyportctl device list"}
		}
		found = d
	}
	if found == nil {
		return nil, &NotFoundError{"device", ref}
	}
	return found, nil
}

func lookup[T any](kind, ref string, id identity.Kind, m map[string]*T, index func() map[string]string) (*T, error) {
	obj, ok := m[ref]
	if !ok && index != nil && !identity.IsID(id, ref) {
		obj, ok = m[index()[ref]]
	}
	if !ok {
		return nil, &NotFoundError{kind, ref}
	}
	return obj, nil
}

// GroupsOf lists the ids of the groups a user is a member of, sorted.
func (s *Snapshot) GroupsOf(userID string) []string {
	var out []string
	for id, g := range s.Groups {
		if slices.Contains(g.GetMemberIds(), userID) {
			out = append(out, id)
		}
	}
	slices.Sort(out)
	return out
}

// DevicesOf lists a user's devices, oldest first.
func (s *Snapshot) DevicesOf(userID string) []*apiv1.Device {
	return selected(s.Devices, func(d *apiv1.Device) bool { return d.GetUserId() == userID })
}

// SessionsOf lists a user's sessions, revoked and expired ones too, oldest
// first.
func (s *Snapshot) SessionsOf(userID string) []*apiv1.Session {
	return selected(s.Sessions, func(x *apiv1.Session) bool { return x.GetUserId() == userID })
}

// AgentsOf lists the agents of a cluster that were not removed, oldest first.
func (s *Snapshot) AgentsOf(clusterID string) []*apiv1.Agent {
	return selected(s.Agents, func(a *apiv1.Agent) bool { return a.GetClusterId() == clusterID && !a.GetRemoved() })
}

// ClustersOf lists the clusters of a project, oldest first.
func (s *Snapshot) ClustersOf(projectID string) []*apiv1.Cluster {
	return selected(s.Clusters, func(c *apiv1.Cluster) bool { return c.GetProjectId() == projectID })
}

type dated interface {
	GetId() string
	GetCreatedAt() *timestamp
}

func selected[T any, P interface {
	*T
	dated
}](m map[string]*T, want func(*T) bool) []*T {
	var out []*T
	for _, obj := range m {
		if want(obj) {
			out = append(out, obj)
		}
	}
	slices.SortFunc(out, func(a, b *T) int {
		if c := P(a).GetCreatedAt().AsTime().Compare(P(b).GetCreatedAt().AsTime()); c != 0 {
			return c
		}
		return strings.Compare(P(a).GetId(), P(b).GetId())
	})
	return out
}

// Authenticate tells whether what a user's certificate says still holds at a
// moment: the user is there and not suspended, the generation is the current
// one, the device is his and not revoked, the session is running. The caller
// has verified the chain and the certificate's own dates.
func (s *Snapshot) Authenticate(c identity.UserCert, now time.Time) (*apiv1.User, error) {
	u, ok := s.Users[c.UserID]
	if !ok {
		return nil, &RefusedError{Reason: "the user of this certificate is gone"}
	}
	if u.GetSuspended() {
		return nil, ErrSuspended
	}
	again := "log in again: sallyport login"
	if c.Generation != u.GetAuthGeneration() {
		return nil, &RefusedError{"this session was ended", again}
	}
	dev, ok := s.Devices[c.DeviceID]
	if !ok || dev.GetUserId() != u.GetId() {
		return nil, &RefusedError{"the device of this certificate is not known", again}
	}
	if dev.GetRevoked() {
		return nil, errDeviceRevoked
	}
	ses, ok := s.Sessions[c.SessionID]
	if !ok || ses.GetUserId() != u.GetId() || ses.GetDeviceId() != dev.GetId() || ses.GetRevoked() {
		return nil, &RefusedError{"this session was ended", again}
	}
	if !now.Before(ses.GetExpiresAt().AsTime()) {
		return nil, &RefusedError{"this session has run out", again}
	}
	return u, nil
}
