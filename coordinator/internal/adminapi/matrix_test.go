package adminapi

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"

	"github.com/sallyport-mesh/sallyport/coordinator/internal/directory"
	apiv1 "github.com/sallyport-mesh/sallyport/pkg/api/sallyport/v1"
	"github.com/sallyport-mesh/sallyport/pkg/audit"
)

// world is what the matrix calls on: in each of two projects a cluster, a member
// with a device and a session, a group with a grant, and a join token.
type world struct {
	*service
	in map[string]*things // project name → what is there
	// Somebody who is in both projects, and nobody's.
	both, alone *things
}

type things struct {
	project, cluster, user, group, grant, device, session, token, agent string
}

func newWorld(t *testing.T) *world {
	t.Helper()
	s := newService(t)
	ctx := t.Context()
	w := &world{service: s, in: map[string]*things{}, both: &things{}, alone: &things{}}
	person := func(name string, key byte, into *things) {
		u := must[*connect.Response[apiv1.CreateUserResponse]](t)(s.CreateUser(ctx, connect.NewRequest(&apiv1.CreateUserRequest{Name: name})))
		d, _, err := s.dir.EnrollDevice(ctx, directory.DeviceSpec{UserID: u.Msg.User.Id, KeySHA256: [32]byte{key}, Name: name + "-laptop"})
		if err != nil {
			t.Fatal(err)
		}
		session, _, err := s.dir.CreateSession(ctx, u.Msg.User.Id, d.Id, time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		into.user, into.device, into.session = name, d.Id, session.Id
	}
	person("both", 8, w.both)
	person("alone", 9, w.alone)
	for i, p := range []string{"aws", "gcp"} {
		x := &things{project: p, cluster: "edge-" + p, group: p + "-members"}
		must[*connect.Response[apiv1.Project]](t)(s.CreateProject(ctx, connect.NewRequest(&apiv1.CreateProjectRequest{Name: p})))
		must[*connect.Response[apiv1.CreateClusterResponse]](t)(s.CreateCluster(ctx, connect.NewRequest(&apiv1.CreateClusterRequest{Name: x.cluster, Project: p, Ceiling: "admin"})))
		person(p+"-member", byte(i+1), x)
		must[*connect.Response[apiv1.Group]](t)(s.CreateGroup(ctx, connect.NewRequest(&apiv1.CreateGroupRequest{Name: x.group})))
		for _, m := range []string{x.user, "both"} {
			must[*connect.Response[apiv1.Group]](t)(s.AddMember(ctx, connect.NewRequest(&apiv1.MemberRequest{Group: x.group, User: m})))
		}
		g := must[*connect.Response[apiv1.Grant]](t)(s.CreateGrant(ctx, connect.NewRequest(&apiv1.CreateGrantRequest{Role: "view", Group: x.group, Project: p})))
		x.grant = g.Msg.Id
		token, _, err := s.dir.CreateJoinToken(ctx, x.cluster, time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		a, _, err := s.dir.RedeemJoinToken(ctx, directory.Join{Token: token.Secret, KubeSystemUID: "uid-of-" + p, KeySHA256: [32]byte{byte(i + 1)}, CheckpointVKey: "key"})
		if err != nil {
			t.Fatal(err)
		}
		x.agent = a.Id
		for _, have := range must[[]directory.JoinTokenInfo](t)(s.dir.JoinTokens(ctx)) {
			if c, err := s.dir.Snapshot().Cluster(x.cluster); err == nil && have.ClusterID == c.Id && have.UsedAt.IsZero() {
				x.token = have.ID
			}
		}
		w.in[p] = x
	}
	must[*connect.Response[apiv1.Role]](t)(s.CreateRole(ctx, connect.NewRequest(&apiv1.CreateRoleRequest{Role: ownRole("own")})))
	for role, project := range map[string]string{"administrator": "", "auditor": "", "project-manager": "aws", "cluster-operator": ""} {
		must[*connect.Response[apiv1.CreateUserResponse]](t)(s.CreateUser(ctx, connect.NewRequest(&apiv1.CreateUserRequest{Name: role})))
		must[*connect.Response[apiv1.BindAdminResponse]](t)(s.BindAdmin(ctx, connect.NewRequest(&apiv1.BindAdminRequest{User: role, Role: role, Project: project})))
	}
	must[*connect.Response[apiv1.CreateUserResponse]](t)(s.CreateUser(ctx, connect.NewRequest(&apiv1.CreateUserRequest{Name: "nobody"})))
	return w
}

// unary and streamed make a call of a method.
func unary[Req, Res any](f func(context.Context, *connect.Request[Req]) (*connect.Response[Res], error), req *Req) func(context.Context) error {
	return func(ctx context.Context) error {
		_, err := f(ctx, connect.NewRequest(req))
		return err
	}
}

func streamed[Req, Res any](f func(context.Context, *connect.Request[Req]) (*connect.ServerStreamForClient[Res], error), req *Req) func(context.Context) error {
	return func(ctx context.Context) error {
		stream, err := f(ctx, connect.NewRequest(req))
		if err != nil {
			return err
		}
		defer stream.Close()
		for stream.Receive() {
		}
		return stream.Err()
	}
}

// Who may call: a = administrator, r = auditor (reads), p = manager of aws,
// o = cluster operator, n = a user without a role.
type row struct {
	method string
	what   string
	may    string
	call   func(context.Context) error
}

// matrix holds at least one row for every method. Where a method is about
// something in a project there is a row for the manager's own project (aws) and
// one for another (gcp).
func (w *world) matrix() []row {
	aws, gcp := w.in["aws"], w.in["gcp"]
	kinds := func(method, kind, may string) row {
		return row{method, "of a " + kind, may, unary(w.PreviewRemoval, &apiv1.PreviewRemovalRequest{Kind: kind, Ref: "aws"})}
	}
	return []row{
		{"Whoami", "", "arpon", unary(w.Whoami, &apiv1.WhoamiRequest{})},

		{"CreateUser", "", "a", unary(w.CreateUser, &apiv1.CreateUserRequest{Name: "new"})},
		{"ListUsers", "", "arp", unary(w.ListUsers, &apiv1.ListUsersRequest{})},
		{"GetUser", "a member", "arp", unary(w.GetUser, &apiv1.GetUserRequest{User: aws.user})},
		{"GetUser", "a member of both", "arp", unary(w.GetUser, &apiv1.GetUserRequest{User: w.both.user})},
		{"GetUser", "another's member", "ar", unary(w.GetUser, &apiv1.GetUserRequest{User: gcp.user})},
		{"GetUser", "nobody's member", "ar", unary(w.GetUser, &apiv1.GetUserRequest{User: w.alone.user})},
		{"UpdateUser", "", "a", unary(w.UpdateUser, &apiv1.UpdateUserRequest{User: aws.user, DisplayName: new("x")})},
		{"DeleteUser", "", "a", streamed(w.DeleteUser, &apiv1.DeleteUserRequest{User: aws.user})},
		{"SetPassword", "", "a", unary(w.SetPassword, &apiv1.SetPasswordRequest{User: aws.user})},
		{"SuspendUser", "everywhere", "a", streamed(w.SuspendUser, &apiv1.SuspendUserRequest{User: aws.user})},
		{"SuspendUser", "in aws", "ap", streamed(w.SuspendUser, &apiv1.SuspendUserRequest{User: aws.user, Project: "aws"})},
		{"SuspendUser", "in gcp", "a", streamed(w.SuspendUser, &apiv1.SuspendUserRequest{User: aws.user, Project: "gcp"})},
		{"ResumeUser", "everywhere", "a", unary(w.ResumeUser, &apiv1.ResumeUserRequest{User: aws.user})},
		{"ResumeUser", "in aws", "ap", unary(w.ResumeUser, &apiv1.ResumeUserRequest{User: aws.user, Project: "aws"})},
		{"ResumeUser", "in gcp", "a", unary(w.ResumeUser, &apiv1.ResumeUserRequest{User: aws.user, Project: "gcp"})},
		{"BindAdmin", "in aws", "a", unary(w.BindAdmin, &apiv1.BindAdminRequest{User: aws.user, Role: "project-manager", Project: "aws"})},
		{"UnbindAdmin", "in aws", "a", unary(w.UnbindAdmin, &apiv1.BindAdminRequest{User: "project-manager", Role: "project-manager", Project: "aws"})},

		{"ResetSecondFactor", "", "a", unary(w.ResetSecondFactor, &apiv1.ResetSecondFactorRequest{User: aws.user})},
		{"LinkIdentity", "", "a", unary(w.LinkIdentity, &apiv1.LinkIdentityRequest{User: aws.user, Provider: "x", Subject: "y"})},
		{"UnlinkIdentity", "", "a", unary(w.UnlinkIdentity, &apiv1.UnlinkIdentityRequest{User: aws.user, Provider: "x"})},

		{"CreateGroup", "", "a", unary(w.CreateGroup, &apiv1.CreateGroupRequest{Name: "new"})},
		{"ListGroups", "", "arp", unary(w.ListGroups, &apiv1.ListGroupsRequest{})},
		{"GetGroup", "with a grant in aws", "arp", unary(w.GetGroup, &apiv1.GetGroupRequest{Group: aws.group})},
		{"GetGroup", "with a grant in gcp", "ar", unary(w.GetGroup, &apiv1.GetGroupRequest{Group: gcp.group})},
		{"RenameGroup", "", "a", unary(w.RenameGroup, &apiv1.RenameGroupRequest{Group: aws.group, Name: "other"})},
		{"AddMember", "", "a", unary(w.AddMember, &apiv1.MemberRequest{Group: aws.group, User: w.alone.user})},
		{"RemoveMember", "", "a", streamed(w.RemoveMember, &apiv1.MemberRequest{Group: aws.group, User: aws.user})},
		{"DeleteGroup", "", "a", streamed(w.DeleteGroup, &apiv1.DeleteGroupRequest{Group: aws.group})},

		{"CreateProject", "", "a", unary(w.CreateProject, &apiv1.CreateProjectRequest{Name: "new"})},
		{"ListProjects", "", "arpo", unary(w.ListProjects, &apiv1.ListProjectsRequest{})},
		{"GetProject", "aws", "arpo", unary(w.GetProject, &apiv1.GetProjectRequest{Project: "aws"})},
		{"GetProject", "gcp", "aro", unary(w.GetProject, &apiv1.GetProjectRequest{Project: "gcp"})},
		{"RenameProject", "aws", "a", unary(w.RenameProject, &apiv1.RenameProjectRequest{Project: "aws", Name: "aws"})},
		{"DeleteProject", "aws", "a", unary(w.DeleteProject, &apiv1.DeleteProjectRequest{Project: "aws"})},

		{"CreateCluster", "in aws", "ao", unary(w.CreateCluster, &apiv1.CreateClusterRequest{Name: "new", Project: "aws", Ceiling: "view"})},
		{"ListClusters", "", "arpo", unary(w.ListClusters, &apiv1.ListClustersRequest{})},
		{"GetCluster", "in aws", "arpo", unary(w.GetCluster, &apiv1.GetClusterRequest{Cluster: aws.cluster})},
		{"GetCluster", "in gcp", "aro", unary(w.GetCluster, &apiv1.GetClusterRequest{Cluster: gcp.cluster})},
		{"SetBudgets", "in aws", "ao", streamed(w.SetBudgets, &apiv1.SetBudgetsRequest{Cluster: aws.cluster, Budgets: &apiv1.StalenessBudgets{ExecSeconds: 60}})},
		{"CreateJoinToken", "in aws", "ao", unary(w.CreateJoinToken, &apiv1.CreateJoinTokenRequest{Cluster: aws.cluster})},
		{"ListJoinTokens", "", "arpo", unary(w.ListJoinTokens, &apiv1.ListJoinTokensRequest{})},
		{"DeleteJoinToken", "in aws", "ao", unary(w.DeleteJoinToken, &apiv1.DeleteJoinTokenRequest{Id: aws.token})},
		{"DeleteCluster", "in aws", "ao", streamed(w.DeleteCluster, &apiv1.DeleteClusterRequest{Cluster: aws.cluster})},
		{"RemoveAgent", "in aws", "ao", unary(w.RemoveAgent, &apiv1.RemoveAgentRequest{Agent: aws.agent})},

		{"Why", "in aws", "arp", unary(w.Why, &apiv1.WhyRequest{User: aws.user, Cluster: aws.cluster, Verb: "get", Resource: "pods"})},
		{"Why", "in gcp", "ar", unary(w.Why, &apiv1.WhyRequest{User: aws.user, Cluster: gcp.cluster, Verb: "get", Resource: "pods"})},
		{"ListRoles", "", "arpo", unary(w.ListRoles, &apiv1.ListRolesRequest{})},

		{"CreateRole", "", "a", unary(w.CreateRole, &apiv1.CreateRoleRequest{Role: ownRole("new")})},
		{"ChangeRole", "", "a", streamed(w.ChangeRole, &apiv1.ChangeRoleRequest{Role: ownRole("own")})},
		{"DeleteRole", "", "a", streamed(w.DeleteRole, &apiv1.DeleteRoleRequest{Name: "own"})},

		{"CreateGrant", "on project aws", "ap", unary(w.CreateGrant, &apiv1.CreateGrantRequest{Role: "edit", User: w.alone.user, Project: "aws"})},
		{"CreateGrant", "on project gcp", "a", unary(w.CreateGrant, &apiv1.CreateGrantRequest{Role: "edit", User: w.alone.user, Project: "gcp"})},
		{"CreateGrant", "on a cluster of aws", "ap", unary(w.CreateGrant, &apiv1.CreateGrantRequest{Role: "edit", User: w.alone.user, Cluster: aws.cluster})},
		{"CreateGrant", "on a cluster of gcp", "a", unary(w.CreateGrant, &apiv1.CreateGrantRequest{Role: "edit", User: w.alone.user, Cluster: gcp.cluster})},
		{"CreateGrant", "on project aws and a cluster of gcp", "a", unary(w.CreateGrant, &apiv1.CreateGrantRequest{Role: "edit", User: w.alone.user, Project: "aws", Cluster: gcp.cluster})},
		{"ListGrants", "", "arp", unary(w.ListGrants, &apiv1.ListGrantsRequest{})},
		{"GetGrant", "in aws", "arp", unary(w.GetGrant, &apiv1.GetGrantRequest{Id: aws.grant})},
		{"GetGrant", "in gcp", "ar", unary(w.GetGrant, &apiv1.GetGrantRequest{Id: gcp.grant})},
		{"DeleteGrant", "in aws", "ap", streamed(w.DeleteGrant, &apiv1.DeleteGrantRequest{Id: aws.grant})},
		{"DeleteGrant", "in gcp", "a", streamed(w.DeleteGrant, &apiv1.DeleteGrantRequest{Id: gcp.grant})},

		{"ListDevices", "", "arp", unary(w.ListDevices, &apiv1.ListDevicesRequest{})},
		{"GetDevice", "of a member", "arp", unary(w.GetDevice, &apiv1.GetDeviceRequest{Device: aws.device})},
		{"GetDevice", "of another's member", "ar", unary(w.GetDevice, &apiv1.GetDeviceRequest{Device: gcp.device})},
		{"RevokeDevice", "of a member", "a", streamed(w.RevokeDevice, &apiv1.RevokeDeviceRequest{Device: aws.device})},

		{"ListSessions", "", "arp", unary(w.ListSessions, &apiv1.ListSessionsRequest{})},
		{"GetSession", "of a member", "arp", unary(w.GetSession, &apiv1.GetSessionRequest{Id: aws.session})},
		{"GetSession", "of another's member", "ar", unary(w.GetSession, &apiv1.GetSessionRequest{Id: gcp.session})},
		{"EndSession", "of a member", "ap", streamed(w.EndSession, &apiv1.EndSessionRequest{Id: aws.session})},
		{"EndSession", "of a member of both", "a", streamed(w.EndSession, &apiv1.EndSessionRequest{Id: w.both.session})},
		{"EndSession", "of another's member", "a", streamed(w.EndSession, &apiv1.EndSessionRequest{Id: gcp.session})},
		{"EndSession", "of nobody's member", "a", streamed(w.EndSession, &apiv1.EndSessionRequest{Id: w.alone.session})},

		{"SearchAudit", "of what one may see", "arp", streamed(w.SearchAudit, &apiv1.SearchAuditRequest{})},
		{"SearchAudit", "of aws", "arp", streamed(w.SearchAudit, &apiv1.SearchAuditRequest{Project: "aws"})},
		{"SearchAudit", "of gcp", "ar", streamed(w.SearchAudit, &apiv1.SearchAuditRequest{Project: "gcp"})},
		{"SearchAudit", "of the coordinator", "ar", streamed(w.SearchAudit, &apiv1.SearchAuditRequest{Log: "coordinator"})},
		{"GetAuditRecord", "in aws", "arp", unary(w.GetAuditRecord, &apiv1.GetAuditRecordRequest{RequestId: "aws"})},
		{"GetAuditRecord", "in gcp", "ar", unary(w.GetAuditRecord, &apiv1.GetAuditRecordRequest{RequestId: "gcp"})},
		{"GetAuditRecord", "of none", "ar", unary(w.GetAuditRecord, &apiv1.GetAuditRecordRequest{RequestId: "none"})},

		{"GetCA", "", "aro", unary(w.GetCA, &apiv1.GetCARequest{})},

		{"Export", "of what one may see", "arpo", unary(w.Export, &apiv1.ExportRequest{})},
		{"Export", "of users", "arp", unary(w.Export, &apiv1.ExportRequest{Kinds: []string{"user"}})},
		{"Apply", "of a grant in aws", "ap", streamed(w.Apply, &apiv1.ApplyRequest{Resources: []*apiv1.Resource{grantOn("aws")}})},
		{"Apply", "of a grant in gcp", "a", streamed(w.Apply, &apiv1.ApplyRequest{Resources: []*apiv1.Resource{grantOn("gcp")}})},
		{"Apply", "of grants in both", "a", streamed(w.Apply, &apiv1.ApplyRequest{Resources: []*apiv1.Resource{grantOn("aws"), grantOn("gcp")}})},
		{"Apply", "of a user", "a", streamed(w.Apply, &apiv1.ApplyRequest{Resources: []*apiv1.Resource{{Name: "applied", Spec: &apiv1.Resource_User{User: &apiv1.UserSpec{}}}}})},
		{"Apply", "of a cluster in aws", "ao", streamed(w.Apply, &apiv1.ApplyRequest{Resources: []*apiv1.Resource{{Name: "applied", Spec: &apiv1.Resource_Cluster{Cluster: &apiv1.ClusterSpec{Project: "aws", Ceiling: "view"}}}}})},
		{"Apply", "dry, of a grant in aws", "arp", streamed(w.Apply, &apiv1.ApplyRequest{DryRun: true, Resources: []*apiv1.Resource{grantOn("aws")}})},
		{"Apply", "dry, of a grant in gcp", "ar", streamed(w.Apply, &apiv1.ApplyRequest{DryRun: true, Resources: []*apiv1.Resource{grantOn("gcp")}})},

		kinds("PreviewRemoval", "user", "a"),
		kinds("PreviewRemoval", "group", "a"),
		kinds("PreviewRemoval", "project", "a"),
		{"PreviewRemoval", "of a role", "a", unary(w.PreviewRemoval, &apiv1.PreviewRemovalRequest{Kind: "role", Ref: "own"})},
		kinds("PreviewRemoval", "thing", "a"),
		{"PreviewRemoval", "of a cluster", "ao", unary(w.PreviewRemoval, &apiv1.PreviewRemovalRequest{Kind: "cluster", Ref: aws.cluster})},
	}
}

func grantOn(project string) *apiv1.Resource {
	return &apiv1.Resource{Spec: &apiv1.Resource_Grant{Grant: &apiv1.CreateGrantRequest{Role: "edit", User: "alone", Project: project}}}
}

func ownRole(name string) *apiv1.Role {
	return &apiv1.Role{Name: name, Rules: []*apiv1.Rule{{ApiGroups: []string{""}, Resources: []string{"pods"}, Verbs: []string{"get"}}}}
}

// Every method, every role: who is not named in a row is refused, and both the
// refusal and the call are on record.
func TestEveryRoleMayCallExactlyWhatItShould(t *testing.T) {
	roles := []string{"administrator", "auditor", "project-manager", "cluster-operator", "nobody"}
	letter := map[string]string{"administrator": "a", "auditor": "r", "project-manager": "p", "cluster-operator": "o", "nobody": "n"}
	for _, role := range roles {
		t.Run(role, func(t *testing.T) {
			t.Parallel()
			var w *world
			for i := 0; ; i++ {
				if w == nil {
					w = newWorld(t)
					w.as(t, role)
				}
				rows := w.matrix()
				if i == len(rows) {
					return
				}
				r := rows[i]
				w.mu.Lock()
				w.records = nil
				w.mu.Unlock()
				before := w.dir.Snapshot().Revision
				err := r.call(t.Context())
				name := fmt.Sprintf("%s %s", r.method, r.what)
				w.mu.Lock()
				records := slices.Clone(w.records)
				w.mu.Unlock()
				changed := w.dir.Snapshot().Revision != before
				switch {
				case !strings.Contains(r.may, letter[role]):
					if connect.CodeOf(err) != connect.CodePermissionDenied {
						t.Errorf("%s may %s: %v", role, name, err)
					}
					// An apply that may read has put that on record before it is refused.
					denied := 0
					for _, e := range records {
						if e.Ext.Decision == audit.Deny {
							denied++
						}
					}
					if denied != 1 || len(records) != 1 && r.method != "Apply" {
						t.Errorf("refusal of %s to %s: %d records", name, role, len(records))
					}
					if changed {
						t.Errorf("%s was refused to %s and changed something", name, role)
					}
				case connect.CodeOf(err) == connect.CodePermissionDenied && len(records) > 0 && records[0].Ext.Decision == audit.Deny:
					t.Errorf("%s may not %s: %v", role, name, err)
				case r.method != "Whoami" && (len(records) < 2 || len(records) != 2 && r.method != "Apply" && r.method != "Export"):
					t.Errorf("%s by %s left %d records, not its intent and its outcome", name, role, len(records))
				case role == "auditor" && changed:
					t.Errorf("an auditor changed something with %s", name)
				}
				if changed && role == "project-manager" {
					w = nil // what hangs on the project that a thing is in needs the thing
				}
			}
		})
	}
}

func TestEveryMethodIsInTheMatrix(t *testing.T) {
	have := map[string]bool{}
	for _, r := range newWorld(t).matrix() {
		have[r.method] = true
	}
	methods := apiv1.File_sallyport_v1_admin_proto.Services().ByName("AdminService").Methods()
	for i := range methods.Len() {
		if name := string(methods.Get(i).Name()); !have[name] {
			t.Errorf("method %s has no row in matrix(): say who may call it", name)
		}
		delete(have, string(methods.Get(i).Name()))
	}
	for name := range have {
		t.Errorf("matrix() has rows for %s, which is no method", name)
	}
}
