package adminapi

import (
	"testing"

	"github.com/sallyport-mesh/sallyport/coordinator/internal/directory"
	apiv1 "github.com/sallyport-mesh/sallyport/pkg/api/sallyport/v1"
)

func TestAdminRolesReachNoFurtherThanTheyShould(t *testing.T) {
	snap := &directory.Snapshot{Revision: 1, Users: map[string]*apiv1.User{}, Projects: map[string]*apiv1.Project{"aws": {}, "gcp": {}}}
	for user, b := range map[string]*apiv1.AdminBinding{
		"alice": {Role: "administrator"},
		"audra": {Role: "auditor"},
		"virat": {Role: "project-manager", ProjectId: "aws"},
		"chris": {Role: "cluster-operator", ProjectId: "gcp"},
		"nemo":  nil,
	} {
		u := &apiv1.User{Id: user}
		if b != nil {
			u.Admin = append(u.Admin, b)
		}
		snap.Users[user] = u
	}
	a := &authorizer{snapshot: func() *directory.Snapshot { return snap }}
	for _, tc := range []struct {
		sub, dom, obj, act string
		want               bool
	}{
		{"alice", everywhere, "user", "suspend", true},
		{"alice", "aws", "access", "suspend", true},
		{local, everywhere, "user", "create", true},
		{"audra", everywhere, "audit", "read", true},
		{"audra", "aws", "grant", "read", true},
		{"audra", everywhere, "user", "create", false},
		{"audra", "aws", "access", "suspend", false},
		{"virat", "aws", "access", "suspend", true},
		{"virat", "aws", "audit", "read", true},
		{"virat", "gcp", "access", "suspend", false},
		{"virat", everywhere, "user", "suspend", false},
		{"virat", everywhere, "audit", "read", false},
		{"virat", "aws", "cluster", "delete", false},
		{"virat", "aws", "role", "read", true},
		{"virat", everywhere, "role", "change", false},
		{"audra", everywhere, "role", "delete", false},
		{"chris", everywhere, "role", "create", false},
		{"chris", "gcp", "cluster", "create", true},
		{"chris", "aws", "cluster", "create", false},
		{"nemo", everywhere, "user", "read", false},
		{"nemo", "aws", "project", "read", false},
		{"nobody", everywhere, "user", "read", false},
	} {
		got, err := a.allowed(tc.sub, tc.dom, tc.obj, tc.act)
		if err != nil {
			t.Fatal(err)
		}
		if got != tc.want {
			t.Errorf("%s %s %s in %s: %v, want %v", tc.sub, tc.act, tc.obj, tc.dom, got, tc.want)
		}
	}
	// A role taken away is gone with the next revision.
	snap = &directory.Snapshot{Revision: 2, Users: map[string]*apiv1.User{"alice": {Id: "alice"}}}
	if got, err := a.allowed("alice", everywhere, "user", "read"); err != nil || got {
		t.Errorf("alice still reads users after her role went: %v %v", got, err)
	}
}
