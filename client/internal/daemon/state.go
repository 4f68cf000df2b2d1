package daemon

import (
	"sync"
	"time"

	"github.com/sallyport-mesh/sallyport/client/internal/localapi"
	"github.com/sallyport-mesh/sallyport/pkg/profile"
)

// state is what the parts of the daemon tell one another.
type state struct {
	mu      sync.Mutex
	changed chan struct{} // closed and replaced at each change

	profile *profile.Profile
	online  Node   // nil while not on the overlay
	ended   error  // why the session is over
	overlay string // what is wrong with the overlay
	watch   string // what is wrong with the coordinator
	context string // what is wrong with kubeconfig

	connected bool
	heard     time.Time     // when the coordinator was heard last
	skew      time.Duration // how far its clock is ahead of ours
	synced    bool          // clusters are what the coordinator said in this session
	revision  uint64
	clusters  []localapi.Cluster
	blocked   []string
}

func (s *state) init(p *profile.Profile, clusters []localapi.Cluster) {
	s.changed = make(chan struct{})
	s.profile, s.clusters = p, clusters
}

// set changes the state and wakes those who wait for it.
func (s *state) set(change func(*state)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change(s)
	close(s.changed)
	s.changed = make(chan struct{})
}

// get reads the state, and gives a channel that is closed at the next change.
func (s *state) get(read func(*state)) <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	read(s)
	return s.changed
}

func (s *state) node() (n Node) {
	s.get(func(s *state) { n = s.online })
	return n
}

func (s *state) domain() (domain string) {
	s.get(func(s *state) { domain = s.profile.OverlayDomain })
	return domain
}
