package publish

import (
	"context"
	"fmt"
	"slices"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	apiv1 "github.com/sallyport-mesh/sallyport/pkg/api/sallyport/v1"
)

// How long Effects waits for an agent that has cut: so long before it says so,
// to save a line where cleaning is quick, and so long in all.
const (
	cleanSoon = 500 * time.Millisecond
	cleanLate = 20 * time.Second
)

// Effects streams what the commit of a revision did: first that it is committed,
// then a message for each agent concerned, in the order they answer, and a
// second one where cleaning took longer than cutting by more than half a second.
// It returns when every one has cleaned, or was named as not reached, not
// answering or not done. Times run from the commit until the confirmation came
// in, all by the coordinator's clock.
func (h *Hub) Effects(ctx context.Context, revision uint64, send func(*apiv1.Effect) error) error {
	if err := h.look(ctx); err != nil {
		return fmt.Errorf("waiting for revision %d to be published: %w", revision, err)
	}
	st, ok := h.stepOf(revision)
	if !ok && h.isBehind() {
		return fmt.Errorf("revision %d is committed, but could not be published to any agent yet", revision)
	}
	var waiting []*waiter
	for _, c := range st.changed {
		for _, a := range c.agents {
			waiting = append(waiting, &waiter{agent: a, cluster: c})
		}
	}
	at := st.at
	if !ok {
		at = h.cfg.Now()
	}
	err := send(&apiv1.Effect{Kind: &apiv1.Effect_Committed{Committed: &apiv1.Committed{
		Revision: revision, Agents: uint32(len(waiting)), At: timestamppb.New(at),
	}}})
	if err != nil {
		return err
	}
	begun := h.cfg.Now()
	for len(waiting) > 0 {
		messages, changed, again := h.glance(waiting, at, begun)
		for _, m := range messages {
			if err := send(&apiv1.Effect{Kind: &apiv1.Effect_Agent{Agent: m}}); err != nil {
				return err
			}
		}
		waiting = slices.DeleteFunc(waiting, func(w *waiter) bool { return w.done })
		if len(waiting) == 0 {
			return nil
		}
		timer := time.NewTimer(again)
		select {
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		case <-changed:
		case <-timer.C:
		}
		timer.Stop()
	}
	return nil
}

// waiter is an agent that Effects waits for.
type waiter struct {
	agent   *agent
	cluster changedCluster
	told    bool // that it has cut
	done    bool
}

// Unclean lists the agents of a cluster that have not said that its newest policy
// is in force and everything else gone from the cluster.
func (h *Hub) Unclean(ctx context.Context, clusterID string) ([]string, error) {
	if err := h.look(ctx); err != nil {
		return nil, fmt.Errorf("waiting for the policy to be published: %w", err)
	}
	s := h.cfg.Directory.Snapshot()
	h.mu.Lock()
	defer h.mu.Unlock()
	c := h.clusters[clusterID]
	var out []string
	for _, x := range s.AgentsOf(clusterID) {
		clean := false
		if a := h.agents[x.GetId()]; a != nil && c != nil {
			_, clean = reached(a.cleans, c.revision)
		}
		if !clean {
			out = append(out, x.GetId())
		}
	}
	return out, nil
}

func (h *Hub) stepOf(revision uint64) (step, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, st := range h.steps {
		if st.from < revision && revision <= st.to {
			return st, true
		}
	}
	return step{}, false
}

// glance looks once at everyone who is waited for. It returns what is to be said,
// a channel that is closed when there may be more, and when to look again
// anyway.
func (h *Hub) glance(waiting []*waiter, committed, begun time.Time) (out []*apiv1.AgentEffect, changed <-chan struct{}, again time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	now := h.cfg.Now()
	for _, w := range waiting {
		if m := h.effectLocked(w, committed, now, now.Sub(begun)); m != nil {
			out = append(out, m)
		}
	}
	return out, h.changed, 100 * time.Millisecond
}

// effectLocked says what has become of one agent, or nil if there is nothing
// new.
func (h *Hub) effectLocked(w *waiter, committed, now time.Time, waited time.Duration) *apiv1.AgentEffect {
	a := w.agent
	m := &apiv1.AgentEffect{Cluster: w.cluster.name, AgentId: a.id}
	ms := func(c confirmation) float64 { return max(float64(c.at.Sub(committed).Microseconds())/1000, 0.001) }
	cut, isCut := reached(a.cuts, w.cluster.revision)
	clean, isClean := reached(a.cleans, w.cluster.revision)
	if isCut {
		m.CutMs, m.CutStreams = ms(cut), cut.streams
	}
	if a.problemOf >= w.cluster.revision {
		m.Problem = a.problem
	}
	switch {
	case isCut && isClean:
		w.done, m.CleanMs = true, ms(clean)
	case isCut && m.Problem != "":
		w.done = true
	case isCut && now.Sub(cut.at) > cleanLate:
		w.done, m.Problem = true, fmt.Sprintf("not clean after %s: accounts or bindings may still stand there", cleanLate)
	case isCut:
		if w.told || now.Sub(cut.at) < cleanSoon {
			return nil
		}
		w.told = true
	case len(a.streams) == 0:
		// One that lost its stream a moment ago is coming back.
		if waited <= h.cfg.Patience && now.Sub(a.lastSeen) <= h.cfg.Patience {
			return nil
		}
		w.done, m.Unreachable = true, true
		h.staleLocked(m, a, w.cluster)
	case w.cluster.gone:
		w.done, m.Problem = true, "it was told to refuse everything, and is not listened to any more"
	case m.Problem != "":
		w.done = true
	case waited > h.cfg.Patience:
		w.done, m.Unreachable = true, true
		m.Problem = fmt.Sprintf("connected, but it did not confirm within %s", h.cfg.Patience)
		h.staleLocked(m, a, w.cluster)
	default:
		return nil
	}
	return m
}

// Staleness budgets, in seconds, of a cluster that has not set its own. Agents
// have the same.
const (
	readBudget  = 24 * 60 * 60
	writeBudget = 4 * 60 * 60
	execBudget  = 15 * 60
)

// staleLocked says when an agent that cannot be reached refuses by itself. What
// it heard last before this coordinator started is not known: at the latest, it
// was then.
func (h *Hub) staleLocked(m *apiv1.AgentEffect, a *agent, c changedCluster) {
	last := h.started
	if !a.lastSeen.IsZero() {
		m.LastSeen = timestamppb.New(a.lastSeen)
	}
	if !a.lastBeat.IsZero() {
		last = a.lastBeat
	}
	after := func(seconds, otherwise uint32) *timestamppb.Timestamp {
		if seconds == 0 {
			seconds = otherwise
		}
		return timestamppb.New(last.Add(time.Duration(seconds) * time.Second))
	}
	m.ReadStaleAt = after(c.budgets.GetReadSeconds(), readBudget)
	m.WriteStaleAt = after(c.budgets.GetWriteSeconds(), writeBudget)
	m.ExecStaleAt = after(c.budgets.GetExecSeconds(), execBudget)
}
