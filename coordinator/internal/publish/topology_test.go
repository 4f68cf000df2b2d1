package publish

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/sallyport-mesh/sallyport/coordinator/internal/directory"
	"github.com/sallyport-mesh/sallyport/coordinator/internal/store"
	"github.com/sallyport-mesh/sallyport/coordinator/internal/tailnet"
	apiv1 "github.com/sallyport-mesh/sallyport/pkg/api/sallyport/v1"
	"github.com/sallyport-mesh/sallyport/pkg/policy"
)

func TestEdgeWaitsForTheAgentsConfirmation(t *testing.T) {
	w := newWorld(t)
	w.project("aws")
	_, a := w.cluster("edge-1", "aws")
	d, _ := w.login(w.user("ann"), time.Hour)
	s := w.agent(a, func(s *agentSim) { s.cut = false })
	_, rev := w.grant(directory.GrantSpec{Role: policy.View, User: "ann", Project: "aws"})
	s.caughtUp()
	w.settle()
	if w.reaches(d, a) {
		t.Error("the device was told of an agent that would refuse it")
	}
	if m := w.topology.Load().Members; m[d.Id].Kind != tailnet.Device || m[d.Id].UserName != "ann" || m[a.Id].Cluster != "edge-1" || m[d.Id].Expiry.IsZero() {
		t.Errorf("members %v", m)
	}
	s.confirm(rev, false)
	w.eventually("the edge is there", func() bool { return w.reaches(d, a) })
}

func TestEdgeGoesWithTheConfirmationThatItIsCut(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.Linger = time.Hour })
	w.project("aws")
	_, a := w.cluster("edge-1", "aws")
	d, _ := w.login(w.user("ann"), time.Hour)
	_, rev := w.grant(directory.GrantSpec{Role: policy.View, User: "ann", Project: "aws"})
	s := w.agent(a, func(s *agentSim) { s.cut = false })
	s.caughtUp()
	s.confirm(rev, false)
	w.eventually("the edge is there", func() bool { return w.reaches(d, a) })

	_, rev, err := w.directory.SuspendUser(t.Context(), "ann", "")
	if err != nil {
		t.Fatal(err)
	}
	s.caughtUp()
	w.settle()
	// The last words have to get through, so the device stays as long.
	if _, there := w.topology.Load().Members[d.Id]; !there || !w.reaches(d, a) {
		t.Error("the edge went before the agent had cut")
	}
	s.confirm(rev, false)
	w.eventually("the edge is gone", func() bool { return !w.reaches(d, a) })
	if _, there := w.topology.Load().Members[d.Id]; there {
		t.Error("a suspended user's device is still a member")
	}
}

func TestEdgeStaysForTheAgentsLastWords(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.Linger, c.Settle = 2*time.Hour, time.Hour })
	w.project("aws")
	_, a := w.cluster("edge-1", "aws")
	d, _ := w.login(w.user("ann"), time.Hour)
	w.grant(directory.GrantSpec{Role: policy.View, User: "ann", Project: "aws"})
	s := w.agent(a)
	w.eventually("the edge is there", func() bool { return w.reaches(d, a) })
	_, rev, err := w.directory.SuspendUser(t.Context(), "ann", "")
	if err != nil {
		t.Fatal(err)
	}
	w.effects(rev)
	// A later change is in the overlay, so the confirmation has been looked at.
	later, _ := w.login(w.user("bob"), time.Hour)
	w.eventually("the overlay has moved on", func() bool { _, ok := w.topology.Load().Members[later.Id]; return ok })
	if !w.reaches(d, a) {
		t.Error("the edge went with the confirmation, under what the agent had said last")
	}
	if ok := s.allows(&apiv1.User{Id: d.UserId}); ok {
		t.Error("the agent has not cut")
	}
}

func TestEdgeGoesAfterAWhileRegardless(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.Linger = 200 * time.Millisecond })
	w.project("aws")
	_, a := w.cluster("edge-1", "aws")
	d, _ := w.login(w.user("ann"), time.Hour)
	g, _ := w.grant(directory.GrantSpec{Role: policy.View, User: "ann", Project: "aws"})
	s := w.agent(a)
	w.eventually("the edge is there", func() bool { return w.reaches(d, a) })
	s.stop()
	begun := time.Now()
	if _, _, err := w.directory.DeleteGrant(t.Context(), g.Id); err != nil {
		t.Fatal(err)
	}
	w.eventually("the edge is gone", func() bool { return !w.reaches(d, a) })
	if took := time.Since(begun); took < 200*time.Millisecond {
		t.Errorf("gone after %s", took)
	}
}

func TestAccessGivenBackWhileItGoesStays(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.Linger = time.Hour })
	w.project("aws")
	_, a := w.cluster("edge-1", "aws")
	d, _ := w.login(w.user("ann"), time.Hour)
	g, rev := w.grant(directory.GrantSpec{Role: policy.View, User: "ann", Project: "aws"})
	s := w.agent(a, func(s *agentSim) { s.cut = false })
	s.caughtUp()
	s.confirm(rev, false)
	w.eventually("the edge is there", func() bool { return w.reaches(d, a) })
	_, narrowed, err := w.directory.DeleteGrant(t.Context(), g.Id)
	if err != nil {
		t.Fatal(err)
	}
	w.settle()
	_, widened := w.grant(directory.GrantSpec{Role: policy.View, User: "ann", Project: "aws"})
	w.settle()
	// In between the agent refuses her, and says so last.
	s.confirm(narrowed, false)
	w.eventually("the edge is gone while the agent refuses", func() bool { return !w.reaches(d, a) })
	s.confirm(widened, false)
	w.eventually("the edge is back", func() bool { return w.reaches(d, a) })
}

func TestRestartKeepsTheEdges(t *testing.T) {
	w := newWorld(t)
	w.project("aws")
	_, a := w.cluster("edge-1", "aws")
	ann, bob := w.user("ann"), w.user("bob")
	d, _ := w.login(ann, time.Hour)
	e, _ := w.login(bob, time.Hour)
	w.grant(directory.GrantSpec{Role: policy.View, User: "ann", Project: "aws"})
	s := w.agent(a)
	w.eventually("the edge is there", func() bool { return w.reaches(d, a) })
	// A crash now would lose nothing.
	w.eventually("the confirmation is noted", func() bool {
		noted := false
		err := w.store.View(t.Context(), func(r store.Reader) error {
			it, err := r.Get(ackPrefix + a.Id)
			noted = it != nil && strings.Contains(string(it.Value), ann.Id)
			return err
		})
		return err == nil && noted
	})
	s.stop()
	// The agent is away, and does not know of bob.
	w.grant(directory.GrantSpec{Role: policy.View, User: "bob", Project: "aws"})
	w.restart()
	w.eventually("a topology", func() bool { return w.topology.Load() != nil })
	if !w.reaches(d, a) || w.reaches(e, a) {
		t.Errorf("after a restart ann reaches the agent: %v, bob: %v", w.reaches(d, a), w.reaches(e, a))
	}
}

func TestSessionsAndGrantsEndInTheOverlayByThemselves(t *testing.T) {
	w := newWorld(t)
	w.project("aws")
	_, a := w.cluster("edge-1", "aws")
	ann, bob := w.user("ann"), w.user("bob")
	w.grant(directory.GrantSpec{Role: policy.View, User: "ann", Project: "aws"})
	short, _ := w.login(ann, 4*time.Second)
	long, _ := w.login(ann, time.Hour)
	other, _ := w.login(bob, time.Hour)
	w.grant(directory.GrantSpec{Role: policy.View, User: "bob", Project: "aws", ExpiresAt: time.Now().Add(4 * time.Second)})
	w.agent(a)
	w.eventually("the edges are there", func() bool { return w.reaches(short, a) && w.reaches(long, a) && w.reaches(other, a) })
	w.eventually("the short ones are gone", func() bool { return !w.reaches(short, a) && !w.reaches(other, a) })
	if !w.reaches(long, a) {
		t.Error("another session ended with it")
	}
	m := w.topology.Load().Members
	if _, there := m[short.Id]; there {
		t.Error("a device without a session is a member")
	}
	if _, there := m[other.Id]; !there {
		t.Error("a session ended with a grant")
	}
}

func TestHostNamesAreLabelsOfTheirOwn(t *testing.T) {
	s := &directory.Snapshot{Clusters: map[string]*apiv1.Cluster{
		"1": {Name: "edge-1"}, "2": {Name: "laptop-aaaa"},
	}}
	h := newHosts(s)
	for _, c := range []struct{ name, id, want string }{
		{"shivam's Laptop", "dev-q2r5aaaaaaaaaaaa", "shivams-laptop-q2r5"},
		{"laptop", "dev-aaaabbbbbbbbbbbb", "laptop-aaaabbbbbbbbbbbb"}, // a cluster has the short one
		{"edge-1", "agt-x7k2aaaaaaaaaaaa", "edge-1-x7k2"},
		{"edge-1", "agt-x7k2bbbbbbbbbbbb", "edge-1-x7k2bbbbbbbbbbbb"},
		{"漢字", "dev-cccccccccccccccc", "device-cccc"},
		{"--.--", "dev-dddddddddddddddd", "device-dddd"},
		{"a very long name that does not fit into a label of DNS", "dev-eeeeeeeeeeeeeeee", "a-very-long-name-that-does-not-fit-into-eeee"},
	} {
		if got := h.pick(c.name, c.id); got != c.want || len(got) > 63 {
			t.Errorf("%q is %q, want %q", c.name, got, c.want)
		}
	}
}

// An overlay edge exists exactly where the bundle allows something: whatever is
// done to the directory, once the agents have confirmed.
func TestEdgesAreExactlyWhatTheBundlesAllow(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.Linger = 10 * time.Minute })
	r := rand.New(rand.NewPCG(11, 12))
	projects := []string{"aws", "gcp"}
	for _, p := range projects {
		w.project(p)
	}
	var sims []*agentSim
	var agents []*apiv1.Agent
	clusters := []string{"edge-1", "edge-2", "edge-3"}
	for i, c := range clusters {
		_, a := w.cluster(c, projects[i/2])
		agents, sims = append(agents, a), append(sims, w.agent(a))
	}
	users := []string{"u0", "u1", "u2", "u3"}
	people := map[string]*apiv1.User{}
	var devices []*apiv1.Device
	for _, u := range users {
		people[u] = w.user(u)
		d, _ := w.login(people[u], time.Hour)
		devices = append(devices, d)
	}
	groups := []string{"g0", "g1"}
	for _, g := range groups {
		if _, _, err := w.directory.CreateGroup(t.Context(), g); err != nil {
			t.Fatal(err)
		}
	}
	one := func(list []string) string { return list[r.IntN(len(list))] }
	ctx := t.Context()
	// Refusals (a member already, suspended …) are part of life here.
	acts := map[string]func(){
		"grant": func() {
			g := directory.GrantSpec{Role: one([]string{policy.View, policy.Admin})}
			if r.IntN(2) == 0 {
				g.User = one(users)
			} else {
				g.Group = one(groups)
			}
			if r.IntN(2) == 0 {
				g.Project = one(projects)
			} else {
				g.Cluster = one(clusters)
			}
			if r.IntN(3) == 0 {
				g.Namespaces = []string{"team-a"}
			}
			_, _, _ = w.directory.CreateGrant(ctx, g)
		},
		"ungrant": func() {
			for id := range w.directory.Snapshot().Grants {
				_, _, _ = w.directory.DeleteGrant(ctx, id)
				return
			}
		},
		"join":    func() { _, _, _ = w.directory.AddMember(ctx, one(groups), one(users)) },
		"leave":   func() { _, _, _ = w.directory.RemoveMember(ctx, one(groups), one(users)) },
		"suspend": func() { _, _, _ = w.directory.SuspendUser(ctx, one(users), one([]string{"", "aws", "gcp"})) },
		"resume":  func() { _, _, _ = w.directory.ResumeUser(ctx, one(users), one([]string{"", "aws", "gcp"})) },
		"login": func() {
			d := devices[r.IntN(len(devices))]
			_, _, _ = w.directory.CreateSession(ctx, d.UserId, d.Id, time.Hour)
		},
		"logout": func() {
			for id := range w.directory.Snapshot().Sessions {
				_, _, _ = w.directory.RevokeSession(ctx, id)
				return
			}
		},
	}
	names := []string{"grant", "grant", "grant", "ungrant", "join", "leave", "suspend", "resume", "resume", "login", "login", "login", "logout"}
	edges := 0
	for range 150 {
		act := one(names)
		acts[act]()
		for _, s := range sims {
			s.caughtUp()
		}
		snap := w.directory.Snapshot()
		want := map[string]bool{}
		for _, d := range devices {
			session := false
			for _, x := range snap.SessionsOf(d.UserId) {
				session = session || live(x, snap.Devices[d.Id], snap.Users[d.UserId], time.Now()) && x.DeviceId == d.Id
			}
			for i, s := range sims {
				if u := snap.Users[d.UserId]; session && s.allows(u) {
					want[d.Id+" "+agents[i].Id] = true
				}
			}
		}
		edges += len(want)
		w.eventually(fmt.Sprintf("after %s: edges %v", act, want), func() bool {
			got := map[string]bool{}
			for d, list := range w.topology.Load().Reach {
				for _, a := range list {
					got[d+" "+a] = true
				}
			}
			if len(got) != len(want) {
				return false
			}
			for e := range want {
				if !got[e] {
					return false
				}
			}
			return true
		})
	}
	if edges < 50 {
		t.Errorf("only %d edges in all: nothing was proven", edges)
	}
}

func TestNobodyButDevicesReachesAnything(t *testing.T) {
	w := newWorld(t)
	w.project("aws")
	_, a := w.cluster("edge-1", "aws")
	_, b := w.cluster("edge-2", "aws")
	d, _ := w.login(w.user("ann"), time.Hour)
	e, _ := w.login(w.user("bob"), time.Hour)
	w.grant(directory.GrantSpec{Role: policy.View, User: "ann", Project: "aws"})
	w.grant(directory.GrantSpec{Role: policy.View, User: "bob", Cluster: "edge-1"})
	w.agent(a)
	w.agent(b)
	w.eventually("the edges are there", func() bool { return w.reaches(d, a) && w.reaches(d, b) && w.reaches(e, a) })
	top := w.topology.Load()
	if len(top.Reach) != 2 || len(top.Reach[e.Id]) != 1 || !slices.IsSorted(top.Reach[d.Id]) {
		t.Errorf("reach %v", top.Reach)
	}
}

func BenchmarkTopology5kDevices200Clusters(b *testing.B) {
	snap := manyUsers(5_000, 200, 200)
	snap.Sessions, snap.Devices, snap.Agents = map[string]*apiv1.Session{}, map[string]*apiv1.Device{}, map[string]*apiv1.Agent{}
	// Everybody in one group of 25 clusters.
	snap.Grants = map[string]*apiv1.Grant{}
	for i := range 200 {
		g := fmt.Sprintf("grp-%016d", i)
		id := fmt.Sprintf("grt-%016d", i)
		snap.Grants[id] = &apiv1.Grant{Id: id, GroupId: g, Role: policy.View, ClusterId: fmt.Sprint("cls-", i)}
		snap.Agents[fmt.Sprintf("agt-%016d", i)] = &apiv1.Agent{Id: fmt.Sprintf("agt-%016d", i), ClusterId: fmt.Sprint("cls-", i)}
	}
	soon := timestamppb.New(time.Now().Add(time.Hour))
	for id := range snap.Users {
		d := "dev" + id[3:]
		snap.Devices[d] = &apiv1.Device{Id: d, UserId: id, Name: "laptop"}
		snap.Sessions["ses"+id[3:]] = &apiv1.Session{Id: "ses" + id[3:], UserId: id, DeviceId: d, ExpiresAt: soon}
	}
	h := &Hub{clusters: map[string]*cluster{}, agents: map[string]*agent{}, leaving: map[edge]leave{}}
	v := newView(snap)
	for id := range snap.Clusters {
		c := &cluster{id: id, bundle: v.bundle(id, Issuer{})}
		c.users = usersOf(c.bundle)
		h.clusters[id] = c
	}
	for id, a := range snap.Agents {
		h.agentLocked(id).users = keys(h.clusters[a.ClusterId].users)
	}
	for b.Loop() {
		h.topology, _ = h.topologyLocked(snap, time.Now())
	}
}
