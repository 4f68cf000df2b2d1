package publish

import (
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/sallyport-mesh/sallyport/coordinator/internal/directory"
	apiv1 "github.com/sallyport-mesh/sallyport/pkg/api/sallyport/v1"
	"github.com/sallyport-mesh/sallyport/pkg/policy"
)

func TestSuspensionWaitsForEveryAgentConcerned(t *testing.T) {
	w := newWorld(t)
	w.project("aws")
	w.project("gcp")
	_, a1 := w.cluster("edge-1", "aws")
	_, a2 := w.cluster("edge-2", "aws")
	_, a3 := w.cluster("edge-3", "gcp")
	w.user("shivam")
	w.user("virat")
	w.grant(directory.GrantSpec{Role: policy.ClusterAdmin, User: "shivam", Project: "aws"})
	w.grant(directory.GrantSpec{Role: policy.ClusterAdmin, User: "virat", Project: "gcp"})
	for _, a := range []*apiv1.Agent{a1, a2, a3} {
		w.agent(a).caughtUp()
	}
	_, rev, err := w.directory.SuspendUser(t.Context(), "shivam", "aws")
	if err != nil {
		t.Fatal(err)
	}
	committed, agents := w.effects(rev)
	if committed.Revision != rev || committed.Agents != 2 || committed.At == nil || len(agents) != 2 {
		t.Fatalf("%v\n%s", committed, lines(agents))
	}
	for _, m := range agents {
		if m.CutMs <= 0 || m.CleanMs < m.CutMs || m.CutStreams != 3 || m.Unreachable || m.Problem != "" {
			t.Errorf("%v", m)
		}
		if m.AgentId == a3.Id || !strings.HasPrefix(m.Cluster, "edge-") {
			t.Errorf("%v", m)
		}
	}
	// What changed nothing concerns nobody, and asking again is answered again.
	_, same, err := w.directory.SuspendUser(t.Context(), "shivam", "aws")
	if err != nil {
		t.Fatal(err)
	}
	if committed, agents = w.effects(same); same != rev && committed.Agents != 0 {
		t.Errorf("%v\n%s", committed, lines(agents))
	}
	if _, agents = w.effects(rev); len(agents) != 2 {
		t.Errorf("asked again: %s", lines(agents))
	}
}

func TestAgentThatCannotBeReachedIsNamedWithItsOwnEnd(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.Patience = 300 * time.Millisecond })
	w.project("aws")
	c, away := w.cluster("edge-1", "aws")
	_, never := w.cluster("edge-2", "aws")
	w.user("shivam")
	w.grant(directory.GrantSpec{Role: policy.View, User: "shivam", Project: "aws"})
	s := w.agent(away)
	s.caughtUp()
	w.eventually("a heartbeat", func() bool { s.mu.Lock(); defer s.mu.Unlock(); return s.last != nil })
	s.stop()
	last := s.last.Time.AsTime()
	_, rev, err := w.directory.DeleteUser(t.Context(), "shivam")
	if err != nil {
		t.Fatal(err)
	}
	_, agents := w.effects(rev)
	if len(agents) != 2 {
		t.Fatal(lines(agents))
	}
	for _, m := range agents {
		if !m.Unreachable || m.CutMs != 0 {
			t.Errorf("%v", m)
		}
		if m.AgentId == never.Id {
			if m.LastSeen != nil || m.ReadStaleAt == nil {
				t.Errorf("never seen: %v", m)
			}
			continue
		}
		after := func(seconds uint32) time.Time { return last.Add(time.Duration(seconds) * time.Second) }
		if m.LastSeen == nil || !m.ReadStaleAt.AsTime().Equal(after(c.Budgets.ReadSeconds)) ||
			!m.WriteStaleAt.AsTime().Equal(after(c.Budgets.WriteSeconds)) || !m.ExecStaleAt.AsTime().Equal(after(c.Budgets.ExecSeconds)) {
			t.Errorf("last heartbeat %s: %v", last, m)
		}
	}
}

func TestAgentThatComesRightBackIsWaitedFor(t *testing.T) {
	w := newWorld(t)
	w.project("aws")
	_, a := w.cluster("edge-1", "aws")
	w.user("shivam")
	g, _ := w.grant(directory.GrantSpec{Role: policy.View, User: "shivam", Project: "aws"})
	s := w.agent(a)
	s.caughtUp()
	s.stop()
	_, rev, err := w.directory.DeleteGrant(t.Context(), g.Id)
	if err != nil {
		t.Fatal(err)
	}
	var said []*apiv1.AgentEffect
	err = w.hub.Effects(t.Context(), rev, func(e *apiv1.Effect) error {
		if e.GetCommitted() != nil {
			s.connect(s.held())
		} else {
			said = append(said, e.GetAgent())
		}
		return nil
	})
	if err != nil || len(said) != 1 || said[0].Unreachable || said[0].CutMs == 0 {
		t.Errorf("%v, %s", err, lines(said))
	}
}

func TestSilentAgentIsReportedAsNotAnswering(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.Patience = 300 * time.Millisecond })
	w.project("aws")
	_, a := w.cluster("edge-1", "aws")
	w.user("shivam")
	g, _ := w.grant(directory.GrantSpec{Role: policy.View, User: "shivam", Project: "aws"})
	w.agent(a, func(s *agentSim) { s.cut = false }).caughtUp()
	_, rev, err := w.directory.DeleteGrant(t.Context(), g.Id)
	if err != nil {
		t.Fatal(err)
	}
	begun := time.Now()
	_, agents := w.effects(rev)
	if len(agents) != 1 || !agents[0].Unreachable || !strings.Contains(agents[0].Problem, "did not confirm") || agents[0].ExecStaleAt == nil {
		t.Error(lines(agents))
	}
	if took := time.Since(begun); took < 300*time.Millisecond {
		t.Errorf("said after %s", took)
	}
}

func TestCutIsSaidWhileCleaningTakesLonger(t *testing.T) {
	w := newWorld(t)
	w.project("aws")
	_, a := w.cluster("edge-1", "aws")
	w.user("shivam")
	g, _ := w.grant(directory.GrantSpec{Role: policy.View, User: "shivam", Project: "aws"})
	s := w.agent(a, func(s *agentSim) { s.clean = false })
	s.caughtUp()
	_, rev, err := w.directory.DeleteGrant(t.Context(), g.Id)
	if err != nil {
		t.Fatal(err)
	}
	var said []*apiv1.AgentEffect
	err = w.hub.Effects(t.Context(), rev, func(e *apiv1.Effect) error {
		m := e.GetAgent()
		if m == nil {
			return nil
		}
		said = append(said, m)
		if len(said) == 1 { // only now does it finish
			s.confirm(rev, true)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(said) != 2 || said[0].CutMs == 0 || said[0].CleanMs != 0 || said[1].CleanMs <= said[0].CutMs || said[1].CutMs != said[0].CutMs {
		t.Error(lines(said))
	}
}

func TestProblemOfAnAgentIsPassedOn(t *testing.T) {
	w := newWorld(t)
	w.project("aws")
	_, a := w.cluster("edge-1", "aws")
	w.user("shivam")
	g, _ := w.grant(directory.GrantSpec{Role: policy.View, User: "shivam", Project: "aws"})
	s := w.agent(a, func(s *agentSim) { s.clean = false })
	s.caughtUp()
	s.mu.Lock()
	s.problem = "the apiserver did not answer"
	s.mu.Unlock()
	_, rev, err := w.directory.DeleteGrant(t.Context(), g.Id)
	if err != nil {
		t.Fatal(err)
	}
	_, agents := w.effects(rev)
	if len(agents) != 1 || agents[0].Problem != "the apiserver did not answer" || agents[0].CutMs == 0 || agents[0].CleanMs != 0 {
		t.Error(lines(agents))
	}
	if w.hub.Problem(a.Id) == "" {
		t.Error("problem forgotten")
	}
}

func TestLaterBundleConfirmsAnEarlierChange(t *testing.T) {
	w := newWorld(t)
	w.project("aws")
	_, a := w.cluster("edge-1", "aws")
	w.user("shivam")
	w.user("virat")
	g, _ := w.grant(directory.GrantSpec{Role: policy.View, User: "shivam", Project: "aws"})
	s := w.agent(a)
	s.caughtUp()
	gate := make(chan struct{})
	s.mu.Lock()
	s.gate = gate
	s.mu.Unlock()
	_, rev, err := w.directory.DeleteGrant(t.Context(), g.Id)
	if err != nil {
		t.Fatal(err)
	}
	w.settle()
	w.grant(directory.GrantSpec{Role: policy.View, User: "virat", Project: "aws"})
	w.settle()
	close(gate)
	if _, agents := w.effects(rev); len(agents) != 1 || agents[0].CutMs == 0 {
		t.Error(lines(agents))
	}
}

func TestRetiredClusterIsCleanedBeforeItGoes(t *testing.T) {
	w := newWorld(t)
	w.project("aws")
	c, a := w.cluster("edge-1", "aws")
	u := w.user("shivam")
	d, _ := w.login(u, time.Hour)
	w.grant(directory.GrantSpec{Role: policy.View, User: "shivam", Project: "aws"})
	s := w.agent(a, func(s *agentSim) { s.clean = false })
	w.eventually("the edge is there", func() bool { return w.reaches(d, a) })
	_, rev, err := w.directory.RetireCluster(t.Context(), "edge-1")
	if err != nil {
		t.Fatal(err)
	}
	w.eventually("nobody may do anything there", func() bool { return !s.allows(u) })
	w.eventually("the edge is gone", func() bool { return !w.reaches(d, a) })
	unclean := func() int {
		ids, err := w.hub.Unclean(t.Context(), c.Id)
		if err != nil {
			t.Fatal(err)
		}
		return len(ids)
	}
	if unclean() != 1 {
		t.Error("the cluster counts as clean before its agent said so")
	}
	s.confirm(s.held(), true)
	if _, agents := w.effects(rev); len(agents) != 1 || agents[0].CleanMs == 0 || agents[0].Problem != "" {
		t.Error(lines(agents))
	}
	if unclean() != 0 {
		t.Error("the agent is not believed")
	}
	// Nothing brings access back.
	w.grant(directory.GrantSpec{Role: policy.Edit, User: "shivam", Cluster: "edge-1"})
	w.settle()
	if s.allows(u) {
		t.Error("a new grant opened a cluster that is being removed")
	}
	if _, _, err := w.directory.CreateJoinToken(t.Context(), "edge-1", time.Hour); err == nil {
		t.Error("an agent could join a cluster that is being removed")
	}
}

func TestDeletedClusterIsToldToRefuseEverything(t *testing.T) {
	w := newWorld(t)
	w.project("aws")
	_, a := w.cluster("edge-1", "aws")
	u := w.user("shivam")
	d, _ := w.login(u, time.Hour)
	w.grant(directory.GrantSpec{Role: policy.View, User: "shivam", Project: "aws"})
	s := w.agent(a)
	s.caughtUp()
	w.eventually("the edge is there", func() bool { return w.reaches(d, a) })
	s.mu.Lock()
	s.cut = false // its certificate is nobody's any more: no confirmation gets through
	s.mu.Unlock()
	_, rev, err := w.directory.DeleteCluster(t.Context(), "edge-1")
	if err != nil {
		t.Fatal(err)
	}
	_, agents := w.effects(rev)
	if len(agents) != 1 || agents[0].Cluster != "edge-1" || agents[0].Problem == "" {
		t.Error(lines(agents))
	}
	w.eventually("nobody may do anything there", func() bool { return !s.allows(u) })
	w.eventually("the edge is gone", func() bool { return !w.reaches(d, a) })
	if _, there := w.topology.Load().Members[a.Id]; there {
		t.Error("the agent is still a member")
	}
}

func TestRepeatedConfirmationChangesNothing(t *testing.T) {
	w := newWorld(t)
	w.project("aws")
	_, a := w.cluster("edge-1", "aws")
	w.user("shivam")
	g, _ := w.grant(directory.GrantSpec{Role: policy.View, User: "shivam", Project: "aws"})
	s := w.agent(a)
	s.caughtUp()
	_, rev, err := w.directory.DeleteGrant(t.Context(), g.Id)
	if err != nil {
		t.Fatal(err)
	}
	_, first := w.effects(rev)
	for range 3 {
		if err := w.hub.Confirm(a.Id, &apiv1.ConfirmRequest{Revision: rev, CutAt: timestamppb.Now(), CleanAt: timestamppb.Now()}); err != nil {
			t.Fatal(err)
		}
	}
	if _, again := w.effects(rev); lines(again) != lines(first) {
		t.Errorf("%s\nbecame\n%s", lines(first), lines(again))
	}
	// Nor does a late word about an earlier bundle. What is confirmed may be above
	// rev: one bundle can hold several commits.
	before := w.hub.AgentStatus(a.Id).ConfirmedRevision
	if before < rev {
		t.Errorf("confirmed %d, not %d", before, rev)
	}
	if err := w.hub.Confirm(a.Id, &apiv1.ConfirmRequest{Revision: 1, CutAt: timestamppb.Now()}); err != nil {
		t.Fatal(err)
	}
	if st := w.hub.AgentStatus(a.Id); st.ConfirmedRevision < before {
		t.Errorf("confirmed went back from %d to %d", before, st.ConfirmedRevision)
	}
}
