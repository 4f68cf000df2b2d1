package adminapi

import (
	"strings"
	"testing"

	"connectrpc.com/connect"

	apiv1 "github.com/sallyport-mesh/sallyport/pkg/api/sallyport/v1"
)

// Roles hold in every project: whoever manages one reads them and no more, and
// each attempt is on record.
func TestOnlyAnAdministratorMakesRoles(t *testing.T) {
	s := newService(t)
	s.fill(t)
	ctx := t.Context()
	role := &apiv1.Role{Name: "web", Rules: []*apiv1.Rule{{Verbs: []string{"get"}, ApiGroups: []string{""}, Resources: []string{"pods"}}}}
	change := func() error {
		stream, err := s.ChangeRole(ctx, connect.NewRequest(&apiv1.ChangeRoleRequest{Role: role}))
		if err != nil {
			return err
		}
		defer stream.Close()
		for stream.Receive() {
		}
		return stream.Err()
	}
	remove := func(withGrants bool) error {
		stream, err := s.DeleteRole(ctx, connect.NewRequest(&apiv1.DeleteRoleRequest{Name: "web", WithGrants: withGrants}))
		if err != nil {
			return err
		}
		defer stream.Close()
		for stream.Receive() {
		}
		return stream.Err()
	}
	create := func() error {
		_, err := s.CreateRole(ctx, connect.NewRequest(&apiv1.CreateRoleRequest{Role: role}))
		return err
	}

	s.as(t, "virat")
	for what, err := range map[string]error{"create": create(), "change": change(), "remove": remove(true)} {
		if connect.CodeOf(err) != connect.CodePermissionDenied {
			t.Errorf("a project's manager: %s: %v", what, err)
		}
	}
	must[*connect.Response[apiv1.ListRolesResponse]](t)(s.ListRoles(ctx, connect.NewRequest(&apiv1.ListRolesRequest{})))

	s.as(t, "alice")
	if err := create(); err != nil {
		t.Fatal(err)
	}
	must[*connect.Response[apiv1.Grant]](t)(s.CreateGrant(ctx, connect.NewRequest(&apiv1.CreateGrantRequest{Role: "web", User: "shivam", Cluster: "edge-aws"})))
	if err := change(); err != nil {
		t.Error(err)
	}
	if err := remove(false); connect.CodeOf(err) != connect.CodePermissionDenied || !strings.Contains(err.Error(), "grt-") {
		t.Errorf("removing a role that is given: %v", err)
	}
	if err := remove(true); err != nil {
		t.Error(err)
	}
	role.Rules[0].Verbs = nil
	if err := create(); connect.CodeOf(err) != connect.CodeInvalidArgument || !strings.Contains(err.Error(), "rules[0].verbs") {
		t.Errorf("a rule without verbs: %v", err)
	}

	seen := map[string]int{}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range s.records {
		if strings.HasPrefix(e.Ext.Kind, "admin.role.") {
			seen[e.Ext.Kind+" "+string(e.Ext.Decision)]++
		}
	}
	for _, want := range []string{"admin.role.create deny", "admin.role.change deny", "admin.role.delete deny", "admin.role.create allow", "admin.role.change allow", "admin.role.delete allow"} {
		if seen[want] == 0 {
			t.Errorf("not on record: %s (%v)", want, seen)
		}
	}
}
