package auditstore

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	apiv1 "github.com/sallyport-mesh/sallyport/pkg/api/sallyport/v1"
	"github.com/sallyport-mesh/sallyport/pkg/audit"
)

var day = time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)

// request builds the records of one request.
type request struct {
	id, user, device, verb, resource, sub, ns, name string
	minute                                          int
	decision                                        audit.Decision
}

func (r request) event(stage audit.Stage) *audit.Event {
	res, group, _ := strings.Cut(r.resource, ".")
	e := &audit.Event{
		AuditID: r.id, Stage: stage, Verb: r.verb, User: audit.User{Username: r.user, UID: "usr-" + r.user},
		RequestReceivedTimestamp: audit.At(day.Add(time.Duration(r.minute) * time.Minute)),
		Ext:                      audit.Ext{Kind: audit.KindRequest, Device: r.device, Decision: r.decision},
	}
	e.StageTimestamp = e.RequestReceivedTimestamp
	if res != "" {
		e.ObjectRef = &audit.ObjectRef{Resource: res, APIGroup: group, Subresource: r.sub, Namespace: r.ns, Name: r.name}
	}
	if stage == audit.StageComplete {
		e.ResponseStatus = &audit.Status{Code: 200}
	}
	return e
}

func (r request) intent() *audit.Event  { return r.event(audit.StageReceived) }
func (r request) outcome() *audit.Event { return r.event(audit.StageComplete) }

// world is a small history: two clusters of aws, one of gcp.
func world(t testing.TB) (*Store, *place, map[string]*agent) {
	p := newPlace(t)
	s := p.open(t)
	t.Cleanup(func() { closeStore(t, s) })
	agents := map[string]*agent{}
	for _, c := range []string{"edge-1", "edge-2", "edge-3"} {
		agents[c] = newAgent(t, "agt-"+c, c)
	}
	agents["edge-3"].src.Project = Named{"prj-gcp", "gcp"}
	get := request{"get", "shivam", "dev-1", "get", "pods", "", "default", "web", 1, audit.Allow}
	del := request{"del", "shivam", "dev-1", "delete", "deployments.apps", "", "default", "nginx", 2, audit.Allow}
	exec := request{"exec", "virat", "dev-2", "create", "pods", "exec", "team-a", "db", 3, audit.Allow}
	deny := request{"deny", "shivam", "dev-3", "get", "secrets", "", "team-a", "x", 4, audit.Deny}
	scale := request{"scale", "virat", "dev-2", "patch", "deployments.apps", "scale", "default", "nginx", 5, audit.Allow}
	path := request{"path", "alice", "dev-4", "get", "", "", "", "", 6, audit.Allow}
	agents["edge-1"].add(get.intent(), del.intent(), get.outcome(), del.outcome(), exec.intent())
	agents["edge-2"].add(deny.outcome(), scale.intent(), scale.outcome())
	agents["edge-3"].add(path.intent(), path.outcome())
	for _, a := range agents {
		a.mustAppend(t, s, p, 0, len(a.records))
	}
	login := request{"login", "alice", "", "", "", "", "", "", 7, audit.Allow}
	if err := s.Own(t.Context(), login.outcome()); err != nil {
		t.Fatal(err)
	}
	return s, p, agents
}

func search(t testing.TB, s *Store, q Query) (ids []string) {
	t.Helper()
	err := s.Search(t.Context(), q, func(r *apiv1.AuditRecord) error {
		e, err := audit.Decode(r.GetIntent())
		if err != nil {
			return err
		}
		ids = append(ids, e.AuditID)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return ids
}

func TestSearchFindsByEveryField(t *testing.T) {
	s, _, _ := world(t)
	for name, c := range map[string]struct {
		q    Query
		want string
	}{
		"everything, newest first":  {Query{}, "path scale deny exec del get"},
		"limit":                     {Query{Limit: 2}, "path scale"},
		"user by name":              {Query{User: "shivam"}, "deny del get"},
		"user by id":                {Query{User: "usr-virat"}, "scale exec"},
		"nobody":                    {Query{User: "shiv"}, ""},
		"device":                    {Query{Device: "dev-1"}, "del get"},
		"device of another user":    {Query{Device: "dev-1", User: "virat"}, ""},
		"cluster by name":           {Query{Clusters: []string{"edge-1"}}, "exec del get"},
		"cluster by id":             {Query{Clusters: []string{"cls-edge-2"}}, "scale deny"},
		"clusters":                  {Query{Clusters: []string{"edge-1", "edge-3"}}, "path exec del get"},
		"no cluster at all":         {Query{Clusters: []string{}}, ""},
		"no cluster, own log too":   {Query{Clusters: []string{}, Log: "all"}, ""},
		"project":                   {Query{Project: "gcp"}, "path"},
		"project by id":             {Query{Project: "prj-aws"}, "scale deny exec del get"},
		"namespace":                 {Query{Namespace: "team-a"}, "deny exec"},
		"resource":                  {Query{Resource: "pods"}, "exec get"},
		"resource and subresource":  {Query{Resource: "pods", Subresource: "exec"}, "exec"},
		"subresource alone":         {Query{Subresource: "scale"}, "scale"},
		"resource and verb":         {Query{Resource: "deployments", Verb: "delete"}, "del"},
		"part of a resource's name": {Query{Resource: "pod"}, ""},
		"verb":                      {Query{Verb: "get"}, "path deny get"},
		"name":                      {Query{Name: "nginx"}, "scale del"},
		"decision":                  {Query{Decision: audit.Deny}, "deny"},
		"since":                     {Query{Since: day.Add(4 * time.Minute)}, "path scale deny"},
		"until":                     {Query{Until: day.Add(4 * time.Minute)}, "exec del get"},
		"between, of a user":        {Query{User: "shivam", Since: day.Add(2 * time.Minute), Until: day.Add(4 * time.Minute)}, "del"},
		"a second ahead of all":     {Query{Until: day.Add(time.Minute)}, ""},
		"scenario B": {
			Query{User: "shivam", Project: "aws", Verb: "delete", Resource: "deployments", Name: "nginx", Since: day}, "del",
		},
		"own log":         {Query{Log: "coordinator"}, "login"},
		"own log, a user": {Query{Log: "coordinator", User: "alice"}, "login"},
		"all logs":        {Query{Log: "all", User: "alice"}, "login path"},
	} {
		if got := strings.Join(search(t, s, c.q), " "); got != c.want {
			t.Errorf("%s: got %q, want %q", name, got, c.want)
		}
	}
}

func TestSearchJoinsOutcomesAndShowsWhatRuns(t *testing.T) {
	s, p, agents := world(t)
	find := func(id string) (found *apiv1.AuditRecord) {
		t.Helper()
		err := s.Search(t.Context(), Query{}, func(r *apiv1.AuditRecord) error {
			if e, _ := audit.Decode(r.GetIntent()); e.AuditID == id {
				found = r
			}
			return nil
		})
		if err != nil || found == nil {
			t.Fatal(id, err)
		}
		return found
	}
	a := agents["edge-1"]
	if r := find("get"); string(r.GetIntent()) != string(a.records[0]) || string(r.GetOutcome()) != string(a.records[2]) ||
		r.GetLog() != a.origin || r.GetSeq() != 0 || r.GetCluster() != "edge-1" || r.GetProject() != "aws" {
		t.Errorf("%v", r)
	}
	if r := find("exec"); len(r.GetOutcome()) != 0 {
		t.Error("a running exec has an outcome")
	}
	a.add(request{"exec", "virat", "dev-2", "create", "pods", "exec", "team-a", "db", 30, audit.Allow}.outcome())
	a.mustAppend(t, s, p, 5, 6)
	if r := find("exec"); string(r.GetOutcome()) != string(a.records[5]) {
		t.Error("the outcome that came with a later batch is not joined")
	}
	if r := find("deny"); len(r.GetOutcome()) != 0 || !strings.Contains(string(r.GetIntent()), `"stage":"ResponseComplete"`) {
		t.Error("a refusal is not one record")
	}
}

func TestUserIsFoundByAnOldNameAndUnderAnyAgentsClock(t *testing.T) {
	p := newPlace(t)
	s := p.open(t)
	defer closeStore(t, s)
	a := newAgent(t, "agt-a", "edge-1")
	renamed := request{"new", "shivam", "d", "get", "pods", "", "n", "p", 2, audit.Allow}.intent()
	renamed.User.Username = "shivam.k"
	future := request{"future", "shivam", "d", "get", "pods", "", "n", "p", 1 << 24, audit.Allow}.intent()
	ancient := request{"ancient", "shivam", "d", "get", "pods", "", "n", "p", 0, audit.Allow}.intent()
	ancient.RequestReceivedTimestamp = audit.At(time.Date(1903, 1, 1, 0, 0, 0, 0, time.UTC))
	a.add(request{"old", "shivam", "d", "get", "pods", "", "n", "p", 1, audit.Allow}.intent(), renamed, ancient, future)
	a.mustAppend(t, s, p, 0, 4)
	for _, name := range []string{"shivam", "shivam.k", "usr-shivam"} {
		if got := search(t, s, Query{User: name}); !slices.Equal(got, []string{"future", "new", "old", "ancient"}) {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func TestUnreadableRecordDoesNotBlockTheRest(t *testing.T) {
	p := newPlace(t)
	s := p.open(t)
	defer closeStore(t, s)
	a := newAgent(t, "agt-a", "edge-1")
	a.add(event("before", audit.StageReceived))
	a.records = append(a.records, []byte("\xff not json"), []byte(`{"auditID":"a","auditID":"b"}`))
	long := event(strings.Repeat("x", 3000), audit.StageReceived)
	long.User.UID, long.User.Username, long.Ext.Device = strings.Repeat("u", 2000), "with\x00zero", strings.Repeat("d", 2000)
	long.ObjectRef.Resource = strings.Repeat("r", 2000)
	a.add(long, event("after", audit.StageReceived))
	a.mustAppend(t, s, p, 0, 5)
	same(t, stored(t, s, a.origin), a.records)
	var n int
	if err := s.Search(t.Context(), Query{Clusters: []string{"edge-1"}}, func(*apiv1.AuditRecord) error { n++; return nil }); err != nil || n != 5 {
		t.Errorf("%d found, %v", n, err)
	}
	for name, q := range map[string]Query{
		"user": {User: long.User.UID}, "user's name": {User: "with\x00zero"}, "device": {Device: long.Ext.Device}, "resource": {Resource: long.ObjectRef.Resource},
	} {
		if got := search(t, s, q); len(got) != 1 {
			t.Errorf("by %s: %d found", name, len(got))
		}
	}
}

func TestFollowSendsEachArrivalOnceInOrder(t *testing.T) {
	s, p, agents := world(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	got := make(chan string, 100)
	ended := make(chan error, 1)
	go func() {
		ended <- s.Search(ctx, Query{User: "virat", Follow: true}, func(r *apiv1.AuditRecord) error {
			e, err := audit.Decode(r.GetIntent())
			if err != nil {
				return err
			}
			if len(r.GetOutcome()) > 0 {
				got <- e.AuditID + "+"
			} else {
				got <- e.AuditID
			}
			return nil
		})
	}()
	want := func(ids ...string) {
		t.Helper()
		for _, id := range ids {
			select {
			case g := <-got:
				if g != id {
					t.Fatalf("got %s, want %s", g, id)
				}
			case <-time.After(20 * time.Second):
				t.Fatalf("%s did not come", id)
			}
		}
	}
	want("scale+", "exec")
	a := agents["edge-1"]
	r := func(id, user string, minute int) request {
		return request{id, user, "d", "get", "pods", "", "n", "p", minute, audit.Allow}
	}
	a.add(r("late", "virat", -500).intent(), r("other", "shivam", 40).intent())
	a.mustAppend(t, s, p, 5, 7)
	want("late")
	a.add(r("late", "virat", -500).outcome(), r("exec", "virat", 3).outcome(), r("both", "virat", 50).intent(), r("both", "virat", 50).outcome())
	a.mustAppend(t, s, p, 4, 11) // an overlap is not sent again
	want("late+", "exec+", "both+", "both+")
	if err := s.Own(t.Context(), r("own", "virat", 1).outcome()); err != nil { // not asked for
		t.Fatal(err)
	}
	cancel()
	if err := <-ended; err != nil || len(got) != 0 {
		t.Errorf("%v, %d more", err, len(got))
	}
}

func TestFollowMissesNothingThatArrivesWhileItBegins(t *testing.T) {
	p := newPlace(t)
	s := p.open(t)
	defer closeStore(t, s)
	const n = 300
	a := newAgent(t, "agt-a", "edge-1").fill(n)
	sent := make(chan error, 1)
	go func() {
		for i := range n {
			if _, err := s.Append(context.Background(), a.src, a.request(t, i, i+1)); err != nil {
				sent <- err
				return
			}
		}
		sent <- nil
	}()
	seen := map[string]int{}
	done := errors.New("done")
	for s.Size("agt-a") < n/10 {
		<-s.news.wait()
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	err := s.Search(ctx, Query{Limit: n, Follow: true}, func(r *apiv1.AuditRecord) error {
		e, err := audit.Decode(r.GetIntent())
		if err != nil {
			return err
		}
		if seen[e.AuditID]++; len(seen) == n {
			return done
		}
		return nil
	})
	if !errors.Is(err, done) {
		t.Fatalf("%v, %d seen", err, len(seen))
	}
	if err := <-sent; err != nil {
		t.Fatal(err)
	}
	for id, times := range seen {
		if times != 1 {
			t.Errorf("%s came %d times", id, times)
		}
	}
}

func TestFollowEndsWithTheStore(t *testing.T) {
	p := newPlace(t)
	s := p.open(t)
	ended, begun := make(chan error, 1), make(chan struct{})
	if err := s.Own(t.Context(), event("x", audit.StageComplete)); err != nil {
		t.Fatal(err)
	}
	go func() {
		ended <- s.Search(t.Context(), Query{Log: "all", Follow: true}, func(*apiv1.AuditRecord) error { close(begun); return nil })
	}()
	<-begun
	closeStore(t, s)
	if err := <-ended; !errors.Is(err, ErrClosed) {
		t.Error(err)
	}
}

func TestManyLogsAreSearchedThroughTime(t *testing.T) {
	p := newPlace(t)
	s := p.open(t)
	defer closeStore(t, s)
	for i := range maxMerge + 10 {
		a := newAgent(t, fmt.Sprint("agt-", i), fmt.Sprint("edge-", i))
		a.add(request{fmt.Sprint("r", i), "u", "d", "get", "pods", "", "n", "p", i, audit.Allow}.intent())
		a.mustAppend(t, s, p, 0, 1)
	}
	if got := search(t, s, Query{Project: "aws", Limit: 1000}); len(got) != maxMerge+10 || got[0] != fmt.Sprint("r", maxMerge+9) {
		t.Errorf("%d: %v", len(got), got)
	}
}

func TestQueryOfTakesWhatTheCallerMaySee(t *testing.T) {
	req := &apiv1.SearchAuditRequest{
		User: "u", Device: "d", Cluster: "c", Project: "p", Namespace: "n", Resource: "r", Subresource: "s", Name: "x", Verb: "v",
		Decision: "deny", Since: timestamppb.New(day), Until: timestamppb.New(day.Add(time.Hour)), Limit: 1 << 31, Log: "all", Follow: true,
	}
	q := QueryOf(req, nil)
	want := Query{
		User: "u", Device: "d", Namespace: "n", Resource: "r", Subresource: "s", Name: "x", Verb: "v", Decision: audit.Deny,
		Clusters: []string{"c"}, Project: "p", Log: "all", Since: day, Until: day.Add(time.Hour), Limit: maxLimit, Follow: true,
	}
	if fmt.Sprint(q) != fmt.Sprint(want) {
		t.Errorf("%+v", q)
	}
	if q := QueryOf(req, []string{}); q.Clusters == nil || len(q.Clusters) != 0 || q.Project != "" {
		t.Errorf("narrowed to nothing: %+v", q)
	}
}
