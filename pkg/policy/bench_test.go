package policy

import (
	"fmt"
	"testing"

	apiv1 "github.com/sallyport-mesh/sallyport/pkg/api/sallyport/v1"
)

// large makes a bundle of users in three groups each, where every group holds a
// role of five rules on the cluster or on a namespace.
func large(users, rules, groups int) *apiv1.Bundle {
	b := &apiv1.Bundle{ClusterId: "cls-1", ClusterName: "edge-1", Revision: 1}
	const perRole = 5
	for i := range rules / perRole {
		r := &apiv1.Role{Name: fmt.Sprint("role-", i)}
		for j := range perRole {
			r.Rules = append(r.Rules, &apiv1.Rule{
				Verbs: []string{"get", "list", "watch"}, ApiGroups: []string{"", fmt.Sprintf("g%d.example.com", j)},
				Resources: []string{"pods", "services", fmt.Sprint("things-", i)}, Deny: i%10 == 9 && j == 0 && i > 9,
			})
		}
		b.Roles = append(b.Roles, r)
	}
	for i := range groups {
		id := fmt.Sprint("grp-", i)
		b.Groups = append(b.Groups, &apiv1.BundleGroup{Id: id, Name: id})
		g := &apiv1.BundleGrant{Id: fmt.Sprint("grt-", i), GroupId: id, Role: b.Roles[i%len(b.Roles)].Name}
		if i%2 == 0 {
			g.Namespaces = []string{fmt.Sprint("ns-", i%7)}
		}
		b.Grants = append(b.Grants, g)
	}
	for i := range users {
		b.Subjects = append(b.Subjects, &apiv1.BundleSubject{
			UserId: fmt.Sprint("usr-", i), Name: fmt.Sprint("user", i),
			GroupIds: []string{fmt.Sprint("grp-", i%groups), fmt.Sprint("grp-", (i*7+1)%groups), fmt.Sprint("grp-", (i*13+2)%groups)},
		})
	}
	for _, s := range b.Subjects { // no group twice
		seen := map[string]bool{}
		var ids []string
		for _, g := range s.GroupIds {
			if !seen[g] {
				seen[g] = true
				ids = append(ids, g)
			}
		}
		s.GroupIds = ids
	}
	b.Requires = Requires(b)
	return b
}

func BenchmarkCompile10kUsers1kRules200Groups(b *testing.B) {
	bundle := large(10_000, 1_000, 200)
	for b.Loop() {
		if _, err := Compile(bundle); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkDecideRemembered(b *testing.B) {
	p := compile(b, large(10_000, 1_000, 200))
	a := ask("usr-77", "get", "", "pods", "ns-1", "web")
	p.Decide(a)
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			p.Decide(a)
		}
	})
}

// Not remembered, by a subject whose enforcer is there.
func BenchmarkDecideAnew(b *testing.B) {
	p := compile(b, large(10_000, 1_000, 200))
	s, a := p.subjects["usr-77"], ask("usr-77", "get", "", "pods", "ns-1", "web")
	b.ReportAllocs()
	for b.Loop() {
		p.decide(s, &a, p.now())
	}
}

// Not remembered, by a subject whose enforcer has to be built.
func BenchmarkDecideFirst(b *testing.B) {
	p := compile(b, large(10_000, 1_000, 200))
	s, a := p.subjects["usr-77"], ask("usr-77", "get", "", "pods", "ns-1", "web")
	b.ReportAllocs()
	for b.Loop() {
		p.engine.enforcers.Purge()
		p.decide(s, &a, p.now())
	}
}
