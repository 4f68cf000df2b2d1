package adminapi

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	"github.com/sallyport-mesh/sallyport/coordinator/internal/directory"
	"github.com/sallyport-mesh/sallyport/coordinator/internal/status"
	apiv1 "github.com/sallyport-mesh/sallyport/pkg/api/sallyport/v1"
)

// Apply makes objects be as they are declared. What it would do is found by a
// preview, each change of that is decided and put on record like the call of its
// own that it stands for, and the commit is refused unless it does exactly that.
func (s *Server) Apply(ctx context.Context, req *connect.Request[apiv1.ApplyRequest], stream *connect.ServerStream[apiv1.ApplyResponse]) error {
	for try := 1; ; try++ {
		err := s.apply(ctx, req.Msg, stream)
		if !errors.Is(err, errMoved) || try == applyTries {
			return err
		}
	}
}

const (
	// maxApply bounds a set.
	maxApply = 5000
	// applyTries is how often a set is decided anew because something else was
	// committed meanwhile.
	applyTries = 4
)

// errMoved says that the directory is not the one any more that was decided on:
// the caller may have been suspended, a name may be another project's.
var errMoved = connect.NewError(connect.CodeAborted, errors.New("something else was changed while this was decided: nothing was applied; apply it again"))

func (s *Server) apply(ctx context.Context, m *apiv1.ApplyRequest, stream *connect.ServerStream[apiv1.ApplyResponse]) error {
	if len(m.Resources) > maxApply {
		return status.Of(&directory.InvalidError{Field: "resources", Reason: fmt.Sprintf("there are %d, more than %d", len(m.Resources), maxApply), Hint: "apply them in parts"})
	}
	decidedOn := s.snap().Revision
	// 1. Whoever may not read a kind learns nothing about it from a set.
	calls, err := s.beginRead(ctx, m.Resources)
	if err != nil {
		return err
	}
	// 2. What would it do?
	opts := directory.ApplyOptions{Import: m.Import, Welcome: m.Welcome}
	var plan []directory.Applied
	_, err = s.cfg.Directory.Preview(ctx, func(d *directory.Directory) error {
		var err error
		plan, _, err = d.Apply(ctx, m.Resources, opts)
		return err
	})
	if err != nil || m.DryRun {
		if err := calls.end(problems(err)); err != nil {
			return err
		}
		return stream.Send(s.applied(plan, false))
	}
	// 3. May they do each of it?
	for _, a := range plan {
		if err := calls.beginChange(ctx, s, a); err != nil {
			return err
		}
	}
	// 4. Do that, and nothing else.
	opts.Check = func(on uint64, now []directory.Applied) error {
		if on != decidedOn {
			return errMoved
		}
		if !slices.EqualFunc(plan, now, func(a, b directory.Applied) bool {
			return a.Action == b.Action && proto.Equal(a.BeforeSpec, b.BeforeSpec) && proto.Equal(a.AfterSpec, b.AfterSpec)
		}) {
			return connect.NewError(connect.CodeAborted, errors.New("somebody changed one of these objects just now: nothing was applied"))
		}
		return nil
	}
	before := s.snap().Revision
	done, rev, err := s.cfg.Directory.Apply(ctx, m.Resources, opts)
	if err := calls.end(problems(err)); err != nil {
		return err
	}
	if err := stream.Send(s.applied(done, m.Welcome)); err != nil {
		return err
	}
	if rev == before || !slices.ContainsFunc(done, func(a directory.Applied) bool { return a.Action != directory.Unchanged }) {
		return nil
	}
	return status.Of(s.cfg.Effects(ctx, rev, func(e *apiv1.Effect) error {
		return stream.Send(&apiv1.ApplyResponse{Kind: &apiv1.ApplyResponse_Effect{Effect: e}})
	}))
}

// calls are the admin calls that one apply stands for.
type calls []*call

func (c *calls) begin(ctx context.Context, s *Server, project, obj, action, object string) error {
	one, err := s.begin(ctx, project, obj, action, object)
	if err != nil {
		return c.end(err)
	}
	*c = append(*c, one)
	return nil
}

// end ends them all alike.
func (c *calls) end(err error) error {
	out := status.Of(err)
	for _, one := range *c {
		out = one.end(err)
	}
	return out
}

func (s *Server) beginRead(ctx context.Context, set []*apiv1.Resource) (calls, error) {
	var c calls
	seen := map[[2]string]bool{}
	if len(set) == 0 {
		return nil, status.Of(&directory.InvalidError{Field: "resources", Reason: "there are none", Hint: "is the file empty?"})
	}
	for _, r := range set {
		kind := directory.KindOf(r)
		if kind == "" {
			kind = "user"
		}
		at := [2]string{s.resourceScope(r), kind}
		if seen[at] {
			continue
		}
		seen[at] = true
		if err := c.begin(ctx, s, at[0], kind, "read", fmt.Sprintf("apply of %d objects", len(set))); err != nil {
			return nil, err
		}
	}
	return c, nil
}

// beginChange decides and records what one object of the set comes to.
func (c *calls) beginChange(ctx context.Context, s *Server, a directory.Applied) error {
	if a.Action == directory.Unchanged {
		return nil
	}
	what, actions := a.Kind+" "+a.AfterSpec.Name, []string{"create"}
	if a.Kind == "grant" {
		g := a.AfterSpec.GetGrant()
		what = fmt.Sprintf("role %s to %s%s on %s%s", g.Role, g.User, g.Group, g.Project, g.Cluster)
	}
	if a.Action == directory.Changed {
		actions = []string{"change"}
	}
	if u, ok := a.After.(*apiv1.User); ok {
		old, _ := a.Before.(*apiv1.User)
		if u.Suspended && !old.GetSuspended() {
			actions = append(actions, "suspend")
		}
		if !slices.EqualFunc(u.Admin, old.GetAdmin(), func(a, b *apiv1.AdminBinding) bool { return proto.Equal(a, b) }) {
			actions = append(actions, "bind-admin")
		}
	}
	for _, action := range actions {
		if err := c.begin(ctx, s, s.resourceScope(a.AfterSpec), a.Kind, action, what+" (apply)"); err != nil {
			return err
		}
	}
	return nil
}

// resourceScope is the project that an object belongs to. One that the set itself
// makes is not there yet: that is for those who may do it everywhere.
func (s *Server) resourceScope(r *apiv1.Resource) string {
	switch {
	case r.GetProject() != nil:
		return s.scope(r.Name)
	case r.GetCluster() != nil:
		if c, err := s.snap().Cluster(r.Name); err == nil {
			return c.ProjectId
		}
		return s.scope(r.GetCluster().GetProject())
	case r.GetGrant().GetCluster() != "":
		return s.clusterScope(r.GetGrant().GetCluster())
	case r.GetGrant() != nil:
		return s.scope(r.GetGrant().GetProject())
	}
	return everywhere
}

func (s *Server) applied(done []directory.Applied, welcome bool) *apiv1.ApplyResponse {
	res := &apiv1.ApplyResult{}
	for _, a := range done {
		x := &apiv1.Applied{Index: uint32(a.Index), Action: a.Action, Id: a.ID, Before: a.BeforeSpec, After: a.AfterSpec}
		if a.Action == directory.Created && !welcome {
			x.Id = "" // of a preview: thrown away
		}
		if welcome && a.Welcome.Secret != "" {
			x.WelcomeUrl = s.cfg.WelcomeURL(a.Welcome.Secret)
		}
		res.Applied = append(res.Applied, x)
	}
	return &apiv1.ApplyResponse{Kind: &apiv1.ApplyResponse_Result{Result: res}}
}

// problems puts what is wrong with a set into the status, object by object.
func problems(err error) error {
	bad, ok := errors.AsType[*directory.ProblemsError](err)
	if !ok {
		return err
	}
	out := connect.NewError(connect.CodeInvalidArgument, err)
	all := &apiv1.ApplyProblems{}
	for _, p := range bad.Problems[:min(len(bad.Problems), 200)] {
		all.Problems = append(all.Problems, &apiv1.ApplyProblem{Index: uint32(p.Index), Field: p.Field, Message: p.Reason, Hint: p.Hint})
	}
	detail, detailErr := connect.NewErrorDetail(all)
	if detailErr != nil {
		return errors.Join(err, detailErr)
	}
	out.AddDetail(detail)
	return out
}

// Export shows what is declared of what the caller may read, in the order that
// things name each other.
func (s *Server) Export(ctx context.Context, req *connect.Request[apiv1.ExportRequest]) (*connect.Response[apiv1.ExportResponse], error) {
	kinds := slices.Compact(slices.Sorted(slices.Values(req.Msg.Kinds)))
	if len(kinds) == 0 {
		for _, kind := range []string{"project", "user", "group", "role", "cluster", "grant"} {
			if s.mayAnywhere(ctx, kind, "read") {
				kinds = append(kinds, kind)
			}
		}
	}
	if len(kinds) == 0 {
		kinds = []string{"project"} // which is refused, on record
	}
	res, refs := &apiv1.ExportResponse{}, map[string]bool{}
	var all calls
	for _, kind := range kinds {
		objects, err := s.declared(ctx, kind, &all)
		if err != nil {
			return nil, err
		}
		for _, o := range objects {
			if len(req.Msg.Refs) == 0 || slices.Contains(req.Msg.Refs, o.id) || o.name != "" && slices.Contains(req.Msg.Refs, o.name) {
				refs[o.id], refs[o.name] = true, true
				res.Resources = append(res.Resources, o.resource)
			}
		}
	}
	var missing error
	for _, ref := range req.Msg.Refs {
		if !refs[ref] && missing == nil {
			missing = &directory.NotFoundError{Kind: kinds[0], Ref: ref}
		}
	}
	if err := all.end(missing); err != nil {
		return nil, err
	}
	return connect.NewResponse(res), nil
}

type declaration struct {
	id, name string
	resource *apiv1.Resource
}

func grantOrder(r *apiv1.Resource) string {
	g, until := r.GetGrant(), ""
	if g.GetExpiresAt() != nil {
		until = g.ExpiresAt.AsTime().Format(time.RFC3339Nano)
	}
	return strings.Join([]string{
		g.GetProject(), g.GetCluster(), g.GetGroup(), g.GetUser(), g.GetRole(), strings.Join(g.GetNamespaces(), ","), g.GetNamespaceSelector(), until,
	}, "\x00")
}

func (s *Server) mayAnywhere(ctx context.Context, obj, act string) bool {
	may := s.mayIn(ctx, obj, act)
	if may(everywhere) {
		return true
	}
	for id := range s.snap().Projects {
		if may(id) {
			return true
		}
	}
	return false
}

// declared lists what there is of a kind. People and groups belong to no project,
// so a project's manager gets those that have a grant in it.
func (s *Server) declared(ctx context.Context, kind string, all *calls) ([]declaration, error) {
	c, visible, err := s.beginVisible(ctx, kind, kind+"s, as YAML")
	if err != nil {
		return nil, all.end(err)
	}
	*all = append(*all, c)
	snap, who := s.snap(), reachOf(s.snap(), time.Now())
	var out []declaration
	add := func(id string, obj any) {
		r := snap.ResourceOf(obj)
		out = append(out, declaration{id, r.Name, r})
	}
	switch kind {
	case "project":
		for _, x := range sorted(snap.Projects, func(x *apiv1.Project) bool { return visible(x.Id) }) {
			add(x.Id, x)
		}
	case "user":
		for _, x := range sorted(snap.Users, func(x *apiv1.User) bool { return seen(who.users[x.Id], visible) }) {
			add(x.Id, x)
		}
	case "group":
		for _, x := range sorted(snap.Groups, func(x *apiv1.Group) bool { return seen(who.groups[x.Id], visible) }) {
			add(x.Id, x)
		}
	case "role":
		for _, x := range sorted(snap.Roles, func(x *apiv1.Role) bool { return !x.Builtin }) {
			add(x.Name, x)
		}
	case "cluster":
		for _, x := range sorted(snap.Clusters, func(x *apiv1.Cluster) bool { return visible(x.ProjectId) && !x.Retired }) {
			add(x.Id, x)
		}
	case "grant":
		now := time.Now()
		for _, v := range grantViews(snap, func(g *apiv1.Grant) bool {
			return visible(projectOf(snap, g)) && (g.ExpiresAt == nil || now.Before(g.ExpiresAt.AsTime()))
		}) {
			add(v.Grant.Id, v.Grant)
		}
		// By what they say: ids are no part of a file, so its order must not be theirs.
		slices.SortFunc(out, func(a, b declaration) int { return cmp.Compare(grantOrder(a.resource), grantOrder(b.resource)) })
	default:
		return nil, all.end(&directory.InvalidError{Field: "kind", Reason: fmt.Sprintf("%q is none that is declared", kind), Hint: "one of project, user, group, role, cluster, grant"})
	}
	return out, nil
}
