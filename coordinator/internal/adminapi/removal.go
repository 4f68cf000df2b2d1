package adminapi

import (
	"context"
	"fmt"

	"connectrpc.com/connect"

	"github.com/sallyport-mesh/sallyport/coordinator/internal/directory"
	apiv1 "github.com/sallyport-mesh/sallyport/pkg/api/sallyport/v1"
)

// PreviewRemoval says what a removal takes along, to whoever may remove.
func (s *Server) PreviewRemoval(ctx context.Context, req *connect.Request[apiv1.PreviewRemovalRequest]) (*connect.Response[apiv1.PreviewRemovalResponse], error) {
	m := req.Msg
	scope, object := everywhere, m.Kind+" "+m.Ref
	if m.Kind == "cluster" {
		scope = s.clusterScope(m.Ref)
	}
	obj := m.Kind
	if !removable[obj] {
		obj = "user" // not a kind: nobody but an administrator hears so
	}
	c, err := s.begin(ctx, scope, obj, "delete", "preview of removing "+object)
	if err != nil {
		return nil, err
	}
	touched, err := s.cfg.Directory.Preview(ctx, func(d *directory.Directory) error { return remove(ctx, d, m) })
	res := &apiv1.PreviewRemovalResponse{}
	for _, t := range touched {
		res.Consequences = append(res.Consequences, consequence(s.snap(), t))
	}
	return answer(c, res, err)
}

var removable = map[string]bool{"user": true, "group": true, "project": true, "cluster": true, "role": true}

func remove(ctx context.Context, d *directory.Directory, m *apiv1.PreviewRemovalRequest) error {
	var err error
	switch m.Kind {
	case "user":
		_, _, err = d.DeleteUser(ctx, m.Ref)
	case "group":
		_, _, err = d.DeleteGroup(ctx, m.Ref)
	case "project":
		_, _, err = d.DeleteProject(ctx, m.Ref)
	case "cluster":
		_, _, err = d.DeleteCluster(ctx, m.Ref)
	case "role":
		_, _, err = d.DeleteRole(ctx, m.Ref, m.WithGrants)
	default:
		err = &directory.InvalidError{Field: "kind", Reason: fmt.Sprintf("%q cannot be removed by name", m.Kind), Hint: "one of user, group, project, cluster, role"}
	}
	return err
}

func consequence(snap *directory.Snapshot, t directory.Touched) *apiv1.Consequence {
	out := &apiv1.Consequence{Kind: t.Kind, Id: t.ID, Name: t.Name(), What: "changed"}
	if t.Removed {
		out.What = "removed"
	}
	switch obj := t.Before.(type) {
	case *apiv1.Grant:
		v := grantView(snap, obj)
		out.Name = fmt.Sprintf("role %s to %s on %s", obj.Role, subjectOf(v), targetOf(v))
	case *apiv1.Device:
		out.Name = obj.Name + " of " + snap.Users[obj.UserId].GetName()
	case *apiv1.Session:
		out.Name = "of " + snap.Users[obj.UserId].GetName() + " on " + snap.Devices[obj.DeviceId].GetName()
	case *apiv1.Agent:
		out.Name = "in " + snap.Clusters[obj.ClusterId].GetName()
	}
	return out
}

func subjectOf(v *apiv1.GrantView) string {
	if v.Grant.GroupId != "" {
		return "group " + v.Subject
	}
	return "user " + v.Subject
}

func targetOf(v *apiv1.GrantView) string {
	if v.Grant.ProjectId != "" {
		return "project " + v.Target
	}
	return "cluster " + v.Target
}
