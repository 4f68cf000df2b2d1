package directory

import (
	"slices"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/sallyport-mesh/sallyport/coordinator/internal/store"
	apiv1 "github.com/sallyport-mesh/sallyport/pkg/api/sallyport/v1"
)

// named answers with the name behind an id of a kind ("user", "project", ...).
type named func(kind, id string) string

// ResourceOf is an object as it is declared in a file; nil for a kind that is not.
func (s *Snapshot) ResourceOf(obj any) *apiv1.Resource {
	return resourceOf(obj, func(kind, id string) string {
		switch kind {
		case "user":
			return s.Users[id].GetName()
		case "group":
			return s.Groups[id].GetName()
		case "project":
			return s.Projects[id].GetName()
		}
		return s.Clusters[id].GetName()
	})
}

// namesIn is named for a transaction.
func namesIn(r store.Reader) named {
	return func(kind, id string) string {
		switch kind {
		case "user":
			return nameOf(users, r, id)
		case "group":
			return nameOf(groups, r, id)
		case "project":
			return nameOf(projects, r, id)
		}
		return nameOf(clusters, r, id)
	}
}

func nameOf[T any, P interface {
	message[T]
	GetName() string
}](t table[T, P], r store.Reader, id string) string {
	obj, err := t.get(r, id)
	if err != nil {
		return id
	}
	return P(obj).GetName()
}

func resourceOf(obj any, name named) *apiv1.Resource {
	switch x := obj.(type) {
	case *apiv1.Project:
		return &apiv1.Resource{Name: x.Name, Spec: &apiv1.Resource_Project{Project: &apiv1.ProjectSpec{}}}
	case *apiv1.User:
		spec := &apiv1.UserSpec{DisplayName: x.DisplayName, Suspended: x.Suspended}
		for _, b := range x.Admin {
			a := &apiv1.AdminSpec{Role: b.Role}
			if b.ProjectId != "" {
				a.Project = name("project", b.ProjectId)
			}
			spec.Admin = append(spec.Admin, a)
		}
		return &apiv1.Resource{Name: x.Name, Spec: &apiv1.Resource_User{User: spec}}
	case *apiv1.Group:
		spec := &apiv1.GroupSpec{}
		for _, id := range x.MemberIds {
			spec.Members = append(spec.Members, name("user", id))
		}
		slices.Sort(spec.Members)
		return &apiv1.Resource{Name: x.Name, Spec: &apiv1.Resource_Group{Group: spec}}
	case *apiv1.Role:
		return &apiv1.Resource{Name: x.Name, Spec: &apiv1.Resource_Role{Role: &apiv1.RoleSpec{Description: x.Description, Rules: x.Rules}}}
	case *apiv1.Cluster:
		b, err := mergeBudgets(x.Budgets, nil)
		if err != nil {
			b = x.Budgets
		}
		return &apiv1.Resource{Name: x.Name, Spec: &apiv1.Resource_Cluster{Cluster: &apiv1.ClusterSpec{
			Project: name("project", x.ProjectId), Ceiling: x.Ceiling,
			Budgets: &apiv1.BudgetsSpec{Read: lasting(b.GetReadSeconds()), Write: lasting(b.GetWriteSeconds()), Exec: lasting(b.GetExecSeconds())},
		}}}
	case *apiv1.Grant:
		spec := &apiv1.CreateGrantRequest{
			Role: x.Role, Namespaces: x.Namespaces, NamespaceSelector: x.NamespaceSelector, ExpiresAt: x.ExpiresAt, Reason: x.Reason,
		}
		if x.UserId != "" {
			spec.User = name("user", x.UserId)
		} else {
			spec.Group = name("group", x.GroupId)
		}
		if x.ProjectId != "" {
			spec.Project = name("project", x.ProjectId)
		} else {
			spec.Cluster = name("cluster", x.ClusterId)
		}
		return &apiv1.Resource{Spec: &apiv1.Resource_Grant{Grant: spec}}
	}
	return nil
}

func lasting(seconds uint32) *durationpb.Duration {
	return durationpb.New(time.Duration(seconds) * time.Second)
}

// KindOf is the kind of what a resource declares, "" for none.
func KindOf(r *apiv1.Resource) string {
	switch r.GetSpec().(type) {
	case *apiv1.Resource_Project:
		return "project"
	case *apiv1.Resource_User:
		return "user"
	case *apiv1.Resource_Group:
		return "group"
	case *apiv1.Resource_Role:
		return "role"
	case *apiv1.Resource_Cluster:
		return "cluster"
	case *apiv1.Resource_Grant:
		return "grant"
	}
	return ""
}
