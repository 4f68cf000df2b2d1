package tailnet

import "time"

// Topology is all that the overlay needs to know of one revision of the
// directory: who may be a node, and which device may reach which agent. It is
// immutable. Netmaps, packet filters and names are pure functions of it and of
// the nodes that have registered.
type Topology struct {
	Revision uint64
	// Members by id (dev-… or agt-…). A node whose member is not here is
	// expired, dropped from every map, and refused at its next poll.
	Members map[string]Member
	// Reach lists, for a device's id, the agents whose port 443 it may reach.
	// Nothing else is reachable by anyone.
	Reach map[string][]string
}

// Member is a device or an agent that may be on the overlay.
type Member struct {
	ID   string
	Kind MemberKind
	// Host is the DNS label that the node is known by, unique among members:
	// "edge-1-x7k2" for an agent's replica, "shivams-laptop-q2r5" for a device.
	Host string
	// Cluster is, for an agent, the DNS label of its cluster: the name
	// <Cluster>.<domain> resolves to every agent of it.
	Cluster string
	// UserID and UserName are, for a device, whose it is. WhoIs shows them.
	UserID   string
	UserName string
	// Expiry is when the node key stops working: a device's end of session.
	// Zero means never, for agents.
	Expiry time.Time
}

// MemberKind tells a device from an agent.
type MemberKind int

// The kinds of members.
const (
	Device MemberKind = iota + 1
	Agent
)
