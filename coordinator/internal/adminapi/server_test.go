package adminapi

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"

	"github.com/sallyport-mesh/sallyport/coordinator/internal/caller"
	"github.com/sallyport-mesh/sallyport/coordinator/internal/directory"
	"github.com/sallyport-mesh/sallyport/coordinator/internal/publish"
	"github.com/sallyport-mesh/sallyport/coordinator/internal/store/storetest"
	apiv1 "github.com/sallyport-mesh/sallyport/pkg/api/sallyport/v1"
	"github.com/sallyport-mesh/sallyport/pkg/api/sallyport/v1/apiv1connect"
	"github.com/sallyport-mesh/sallyport/pkg/apiclient"
	"github.com/sallyport-mesh/sallyport/pkg/audit"
	"github.com/sallyport-mesh/sallyport/pkg/policy"
)

// service is the admin service on a real directory, called over HTTP by whoever
// the test says.
type service struct {
	apiv1connect.AdminServiceClient
	dir *directory.Directory

	mu       sync.Mutex
	caller   *caller.Caller
	records  []*audit.Event
	diskErr  error
	unclean  []string // agents that have not confirmed
	onRecord func(*audit.Event)
}

func newService(t *testing.T) *service {
	t.Helper()
	dir, err := directory.Open(t.Context(), directory.Config{Store: storetest.New(t), Builtin: policy.Builtin()})
	if err != nil {
		t.Fatal(err)
	}
	s := &service{dir: dir, caller: &caller.Caller{Local: true}}
	server := New(Config{
		Directory: dir,
		Effects: func(_ context.Context, rev uint64, send func(*apiv1.Effect) error) error {
			return send(&apiv1.Effect{Kind: &apiv1.Effect_Committed{Committed: &apiv1.Committed{Revision: rev}}})
		},
		Unclean: func(context.Context, string) ([]string, error) {
			s.mu.Lock()
			defer s.mu.Unlock()
			return s.unclean, nil
		},
		Agent:          func(string) *apiv1.AgentStatus { return &apiv1.AgentStatus{} },
		Addresses:      func(string) (bool, []string) { return false, nil },
		BundleRevision: func(string) uint64 { return 0 },
		Search: func(ctx context.Context, req *apiv1.SearchAuditRequest, clusters []string, send func(*apiv1.AuditRecord) error) error {
			err := send(&apiv1.AuditRecord{Cluster: strings.Join(clusters, ",")})
			if req.Follow && err == nil {
				<-ctx.Done()
				err = ctx.Err()
			}
			return err
		},
		Find:   s.find,
		CA:     func() *apiv1.CAInfo { return &apiv1.CAInfo{TrustDomain: "example.test"} },
		Forget: func(context.Context, string) error { return nil },
		Bundle: func(snap *directory.Snapshot, clusterID string) *apiv1.Bundle {
			return publish.BundleFor(snap, clusterID, publish.Issuer{TrustDomain: "example.test"})
		},
		Record: func(_ context.Context, e *audit.Event) error {
			s.mu.Lock()
			defer s.mu.Unlock()
			if s.diskErr != nil {
				return s.diskErr
			}
			s.records = append(s.records, e)
			if s.onRecord != nil {
				s.onRecord(e)
			}
			return nil
		},
		JoinToken:  func(secret string) string { return "token:" + secret },
		WelcomeURL: func(secret string) string { return "https://example.test/welcome?token=" + secret },
		Log:        slog.Default(),
	})
	_, handler := apiv1connect.NewAdminServiceHandler(server)
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		c := s.caller
		s.mu.Unlock()
		handler.ServeHTTP(w, r.WithContext(caller.With(r.Context(), c)))
	}))
	t.Cleanup(web.Close)
	s.AdminServiceClient = apiv1connect.NewAdminServiceClient(web.Client(), web.URL)
	return s
}

// as makes the calls that follow come from a user.
func (s *service) as(t *testing.T, name string) {
	t.Helper()
	u, err := s.dir.Snapshot().User(name)
	if err != nil {
		t.Fatal(err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	c := &caller.Caller{User: u}
	for _, session := range s.dir.Snapshot().SessionsOf(u.Id) {
		c.Session, c.Device = session, s.dir.Snapshot().Devices[session.DeviceId]
	}
	s.caller = c
}

// find knows one request of each project, by the project's name.
func (s *service) find(_ context.Context, auditID string) (*apiv1.AuditRecord, string, error) {
	p, err := s.dir.Snapshot().Project(auditID)
	if err != nil {
		return nil, "", nil
	}
	return &apiv1.AuditRecord{Project: p.Name}, p.Id, nil
}

func must[T any](t *testing.T) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// fill adds what the tests work on: projects aws and gcp with a cluster each,
// virat who manages aws, shivam who is nobody.
func (s *service) fill(t *testing.T) {
	t.Helper()
	ctx := t.Context()
	for _, name := range []string{"alice", "virat", "shivam"} {
		must[*connect.Response[apiv1.CreateUserResponse]](t)(s.CreateUser(ctx, connect.NewRequest(&apiv1.CreateUserRequest{Name: name})))
	}
	for _, p := range []string{"aws", "gcp"} {
		must[*connect.Response[apiv1.Project]](t)(s.CreateProject(ctx, connect.NewRequest(&apiv1.CreateProjectRequest{Name: p})))
		must[*connect.Response[apiv1.CreateClusterResponse]](t)(s.CreateCluster(ctx, connect.NewRequest(&apiv1.CreateClusterRequest{Name: "edge-" + p, Project: p, Ceiling: "admin"})))
	}
	must[*connect.Response[apiv1.BindAdminResponse]](t)(s.BindAdmin(ctx, connect.NewRequest(&apiv1.BindAdminRequest{User: "virat", Role: "project-manager", Project: "aws"})))
	must[*connect.Response[apiv1.BindAdminResponse]](t)(s.BindAdmin(ctx, connect.NewRequest(&apiv1.BindAdminRequest{User: "alice", Role: "administrator"})))
}

func (s *service) suspend(t *testing.T, user, project string) error {
	t.Helper()
	stream, err := s.SuspendUser(t.Context(), connect.NewRequest(&apiv1.SuspendUserRequest{User: user, Project: project}))
	if err != nil {
		return err
	}
	defer stream.Close()
	for stream.Receive() {
	}
	return stream.Err()
}

func TestProjectManagerSuspendsOnlyInTheProject(t *testing.T) {
	s := newService(t)
	s.fill(t)
	s.as(t, "virat")
	if err := s.suspend(t, "shivam", "aws"); err != nil {
		t.Errorf("in the own project: %v", err)
	}
	for _, project := range []string{"gcp", "", "no-such-project"} {
		if err := s.suspend(t, "shivam", project); connect.CodeOf(err) != connect.CodePermissionDenied {
			t.Errorf("in %q: %v", project, err)
		}
	}
	snap := s.dir.Snapshot()
	shivam := must[*apiv1.User](t)(snap.User("shivam"))
	if shivam.Suspended || len(must[*apiv1.Project](t)(snap.Project("gcp")).SuspendedUserIds) != 0 {
		t.Error("a refused suspension took effect")
	}
	if got := must[*apiv1.Project](t)(snap.Project("aws")).SuspendedUserIds; len(got) != 1 || got[0] != shivam.Id {
		t.Errorf("suspended in aws: %v", got)
	}
}

// What a manager may not read is not told apart from what does not exist.
func TestManagerSeesTheOwnProjectAlone(t *testing.T) {
	s := newService(t)
	s.fill(t)
	s.as(t, "virat")
	ctx := t.Context()
	clusters := must[*connect.Response[apiv1.ListClustersResponse]](t)(s.ListClusters(ctx, connect.NewRequest(&apiv1.ListClustersRequest{})))
	if len(clusters.Msg.Clusters) != 1 || clusters.Msg.Clusters[0].Cluster.Name != "edge-aws" {
		t.Errorf("virat sees %v", clusters.Msg.Clusters)
	}
	_, there := s.ListClusters(ctx, connect.NewRequest(&apiv1.ListClustersRequest{Project: "gcp"}))
	_, missing := s.ListClusters(ctx, connect.NewRequest(&apiv1.ListClustersRequest{Project: "xyz"}))
	if there == nil || missing == nil || strings.ReplaceAll(there.Error(), "gcp", "xyz") != missing.Error() {
		t.Errorf("a project that may not be seen says %v, one that is not there %v", there, missing)
	}
	stream := must[*connect.ServerStreamForClient[apiv1.AuditRecord]](t)(s.SearchAudit(ctx, connect.NewRequest(&apiv1.SearchAuditRequest{})))
	if want := must[*apiv1.Cluster](t)(s.dir.Snapshot().Cluster("edge-aws")).Id; !stream.Receive() || stream.Msg().Cluster != want {
		t.Errorf("a search without bounds covered %q (%v)", stream.Msg().GetCluster(), stream.Err())
	}
	for _, req := range []*apiv1.SearchAuditRequest{{Cluster: "edge-gcp"}, {Project: "gcp"}, {Log: "coordinator"}, {Log: "all"}} {
		stream, err := s.SearchAudit(ctx, connect.NewRequest(req))
		if err == nil {
			stream.Receive()
			err = stream.Err()
		}
		if connect.CodeOf(err) != connect.CodePermissionDenied {
			t.Errorf("search %v: %v", req, err)
		}
	}
}

func TestNobodyMayDoNothing(t *testing.T) {
	s := newService(t)
	s.fill(t)
	ctx := t.Context()
	s.as(t, "shivam")
	if _, err := s.ListUsers(ctx, connect.NewRequest(&apiv1.ListUsersRequest{})); connect.CodeOf(err) != connect.CodePermissionDenied {
		t.Errorf("a user without a role: %v", err)
	}
	s.mu.Lock()
	s.caller = &caller.Caller{Refused: caller.ErrNone}
	s.mu.Unlock()
	if _, err := s.ListUsers(ctx, connect.NewRequest(&apiv1.ListUsersRequest{})); connect.CodeOf(err) != connect.CodeUnauthenticated {
		t.Errorf("without a certificate: %v", err)
	}
	s.mu.Lock()
	s.caller = &caller.Caller{Agent: &apiv1.Agent{Id: "agt"}, Cluster: &apiv1.Cluster{}}
	s.mu.Unlock()
	if _, err := s.ListUsers(ctx, connect.NewRequest(&apiv1.ListUsersRequest{})); connect.CodeOf(err) != connect.CodeUnauthenticated {
		t.Errorf("with an agent's certificate: %v", err)
	}
}

func TestWhatCannotBePutOnRecordIsNotDone(t *testing.T) {
	s := newService(t)
	s.fill(t)
	s.mu.Lock()
	s.diskErr = errors.New("no space left on device")
	s.mu.Unlock()
	_, err := s.CreateGroup(t.Context(), connect.NewRequest(&apiv1.CreateGroupRequest{Name: "late"}))
	if connect.CodeOf(err) != connect.CodeUnavailable {
		t.Errorf("got %v", err)
	}
	if _, err := s.dir.Snapshot().Group("late"); err == nil {
		t.Error("the group was made")
	}
}

func TestEveryCallIsOnRecordWithItsOutcome(t *testing.T) {
	s := newService(t)
	s.fill(t)
	s.as(t, "virat")
	s.mu.Lock()
	s.records = nil
	s.mu.Unlock()
	if err := s.suspend(t, "shivam", "aws"); err != nil {
		t.Fatal(err)
	}
	if err := s.suspend(t, "shivam", "gcp"); err == nil {
		t.Fatal("not refused")
	}
	if err := s.suspend(t, "nobody-of-that-name", "aws"); connect.CodeOf(err) != connect.CodeNotFound {
		t.Fatal(err)
	}
	var got []string
	for _, e := range s.records {
		status := ""
		if e.ResponseStatus != nil {
			status = e.ResponseStatus.Reason
		}
		got = append(got, strings.Join([]string{e.User.Username, e.Ext.Kind, e.Ext.Target, string(e.Stage), string(e.Ext.Decision), status}, "|"))
	}
	want := []string{
		"virat|admin.access.suspend|user shivam in project aws|RequestReceived|allow|",
		"virat|admin.access.suspend|user shivam in project aws|ResponseComplete|allow|ok",
		"virat|admin.access.suspend|user shivam in project gcp|ResponseComplete|deny|",
		"virat|admin.access.suspend|user nobody-of-that-name in project aws|RequestReceived|allow|",
		"virat|admin.access.suspend|user nobody-of-that-name in project aws|ResponseComplete|allow|not_found",
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("records:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestErrorsCarryTheNextStep(t *testing.T) {
	s := newService(t)
	s.fill(t)
	ctx := t.Context()
	_, err := s.CreateUser(ctx, connect.NewRequest(&apiv1.CreateUserRequest{Name: "alice"}))
	if connect.CodeOf(err) != connect.CodeAlreadyExists {
		t.Errorf("a name that exists: %v", err)
	}
	_, err = s.CreateCluster(ctx, connect.NewRequest(&apiv1.CreateClusterRequest{Name: "edge-x", Project: "aws", Ceiling: "sky"}))
	var e *connect.Error
	if !errors.As(err, &e) || e.Code() != connect.CodeInvalidArgument || e.Meta().Get(apiclient.HintHeader) == "" {
		t.Errorf("an unknown ceiling: %v", err)
	}
	if _, err := s.dir.Snapshot().Cluster("edge-x"); err == nil {
		t.Error("a refused cluster was made")
	}
}

// What is decided at the beginning of a stream must go on to hold.
func TestFollowingTheAuditEndsWithTheRightToIt(t *testing.T) {
	ends := map[string]struct {
		change func(*service) error
		code   connect.Code
	}{
		"role taken away": {func(s *service) error {
			_, _, err := s.dir.UnbindAdmin(context.Background(), "virat", "project-manager", "aws")
			return err
		}, connect.CodePermissionDenied},
		"suspended": {func(s *service) error {
			_, _, err := s.dir.SuspendUser(context.Background(), "virat", "")
			return err
		}, connect.CodeUnauthenticated},
	}
	for name, tc := range ends {
		t.Run(name, func(t *testing.T) {
			s := newService(t)
			s.fill(t)
			virat := must[*apiv1.User](t)(s.dir.Snapshot().User("virat"))
			device, _, err := s.dir.EnrollDevice(t.Context(), directory.DeviceSpec{UserID: virat.Id, KeySHA256: [32]byte{1}, Name: "laptop"})
			if err != nil {
				t.Fatal(err)
			}
			if _, _, err := s.dir.CreateSession(t.Context(), virat.Id, device.Id, time.Hour); err != nil {
				t.Fatal(err)
			}
			s.as(t, "virat")
			stream := must[*connect.ServerStreamForClient[apiv1.AuditRecord]](t)(
				s.SearchAudit(t.Context(), connect.NewRequest(&apiv1.SearchAuditRequest{Project: "aws", Follow: true})))
			if !stream.Receive() {
				t.Fatal(stream.Err())
			}
			if err := tc.change(s); err != nil {
				t.Fatal(err)
			}
			if stream.Receive() || connect.CodeOf(stream.Err()) != tc.code {
				t.Errorf("the stream ended with %v, want %v", stream.Err(), tc.code)
			}
		})
	}
}

func TestClusterGoesOnceItsAgentsAreDone(t *testing.T) {
	s := newService(t)
	s.fill(t)
	s.unclean = []string{"agt-aaaaaaaaaaaaaaaa"}
	remove := func(force bool) {
		t.Helper()
		stream := must[*connect.ServerStreamForClient[apiv1.Effect]](t)(
			s.DeleteCluster(t.Context(), connect.NewRequest(&apiv1.DeleteClusterRequest{Cluster: "edge-aws", Force: force})))
		for stream.Receive() {
		}
		if err := stream.Err(); err != nil {
			t.Fatal(err)
		}
	}
	there := func() *apiv1.Cluster { c, _ := s.dir.Snapshot().Cluster("edge-aws"); return c }

	remove(false)
	if c := there(); c == nil || !c.Retired {
		t.Fatalf("while an agent has not confirmed, the cluster is %v", c)
	}
	remove(false) // again, as the command says
	if there() == nil {
		t.Error("it went the second time, unconfirmed")
	}
	s.mu.Lock()
	s.unclean = nil
	s.mu.Unlock()
	remove(false)
	if there() != nil {
		t.Error("it stays although its agents are done")
	}

	s.unclean = []string{"agt-aaaaaaaaaaaaaaaa"}
	must[*connect.Response[apiv1.CreateClusterResponse]](t)(s.CreateCluster(t.Context(),
		connect.NewRequest(&apiv1.CreateClusterRequest{Name: "edge-aws", Project: "aws", Ceiling: "view"})))
	remove(true)
	if there() != nil {
		t.Error("force was not enough")
	}
}

// Who is suspended while his set is being decided commits nothing.
func TestApplyIsNothingOnceItsCallerIsSuspended(t *testing.T) {
	s := newService(t)
	s.fill(t)
	s.as(t, "virat")
	s.onRecord = func(e *audit.Event) {
		if e.Ext.Kind == "admin.grant.create" && e.Ext.Decision == audit.Allow {
			if _, _, err := s.dir.SuspendUser(context.Background(), "virat", ""); err != nil {
				t.Error(err)
			}
		}
	}
	stream := must[*connect.ServerStreamForClient[apiv1.ApplyResponse]](t)(s.Apply(t.Context(), connect.NewRequest(&apiv1.ApplyRequest{
		Resources: []*apiv1.Resource{{Spec: &apiv1.Resource_Grant{Grant: &apiv1.CreateGrantRequest{Role: "edit", User: "shivam", Project: "aws"}}}},
	})))
	for stream.Receive() {
	}
	if err := stream.Err(); err == nil || connect.CodeOf(err) != connect.CodeUnauthenticated {
		t.Errorf("got %v", err)
	}
	if n := len(s.dir.Snapshot().Grants); n != 0 {
		t.Errorf("%d grants were made", n)
	}
}

// A manager cannot make an administrator a member by a grant, to log him out.
func TestManagerEndsNobodysSessionsElsewhere(t *testing.T) {
	s := newService(t)
	s.fill(t)
	ctx := t.Context()
	alice, _ := s.dir.Snapshot().User("alice")
	d, _, err := s.dir.EnrollDevice(ctx, directory.DeviceSpec{UserID: alice.Id, KeySHA256: [32]byte{1}, Name: "laptop", OS: "linux"})
	if err != nil {
		t.Fatal(err)
	}
	session, _, err := s.dir.CreateSession(ctx, alice.Id, d.Id, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	s.as(t, "virat")
	must[*connect.Response[apiv1.Grant]](t)(s.CreateGrant(ctx, connect.NewRequest(&apiv1.CreateGrantRequest{Role: "view", User: "alice", Project: "aws"})))
	stream := must[*connect.ServerStreamForClient[apiv1.Effect]](t)(s.EndSession(ctx, connect.NewRequest(&apiv1.EndSessionRequest{Id: session.Id})))
	for stream.Receive() {
	}
	if connect.CodeOf(stream.Err()) != connect.CodePermissionDenied || s.dir.Snapshot().Sessions[session.Id].Revoked {
		t.Errorf("got %v", stream.Err())
	}
}

// What others commit meanwhile has a set decided anew, not refused.
func TestApplyIsDecidedAnewWhenSomethingElseWasCommitted(t *testing.T) {
	s := newService(t)
	s.fill(t)
	s.as(t, "virat")
	decided := 0
	s.onRecord = func(e *audit.Event) {
		if e.Ext.Kind != "admin.grant.create" || e.Stage != audit.StageReceived {
			return
		}
		if decided++; decided == 1 {
			if _, _, err := s.dir.CreateProject(context.Background(), "another"); err != nil {
				t.Error(err)
			}
		}
	}
	stream := must[*connect.ServerStreamForClient[apiv1.ApplyResponse]](t)(s.Apply(t.Context(), connect.NewRequest(&apiv1.ApplyRequest{
		Resources: []*apiv1.Resource{{Spec: &apiv1.Resource_Grant{Grant: &apiv1.CreateGrantRequest{Role: "edit", User: "shivam", Project: "aws"}}}},
	})))
	for stream.Receive() {
	}
	if err := stream.Err(); err != nil || decided != 2 || len(s.dir.Snapshot().Grants) != 1 {
		t.Errorf("%v after %d decisions, %d grants", err, decided, len(s.dir.Snapshot().Grants))
	}
}
