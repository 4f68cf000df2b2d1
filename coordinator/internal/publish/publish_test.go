package publish

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/sallyport-mesh/sallyport/coordinator/internal/directory"
	apiv1 "github.com/sallyport-mesh/sallyport/pkg/api/sallyport/v1"
	"github.com/sallyport-mesh/sallyport/pkg/policy"
)

func TestBundleHoldsWhatConcernsItsClusterAndNothingElse(t *testing.T) {
	w := newWorld(t)
	w.project("aws")
	w.project("gcp")
	edge1, _ := w.cluster("edge-1", "aws")
	edge3, _ := w.cluster("edge-3", "gcp")
	ann, bob, eve, tom := w.user("ann"), w.user("bob"), w.user("eve"), w.user("tom")
	w.user("nobody")
	for _, g := range []string{"ops", "idle"} {
		if _, _, err := w.directory.CreateGroup(t.Context(), g); err != nil {
			t.Fatal(err)
		}
	}
	for _, m := range []string{"ann", "tom"} {
		if _, _, err := w.directory.AddMember(t.Context(), "ops", m); err != nil {
			t.Fatal(err)
		}
	}
	w.grant(directory.GrantSpec{Role: policy.Admin, Group: "ops", Project: "aws"})
	w.grant(directory.GrantSpec{Role: policy.View, Group: "idle", Project: "aws"})
	w.grant(directory.GrantSpec{Role: policy.Edit, User: "bob", Cluster: "edge-1", Namespaces: []string{"b", "a"}})
	w.grant(directory.GrantSpec{Role: policy.View, User: "eve", Project: "gcp"})
	w.grant(directory.GrantSpec{Role: policy.View, User: "tom", Project: "gcp"})
	if _, _, err := w.directory.SuspendUser(t.Context(), "tom", "aws"); err != nil {
		t.Fatal(err)
	}
	lost, _ := w.login(ann, time.Hour)
	if _, _, err := w.directory.RevokeDevice(t.Context(), lost.Id); err != nil {
		t.Fatal(err)
	}
	_, over := w.login(ann, time.Hour)
	if _, _, err := w.directory.RevokeSession(t.Context(), over.Id); err != nil {
		t.Fatal(err)
	}
	snap := w.directory.Snapshot()
	b := BundleFor(snap, edge1.Id, w.cfg.Issuer)
	if b.Revision != 0 || b.IssuedAt != nil || b.ClusterName != "edge-1" || b.TrustDomain != "example.test" || len(b.UserCa) != 1 {
		t.Errorf("head: %v", b)
	}
	users := map[string]*apiv1.BundleSubject{}
	for _, s := range b.Subjects {
		users[s.UserId] = s
	}
	if len(users) != 2 || users[ann.Id] == nil || users[bob.Id] == nil || users[eve.Id] != nil || users[tom.Id] != nil {
		t.Errorf("subjects: %v", b.Subjects)
	}
	if s := users[ann.Id]; len(s.GroupIds) != 1 || len(s.RevokedDeviceIds) != 1 || s.RevokedDeviceIds[0] != lost.Id || len(s.RevokedSessionIds) != 2 {
		t.Errorf("ann: %v", s)
	}
	if len(b.Groups) != 1 || b.Groups[0].Name != "ops" || len(b.Grants) != 2 || len(b.Roles) != 2 {
		t.Errorf("groups %v, grants %v, %d roles", b.Groups, b.Grants, len(b.Roles))
	}
	other := BundleFor(snap, edge3.Id, w.cfg.Issuer)
	if len(other.Subjects) != 2 || len(other.Groups) != 0 || len(other.Grants) != 2 {
		t.Errorf("edge-3: %v", other)
	}
	gone := BundleFor(snap, "cls-gone", w.cfg.Issuer)
	if len(gone.Subjects)+len(gone.Grants)+len(gone.Roles) != 0 {
		t.Errorf("a cluster that is gone: %v", gone)
	}
	// It is a function of the snapshot, map order and all.
	want, err := encode(b)
	if err != nil {
		t.Fatal(err)
	}
	for range 20 {
		if again, _ := encode(BundleFor(snap, edge1.Id, w.cfg.Issuer)); !bytes.Equal(again, want) {
			t.Fatal("the same snapshot gave another bundle")
		}
	}
	b.Revision = 1
	if _, err := policy.Compile(b); err != nil {
		t.Error(err)
	}
	// Suspended everywhere, he is nowhere; a generation ends old sessions.
	if _, _, err := w.directory.SuspendUser(t.Context(), "ann", ""); err != nil {
		t.Fatal(err)
	}
	if b = BundleFor(w.directory.Snapshot(), edge1.Id, w.cfg.Issuer); len(b.Subjects) != 1 || len(b.Groups) != 0 {
		t.Errorf("after the suspension: %v, %v", b.Subjects, b.Groups)
	}
	if _, _, err := w.directory.ResumeUser(t.Context(), "ann", ""); err != nil {
		t.Fatal(err)
	}
	b = BundleFor(w.directory.Snapshot(), edge1.Id, w.cfg.Issuer)
	for _, s := range b.Subjects {
		if s.UserId == ann.Id && (s.AuthGeneration == 0 || len(s.RevokedSessionIds) != 0) {
			t.Errorf("ann, back again: %v", s)
		}
	}
}

func TestOnlyAffectedClustersAreSignedAnew(t *testing.T) {
	w := newWorld(t)
	w.project("aws")
	w.project("gcp")
	c1, _ := w.cluster("edge-1", "aws")
	c3, _ := w.cluster("edge-3", "gcp")
	u := w.user("ann")
	w.settle()
	r1, r3 := w.hub.BundleRevision(c1.Id), w.hub.BundleRevision(c3.Id)
	_, rev := w.grant(directory.GrantSpec{Role: policy.View, User: "ann", Project: "aws"})
	w.settle()
	if got := w.hub.BundleRevision(c1.Id); got < rev || got == r1 {
		t.Errorf("edge-1 is at %d, granted at %d", got, rev)
	}
	if got := w.hub.BundleRevision(c3.Id); got != r3 {
		t.Errorf("edge-3 went from %d to %d", r3, got)
	}
	r1 = w.hub.BundleRevision(c1.Id)
	d, session := w.login(u, time.Hour)
	w.user("bob")
	w.settle()
	if got := w.hub.BundleRevision(c1.Id); got != r1 {
		t.Errorf("a login and another user moved edge-1 from %d to %d", r1, got)
	}
	for _, revoke := range []func() (uint64, error){
		func() (uint64, error) {
			_, rev, err := w.directory.RevokeSession(t.Context(), session.Id)
			return rev, err
		},
		func() (uint64, error) { _, rev, err := w.directory.RevokeDevice(t.Context(), d.Id); return rev, err },
	} {
		rev, err := revoke()
		if err != nil {
			t.Fatal(err)
		}
		w.settle()
		if got := w.hub.BundleRevision(c1.Id); got < rev {
			t.Errorf("edge-1 is at %d, something was revoked at %d", got, rev)
		}
		if got := w.hub.BundleRevision(c3.Id); got != r3 {
			t.Errorf("edge-3 went from %d to %d", r3, got)
		}
	}
}

func TestRestartSendsTheVeryBytesThatWereSigned(t *testing.T) {
	w := newWorld(t)
	w.project("aws")
	c, a := w.cluster("edge-1", "aws")
	w.user("ann")
	w.grant(directory.GrantSpec{Role: policy.View, User: "ann", Project: "aws"})
	s := w.agent(a)
	s.caughtUp()
	s.stop()
	before, revision := s.bytes, s.held()
	w.restart()
	again := w.agent(a)
	again.caughtUp()
	if !bytes.Equal(before, again.bytes) || again.held() != revision {
		t.Errorf("revision %d became %d, bytes equal: %v", revision, again.held(), bytes.Equal(before, again.bytes))
	}
	again.stop()

	// Another authority is another content, at the same revision of the directory.
	w.cfg.Issuer.UserCAs = append(w.cfg.Issuer.UserCAs, []byte("another"))
	w.restart()
	w.settle()
	if got := w.hub.BundleRevision(c.Id); got <= revision {
		t.Errorf("another content under revision %d, after %d", got, revision)
	}
	third := w.agent(a)
	third.caughtUp()
	// And it stays there.
	revision = third.held()
	third.stop()
	w.restart()
	w.settle()
	if got := w.hub.BundleRevision(c.Id); got != revision {
		t.Errorf("revision %d became %d by a restart", revision, got)
	}
	// The directory goes on above it.
	w.grant(directory.GrantSpec{Role: policy.Edit, User: "ann", Project: "aws"})
	w.settle()
	if got := w.hub.BundleRevision(c.Id); got <= revision {
		t.Errorf("revision %d after %d", got, revision)
	}
}

func TestWatchSendsTheNewestBundleOnceAndHeartbeats(t *testing.T) {
	w := newWorld(t)
	w.project("aws")
	_, a := w.cluster("edge-1", "aws")
	s := w.agent(a)
	s.caughtUp()
	w.eventually("three heartbeats", func() bool { s.mu.Lock(); defer s.mu.Unlock(); return s.beats >= 3 })
	if len(s.got) != 1 {
		t.Errorf("bundles of revisions %v", s.got)
	}
	// Whoever holds it already is not sent it again.
	s.stop()
	s.connect(s.held())
	s.mu.Lock()
	s.beats = 0
	s.mu.Unlock()
	w.eventually("heartbeats again", func() bool { s.mu.Lock(); defer s.mu.Unlock(); return s.beats >= 2 })
	if len(s.got) != 1 {
		t.Errorf("bundles of revisions %v", s.got)
	}
	if st := w.hub.AgentStatus(a.Id); !st.Online || st.LastSeen == nil || st.ConfirmedRevision != s.held() {
		t.Errorf("status %v", st)
	}
	s.stop()
	if w.hub.AgentStatus(a.Id).Online {
		t.Error("online without a stream")
	}
}

func TestSlowAgentDelaysNobodyAndGetsTheNewest(t *testing.T) {
	w := newWorld(t)
	w.project("aws")
	_, slow := w.cluster("edge-1", "aws")
	_, quick := w.cluster("edge-2", "aws")
	gate := make(chan struct{})
	s := w.agent(slow, func(s *agentSim) { s.gate = gate })
	q := w.agent(quick)
	for i := range 20 {
		w.user(fmt.Sprint("user-", i))
		w.grant(directory.GrantSpec{Role: policy.View, User: fmt.Sprint("user-", i), Project: "aws"})
		q.caughtUp()
	}
	close(gate)
	s.caughtUp()
	if len(s.got) > 2 {
		t.Errorf("the slow one was sent revisions %v, not just the newest", s.got)
	}
}

func TestNoHeartbeatForABundleThatIsOver(t *testing.T) {
	w := newWorld(t)
	w.project("aws")
	c, a := w.cluster("edge-1", "aws")
	w.user("ann")
	g, _ := w.grant(directory.GrantSpec{Role: policy.View, User: "ann", Project: "aws"})
	s := w.agent(a)
	s.caughtUp()
	// The directory commits, but what follows from it cannot be noted.
	w.store.fail.Store(true)
	_, rev, err := w.directory.DeleteGrant(t.Context(), g.Id)
	if err != nil {
		t.Fatal(err)
	}
	w.settle()
	s.mu.Lock()
	beats := s.beats
	s.mu.Unlock()
	if err := w.hub.Effects(t.Context(), rev, func(*apiv1.Effect) error { return nil }); err == nil {
		t.Error("a change that reached nobody was reported as done")
	}
	before := w.hub.BundleRevision(c.Id)
	_, _, _, last := w.hub.newest(c.Id)
	for range 5 {
		w.hub.heartbeat()
	}
	if _, _, _, at := w.hub.newest(c.Id); !at.Equal(last) {
		t.Error("a heartbeat for a bundle that is over")
	}
	if w.hub.BundleRevision(c.Id) != before {
		t.Error("a bundle was published without being noted")
	}
	w.store.fail.Store(false)
	w.eventually("published after all", func() bool { return s.held() >= rev })
	w.eventually("heartbeats again", func() bool { s.mu.Lock(); defer s.mu.Unlock(); return s.beats > beats+1 })
}

func TestRemovedAgentLosesItsStream(t *testing.T) {
	w := newWorld(t)
	w.project("aws")
	_, a := w.cluster("edge-1", "aws")
	s := w.agent(a)
	s.caughtUp()
	if _, _, err := w.directory.RemoveAgent(t.Context(), a.Id); err != nil {
		t.Fatal(err)
	}
	w.eventually("offline", func() bool { return !w.hub.AgentStatus(a.Id).Online })
	if err := w.hub.Confirm(a.Id, &apiv1.ConfirmRequest{Revision: s.held()}); err == nil {
		t.Error("a removed agent is still listened to")
	}
	if err := w.hub.Watch(t.Context(), a.Id, &apiv1.AgentWatchRequest{}, nil); err == nil {
		t.Error("a removed agent may watch")
	}
}

func TestConfirmationOfWhatWasNeverSentIsRefused(t *testing.T) {
	w := newWorld(t)
	w.project("aws")
	c, a := w.cluster("edge-1", "aws")
	w.settle()
	if err := w.hub.Confirm(a.Id, &apiv1.ConfirmRequest{Revision: w.hub.BundleRevision(c.Id) + 1}); err == nil {
		t.Error("taken")
	}
	if err := w.hub.Confirm("agt-unknown", &apiv1.ConfirmRequest{}); err == nil {
		t.Error("an unknown agent is listened to")
	}
}

func TestClustersOfFollowsTheBundles(t *testing.T) {
	w := newWorld(t)
	w.project("aws")
	_, a := w.cluster("edge-2", "aws")
	w.cluster("edge-1", "aws")
	u := w.user("ann")
	w.settle()
	list, changed := w.hub.ClustersOf(u.Id)
	if len(list) != 0 {
		t.Fatalf("%v", list)
	}
	w.grant(directory.GrantSpec{Role: policy.View, User: "ann", Project: "aws", Namespaces: []string{"team-b", "team-a"}})
	<-changed
	list, changed = w.hub.ClustersOf(u.Id)
	if len(list) != 2 || list[0].Name != "edge-1" || list[1].ServerName != "edge-2.mesh.test" || list[1].Project != "aws" ||
		list[1].Namespace != "team-a" || len(list[1].Roles) != 1 || list[1].Roles[0] != policy.View || list[1].Online {
		t.Fatalf("%v", list)
	}
	s := w.agent(a)
	<-changed
	if list, changed = w.hub.ClustersOf(u.Id); !list[1].Online || list[0].Online {
		t.Errorf("%v", list)
	}
	s.stop()
	<-changed
	w.grant(directory.GrantSpec{Role: policy.Edit, User: "ann", Cluster: "edge-1"})
	w.settle()
	list, _ = w.hub.ClustersOf(u.Id)
	if list[0].Namespace != "" || len(list[0].Roles) != 2 || list[1].Online {
		t.Errorf("%v", list)
	}
}

// fixed is a directory that does not move.
type fixed struct{ s *directory.Snapshot }

func (f fixed) Snapshot() *directory.Snapshot { return f.s }

func (f fixed) Subscribe(ctx context.Context) <-chan *directory.Snapshot {
	ch := make(chan *directory.Snapshot, 1)
	ch <- f.s
	context.AfterFunc(ctx, func() { close(ch) })
	return ch
}

func TestAnotherContentAtOneRevisionGetsOneOfItsOwn(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.Directory = fixed{manyUsers(3, 1, 2)} })
	before := w.hub.BundleRevision("cls-0")
	if before != 1 {
		t.Fatalf("revision %d of a directory at 1", before)
	}
	w.cfg.Issuer.UserCAs = [][]byte{[]byte("another")}
	w.restart()
	if got := w.hub.BundleRevision("cls-0"); got <= before || got != w.hub.BundleRevision("cls-1") {
		t.Errorf("revisions %d and %d, after %d", got, w.hub.BundleRevision("cls-1"), before)
	}
}

func TestManyUsersMakeABundleThatCanBeSent(t *testing.T) {
	snap := manyUsers(10_000, 200, 20)
	b := BundleFor(snap, "cls-0", Issuer{TrustDomain: "example.test"})
	data, err := encode(b)
	if err != nil {
		t.Fatal(err)
	}
	if len(b.Subjects) != 10_000 || len(data) > policy.MaxBundle/4 {
		t.Errorf("%d subjects in %d bytes", len(b.Subjects), len(data))
	}
	b.Revision = 1
	if _, err := policy.Compile(proto.CloneOf(b)); err != nil {
		t.Error(err)
	}
}

// manyUsers is a directory of users in three groups each, all of them granted on
// one project of clusters.
func manyUsers(users, groups, clusters int) *directory.Snapshot {
	s := &directory.Snapshot{
		Revision: 1, Users: map[string]*apiv1.User{}, Groups: map[string]*apiv1.Group{}, Projects: map[string]*apiv1.Project{"prj-0": {Id: "prj-0"}},
		Clusters: map[string]*apiv1.Cluster{}, Roles: map[string]*apiv1.Role{}, Grants: map[string]*apiv1.Grant{},
	}
	for _, r := range policy.Builtin() {
		s.Roles[r.Name] = r
	}
	for i := range clusters {
		id := fmt.Sprint("cls-", i)
		s.Clusters[id] = &apiv1.Cluster{Id: id, Name: fmt.Sprint("edge-", i), ProjectId: "prj-0"}
	}
	for i := range groups {
		id := fmt.Sprintf("grp-%016d", i)
		s.Groups[id] = &apiv1.Group{Id: id, Name: id}
		g := fmt.Sprintf("grt-%016d", i)
		s.Grants[g] = &apiv1.Grant{Id: g, GroupId: id, Role: policy.View, ProjectId: "prj-0"}
	}
	for i := range users {
		id := fmt.Sprintf("usr-%016d", i)
		s.Users[id] = &apiv1.User{Id: id, Name: fmt.Sprint("user", i)}
		for _, g := range []int{i, i*7 + 1, i*13 + 2} {
			g := s.Groups[fmt.Sprintf("grp-%016d", g%groups)]
			g.MemberIds = append(g.MemberIds, id)
		}
	}
	return s
}

func BenchmarkBundle10kUsers(b *testing.B) {
	snap := manyUsers(10_000, 200, 1)
	for b.Loop() {
		bundle := BundleFor(snap, "cls-0", Issuer{})
		if _, err := digest(bundle); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkBundles200ClustersOf500Users(b *testing.B) {
	snap := manyUsers(500, 20, 200)
	for b.Loop() {
		v := newView(snap)
		for id := range snap.Clusters {
			if _, err := digest(v.bundle(id, Issuer{})); err != nil {
				b.Fatal(err)
			}
		}
	}
}

func TestAChangedRoleConcernsTheClustersThatGiveIt(t *testing.T) {
	w := newWorld(t)
	w.project("aws")
	w.project("gcp")
	c1, _ := w.cluster("edge-1", "aws")
	c3, _ := w.cluster("edge-3", "gcp")
	w.user("ann")
	role := &apiv1.Role{Name: "web", Rules: []*apiv1.Rule{{Verbs: []string{"get"}, ApiGroups: []string{""}, Resources: []string{"pods"}}}}
	if _, _, err := w.directory.CreateRole(t.Context(), role); err != nil {
		t.Fatal(err)
	}
	w.grant(directory.GrantSpec{Role: "web", User: "ann", Project: "aws", NamespaceSelector: "team=a"})
	w.grant(directory.GrantSpec{Role: policy.View, User: "ann", Project: "gcp"})
	w.settle()
	r3 := w.hub.BundleRevision(c3.Id)
	b := BundleFor(w.directory.Snapshot(), c1.Id, w.cfg.Issuer)
	if len(b.Grants) != 1 || b.Grants[0].NamespaceSelector != "team=a" || len(b.Grants[0].Namespaces) != 0 || !slices.Contains(b.Requires, policy.FeatureSelectors) {
		t.Errorf("the bundle has %v and requires %v", b.Grants, b.Requires)
	}
	// Labels are known in the cluster alone, so nobody starts in a namespace.
	if list, _ := w.hub.ClustersOf(b.Subjects[0].UserId); len(list) != 2 || list[0].Namespace != "" {
		t.Errorf("reaches %v", list)
	}

	role.Rules[0].Deny, role.Rules[0].ResourceNames = true, []string{"prod-*"}
	_, rev, err := w.directory.ChangeRole(t.Context(), role)
	if err != nil {
		t.Fatal(err)
	}
	w.settle()
	if got := w.hub.BundleRevision(c1.Id); got < rev {
		t.Errorf("edge-1 is at %d, the role changed at %d", got, rev)
	}
	if got := w.hub.BundleRevision(c3.Id); got != r3 {
		t.Errorf("edge-3 went from %d to %d", r3, got)
	}
	b = BundleFor(w.directory.Snapshot(), c1.Id, w.cfg.Issuer)
	if !slices.Contains(b.Requires, policy.FeatureDeny) || !slices.Contains(b.Requires, policy.FeaturePatterns) {
		t.Errorf("requires %v", b.Requires)
	}
}
