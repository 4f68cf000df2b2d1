package directory

import (
	apiv1 "github.com/sallyport-mesh/sallyport/pkg/api/sallyport/v1"
)

// Snapshot is the whole directory at one revision. It is immutable and shared:
// nobody modifies a message reached through it. Maps are keyed by id, roles by
// name.
type Snapshot struct {
	Revision uint64
	Users    map[string]*apiv1.User
	Groups   map[string]*apiv1.Group
	Projects map[string]*apiv1.Project
	Clusters map[string]*apiv1.Cluster
	Roles    map[string]*apiv1.Role
	Grants   map[string]*apiv1.Grant
	Devices  map[string]*apiv1.Device
	Sessions map[string]*apiv1.Session
	Agents   map[string]*apiv1.Agent

	names *names // nil in a snapshot made by hand, which is searched instead
}

func (s *Snapshot) clone() *Snapshot {
	c := *s
	return &c
}
