package localapi

import (
	"errors"
	"fmt"
	"time"

	"github.com/sallyport-mesh/sallyport/pkg/process"
)

// State is what the daemon is doing.
type State string

// The states of a daemon.
const (
	Joining State = "joining" // on the way into the overlay
	Joined  State = "joined"  // on the overlay
	Ended   State = "ended"   // the session is over; Problem says why
	Stopped State = "stopped" // there is none; only sallyport status says so
)

// Status is the answer to GET /v1/status.
type Status struct {
	PID     int    `json:"pid"`
	Version string `json:"version"`
	State   State  `json:"state"`
	// Problem is what is wrong, for people; empty when nothing is. Hint is what
	// to do about it.
	Problem string `json:"problem,omitempty"`
	Hint    string `json:"hint,omitempty"`

	// Warnings are what a person should know although kubectl may work.
	Warnings []Warning `json:"warnings,omitempty"`

	UserName  string    `json:"user"`
	UserID    string    `json:"userId"`
	DeviceID  string    `json:"deviceId"`
	SessionID string    `json:"sessionId"`
	Expires   time.Time `json:"expires"`

	Coordinator string `json:"coordinator"`
	// Connected says whether the coordinator is being heard right now.
	Connected bool `json:"connected"`
	// Revision of the directory that Clusters are from.
	Revision uint64 `json:"revision"`

	// Addresses of this device on the overlay.
	Addresses  []string `json:"addresses"`
	Kubeconfig string   `json:"kubeconfig"`
	// Wanted says of a daemon that is stopped that the next kubectl starts it.
	Wanted   bool      `json:"wanted,omitempty"`
	Clusters []Cluster `json:"clusters"`
	// Blocked are contexts that could not be written because an entry which is
	// not ours has the name.
	Blocked []string `json:"blocked,omitempty"`
}

// Warning is one line for people, and what to do about it.
type Warning struct {
	Text string `json:"text"`
	Hint string `json:"hint,omitempty"`
}

// Cluster is one that is open to the person.
type Cluster struct {
	Name       string   `json:"name"`
	Project    string   `json:"project"`
	Context    string   `json:"context"`
	ServerName string   `json:"serverName"`
	Namespace  string   `json:"namespace,omitempty"`
	Roles      []string `json:"roles"`
	// Online says whether the coordinator hears the cluster's agent.
	Online bool `json:"online"`
	// Paths to the cluster's agents, where they have been used.
	Paths []Path `json:"paths,omitempty"`
}

// Path is how packets travel to one agent.
type Path struct {
	Address string `json:"address"`
	// Kind is "direct", "relayed" or "idle".
	Kind string `json:"kind"`
	// Endpoint is the agent's UDP address where the path is direct.
	Endpoint string `json:"endpoint,omitempty"`
	// Latency of a round trip, nanoseconds in JSON; zero when not known.
	Latency time.Duration `json:"latency,omitempty"`
	// Silent says that the agent did not answer just now.
	Silent bool `json:"silent,omitempty"`
}

// Access is the answer to GET /v1/access?cluster=NAME, for the credential plugin.
type Access struct {
	State   State  `json:"state"`
	Problem string `json:"problem,omitempty"`
	Hint    string `json:"hint,omitempty"`
	// Silent says that no agent of the cluster answered for a while, and that the
	// coordinator, where it is heard, does not hear one either.
	Silent bool `json:"silent,omitempty"`
	// Open says whether the cluster is open to this person. It does not tell a
	// cluster that is closed from one that does not exist: nobody told us either.
	Open bool `json:"open"`
}

// Err is why kubectl cannot work, as an error with its hint; nil when it can.
func (s Status) Err() error {
	switch s.State {
	case Joined:
		return nil
	case Stopped:
		if s.Wanted {
			return nil
		}
		return process.Hint(ErrNotRunning, "sallyport up")
	case Ended:
		return process.Hint(errors.New(s.Problem), s.Hint)
	}
	if s.Problem != "" {
		return process.Hint(fmt.Errorf("not on the overlay: %s", s.Problem), "sallyport status shows when it has joined")
	}
	return process.Hint(errors.New("not on the overlay yet"), "sallyport status shows when it has joined")
}
