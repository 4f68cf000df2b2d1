package policy

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	apiv1 "github.com/sallyport-mesh/sallyport/pkg/api/sallyport/v1"
)

type decideCase struct {
	a    Attributes
	want bool
}

func check(t *testing.T, p *Policy, cases []decideCase) {
	t.Helper()
	for _, c := range cases {
		// Twice: decided, and remembered.
		for range 2 {
			if d := p.Decide(c.a); d.Allowed != c.want {
				t.Errorf("%s %s/%s %s in %q (%s): allowed = %v, want %v: %s",
					c.a.Verb, c.a.APIGroup, c.a.resource(), c.a.target(), c.a.Namespace, c.a.Path, d.Allowed, c.want, d.Reason)
			}
		}
	}
}

func TestTraineeReadsTwoNamespacesAndNothingElse(t *testing.T) {
	p := compile(t, bundleOf(Builtin(), grantTo("shivam", View, "team-a", "team-b")))
	check(t, p, []decideCase{
		{ask("shivam", "get", "", "pods", "team-a", "web"), true},
		{ask("shivam", "list", "apps", "deployments", "team-b", ""), true},
		{ask("shivam", "watch", "", "pods", "team-a", ""), true},
		{ask("shivam", "get", "", "pods/log", "team-a", "web"), true},
		{ask("shivam", "get", "", "namespaces", "team-a", "team-a"), true},
		{path("shivam", "get", "/api"), true},
		{path("shivam", "get", "/apis/apps/v1"), true},
		{path("shivam", "get", "/openapi/v3/apis/apps/v1"), true},
		{ask("shivam", "create", "authorization.k8s.io", "selfsubjectaccessreviews", "", ""), true},

		{ask("shivam", "create", "", "pods", "team-a", ""), false},
		{ask("shivam", "patch", "apps", "deployments", "team-a", "web"), false},
		{ask("shivam", "delete", "apps", "deployments", "team-a", "web"), false},
		{ask("shivam", "get", "", "pods/exec", "team-a", "web"), false},
		{ask("shivam", "create", "", "pods/exec", "team-a", "web"), false},
		{ask("shivam", "create", "", "pods/attach", "team-a", "web"), false},
		{ask("shivam", "create", "", "pods/portforward", "team-a", "web"), false},
		{ask("shivam", "get", "", "secrets", "team-a", "db"), false},
		{ask("shivam", "list", "", "secrets", "team-a", ""), false},
		{ask("shivam", "get", "", "pods", "team-c", "web"), false},
		{ask("shivam", "list", "", "pods", "", ""), false},
		{ask("shivam", "list", "", "nodes", "", ""), false},
		{ask("shivam", "list", "", "namespaces", "", ""), false},
		{ask("shivam", "get", "", "namespaces", "team-c", "team-c"), false},
		{path("shivam", "get", "/metrics"), false},
		{path("shivam", "post", "/api"), false},
		{path("shivam", "get", "/apiserver"), false},
	})
}

func TestAdminInOneNamespaceReadsAnother(t *testing.T) {
	p := compile(t, bundleOf(Builtin(), grantTo("virat", Admin, "team-a"), grantTo("virat", View, "team-b")))
	check(t, p, []decideCase{
		{ask("virat", "delete", "apps", "deployments", "team-a", "web"), true},
		{ask("virat", "create", "", "pods/exec", "team-a", "web"), true},
		{ask("virat", "get", "", "secrets", "team-a", "db"), true},
		{ask("virat", "get", "apps", "deployments", "team-b", "web"), true},
		{ask("virat", "patch", "apps", "deployments", "team-b", "web"), false},
		{ask("virat", "create", "", "pods/exec", "team-b", "web"), false},
		{ask("virat", "get", "apps", "deployments", "team-c", "web"), false},
		{ask("virat", "create", "", "namespaces", "", ""), false},
		// The labels of a namespace decide what its pods may do.
		{ask("virat", "patch", "", "namespaces", "team-a", "team-a"), false},
		{ask("virat", "delete", "", "namespaces", "team-a", "team-a"), false},
		{ask("virat", "update", "", "namespaces/finalize", "team-a", "team-a"), false},
	})
}

func TestNobodyWithoutALiveGrantMayDoAnything(t *testing.T) {
	now := time.Unix(1000, 0)
	b := bundleOf(Builtin(), until(grantTo("old", ClusterAdmin), now))
	b.Subjects = append(b.Subjects, &apiv1.BundleSubject{UserId: "bare", Name: "bare"})
	p := compile(t, b, WithClock(func() time.Time { return now }))
	for _, user := range []string{"old", "bare", "stranger", ""} {
		check(t, p, []decideCase{
			{ask(user, "get", "", "pods", "default", "web"), false},
			{path(user, "get", "/api"), false},
			{path(user, "get", "/version"), false},
			{ask(user, "create", "authorization.k8s.io", "selfsubjectaccessreviews", "", ""), false},
		})
	}
}

func TestRememberedDecisionEndsWithItsGrant(t *testing.T) {
	now := time.Unix(1000, 0)
	p := compile(t, bundleOf(Builtin(), until(grantTo("a", ClusterAdmin), now.Add(time.Minute)), grantTo("a", View)),
		WithClock(func() time.Time { return now }))
	del := []decideCase{{ask("a", "delete", "", "pods", "default", "x"), true}, {ask("a", "get", "", "pods", "default", "x"), true}}
	check(t, p, del)
	now = now.Add(time.Minute - 1)
	check(t, p, del)
	now = now.Add(1)
	del[0].want = false
	check(t, p, del)
	if e := p.Entitlements("a"); len(e) != 1 || e[0].Role != View {
		t.Errorf("entitlements after expiry: %v", e)
	}
	// A clock that is set back brings the grant back, not a stale memory.
	now = now.Add(-time.Second)
	del[0].want = true
	check(t, p, del)
}

func TestExpiredDenyIsForgottenToo(t *testing.T) {
	now := time.Unix(1000, 0)
	p := compile(t, bundleOf(append(Builtin(), custom("frozen", deny(on([]string{"delete"}, []string{"*"}, "*")))),
		grantTo("a", ClusterAdmin), until(grantTo("a", "frozen"), now.Add(time.Minute))), WithClock(func() time.Time { return now }))
	check(t, p, []decideCase{{ask("a", "delete", "", "pods", "default", "x"), false}})
	now = now.Add(time.Minute)
	check(t, p, []decideCase{{ask("a", "delete", "", "pods", "default", "x"), true}})
}

func TestRevokedGenerationDeviceAndSessionAreRefused(t *testing.T) {
	b := bundleOf(Builtin(), grantTo("a", ClusterAdmin))
	b.Subjects[0].AuthGeneration = 3
	b.Subjects[0].RevokedDeviceIds = []string{"dev-lost"}
	b.Subjects[0].RevokedSessionIds = []string{"ses-over"}
	p := compile(t, b)
	good := ask("a", "get", "", "pods", "default", "x")
	good.Generation, good.DeviceID, good.SessionID = 3, "dev-1", "ses-1"
	if d := p.Decide(good); !d.Allowed {
		t.Fatal(d.Reason) // and remembered: the refusals below must not depend on order
	}
	for why, f := range map[string]func(*Attributes){
		"sign-in": func(a *Attributes) { a.Generation = 2 },
		"device":  func(a *Attributes) { a.DeviceID = "dev-lost" },
		"session": func(a *Attributes) { a.SessionID = "ses-over" },
	} {
		a := good
		f(&a)
		if d := p.Decide(a); d.Allowed || !strings.Contains(d.Reason, why) {
			t.Errorf("%s: %+v", why, d)
		}
	}
	later := good
	later.Generation = 4 // the bundle that raises it is still on its way
	if d := p.Decide(later); !d.Allowed {
		t.Error(d.Reason)
	}
}

func TestDenyOverridesEveryAllow(t *testing.T) {
	roles := append(Builtin(),
		custom("no-delete", deny(on([]string{"delete", "deletecollection"}, []string{"*"}, "*"))),
		custom("no-db", deny(named(on([]string{"*"}, []string{""}, "secrets"), "db"))),
		custom("no-metrics", deny(&apiv1.Rule{Verbs: []string{"*"}, NonResourceUrls: []string{"/metrics*"}})),
		custom("no-openapi", deny(&apiv1.Rule{Verbs: []string{"get"}, NonResourceUrls: []string{"/openapi/*"}})),
	)
	p := compile(t, bundleOf(roles, grantTo("a", ClusterAdmin), grantTo("a", "no-delete"), grantTo("a", "no-db"),
		grantTo("a", "no-metrics"), grantTo("a", "no-openapi"), grantTo("b", ClusterAdmin), grantTo("b", "no-delete", "prod")))
	list := ask("a", "list", "", "secrets", "default", "")
	selected := list
	selected.SelectedName = "other"
	check(t, p, []decideCase{
		{ask("a", "get", "", "pods", "default", "x"), true},
		{ask("a", "delete", "", "pods", "default", "x"), false},
		{ask("a", "get", "", "secrets", "default", "other"), true},
		{ask("a", "get", "", "secrets", "default", "db"), false},
		// What may include the denied one is refused with it.
		{list, false},
		{selected, true},
		{ask("a", "create", "", "secrets", "default", ""), false},
		{path("a", "get", "/metrics"), false},
		{path("a", "get", "/metrics/slis"), false},
		{path("a", "get", "/openapi/v3"), false},
		{path("a", "get", "/api"), true},

		{ask("b", "delete", "", "pods", "default", "x"), true},
		{ask("b", "delete", "", "pods", "prod", "x"), false},
		{ask("b", "list", "", "pods", "", ""), true},
		{ask("b", "deletecollection", "", "pods", "", ""), false},
	})
}

func TestNamedRuleListsOnlyWithItsExactName(t *testing.T) {
	p := compile(t, bundleOf([]*apiv1.Role{custom("one", named(on([]string{"get", "list", "watch", "deletecollection", "create"}, []string{""}, "configmaps"), "app"))},
		grantTo("a", "one")))
	selected := func(verb, name string) Attributes {
		a := ask("a", verb, "", "configmaps", "default", "")
		a.SelectedName = name
		return a
	}
	check(t, p, []decideCase{
		{ask("a", "get", "", "configmaps", "default", "app"), true},
		{ask("a", "get", "", "configmaps", "default", "other"), false},
		{selected("list", ""), false},
		{selected("watch", ""), false},
		{selected("deletecollection", ""), false},
		{selected("list", "app"), true},
		{selected("watch", "app"), true},
		{selected("deletecollection", "app"), true},
		{selected("list", "other"), false},
		// A selector on a request that does not select means nothing.
		{selected("create", "app"), false},
		{selected("get", "app"), false},
	})
}

func TestWildcardsDoNotReachWhatMustBeNamed(t *testing.T) {
	guardedRequests := []Attributes{
		ask("a", "get", "", "nodes/proxy", "", "n"),
		ask("a", "create", "", "pods/proxy", "default", "p"),
		ask("a", "get", "", "services/proxy", "default", "s"),
		ask("a", "create", "", "serviceaccounts/token", "default", "sa"),
		ask("a", "create", "rbac.authorization.k8s.io", "clusterrolebindings", "", ""),
		ask("a", "patch", "rbac.authorization.k8s.io", "roles", "default", "r"),
		ask("a", "update", "certificates.k8s.io", "certificatesigningrequests/approval", "", "c"),
		ask("a", "update", "certificates.k8s.io", "certificatesigningrequests/status", "", "c"),
		ask("a", "approve", "certificates.k8s.io", "signers", "", "x"),
		ask("a", "create", "admissionregistration.k8s.io", "mutatingwebhookconfigurations", "", ""),
		ask("a", "delete", "admissionregistration.k8s.io", "validatingadmissionpolicies", "", "v"),
		ask("a", "update", "apiregistration.k8s.io", "apiservices", "", "v1.x"),
		ask("a", "update", "apiregistration.k8s.io", "apiservices/status", "", "v1.x"),
	}
	wild := []*apiv1.Role{
		custom("all", on([]string{"*"}, []string{"*"}, "*")),
		custom("sub", on([]string{"*"}, []string{"*"}, "*/proxy", "*/token", "*/approval", "*/status")),
		custom("group", on([]string{"*"}, []string{"*"}, "nodes/proxy", "pods/proxy", "services/proxy", "serviceaccounts/token", "clusterrolebindings", "roles")),
		custom("half", on([]string{"*"}, []string{"", "rbac.authorization.k8s.io", "certificates.k8s.io", "admissionregistration.k8s.io", "apiregistration.k8s.io"}, "*")),
	}
	var grants []*apiv1.BundleGrant
	for _, r := range wild {
		grants = append(grants, grantTo("a", r.Name))
	}
	p := compile(t, bundleOf(wild, grants...))
	for _, a := range guardedRequests {
		d := p.Decide(a)
		if d.Allowed {
			t.Errorf("%s %s reached by a wildcard: %s", a.Verb, a.resource(), d.Rule)
		} else if !strings.Contains(d.Reason, "name it") {
			t.Errorf("%s %s: the reason does not say how to get it: %s", a.Verb, a.resource(), d.Reason)
		}
		exact := compile(t, bundleOf([]*apiv1.Role{custom("exact", on([]string{"*"}, []string{a.APIGroup}, a.resource()))}, grantTo("a", "exact")))
		if d := exact.Decide(a); !d.Allowed {
			t.Errorf("%s %s named and refused: %s", a.Verb, a.resource(), d.Reason)
		}
	}
	check(t, p, []decideCase{
		{ask("a", "list", "rbac.authorization.k8s.io", "clusterroles", "", ""), true},
		{ask("a", "get", "apiregistration.k8s.io", "apiservices", "", "v1."), true},
		{ask("a", "create", "certificates.k8s.io", "certificatesigningrequests", "", ""), true},
	})
}

func TestNoRoleAdmitsTakingOnOthersRights(t *testing.T) {
	verbs := []string{"impersonate", "impersonate:user-info", "impersonate-on:user-info:list", "bind", "escalate", "proxy"}
	p := compile(t, bundleOf([]*apiv1.Role{custom("all", on(append(verbs, "*"), []string{"", "rbac.authorization.k8s.io"}, "users", "serviceaccounts", "clusterroles", "nodes", "*"))},
		grantTo("a", "all")))
	for _, v := range verbs {
		for _, r := range []string{"users", "serviceaccounts", "clusterroles", "nodes"} {
			check(t, p, []decideCase{{ask("a", v, "", r, "", "x"), false}, {ask("a", v, "rbac.authorization.k8s.io", r, "", "x"), false}})
		}
	}
}

func TestOurNamespacesAreClosedToEveryone(t *testing.T) {
	p := compile(t, bundleOf(Builtin(), grantTo("a", ClusterAdmin), grantTo("a", Admin, SystemNamespace, UsersNamespace)))
	for _, ns := range []string{SystemNamespace, UsersNamespace} {
		check(t, p, []decideCase{
			{ask("a", "get", "", "secrets", ns, "x"), false},
			{ask("a", "list", "", "pods", ns, ""), false},
			{ask("a", "create", "", "pods/exec", ns, "x"), false},
			{ask("a", "create", "", "serviceaccounts", ns, ""), false},
			{ask("a", "create", "example.com", "namespaces", ns, ""), false},
			{ask("a", "delete", "", "namespaces", ns, ns), false},
			{ask("a", "patch", "", "namespaces", ns, ns), false},
			{ask("a", "patch", "", "namespaces", "", ns), false},
			{ask("a", "update", "", "namespaces/finalize", ns, ns), false},
			{ask("a", "get", "", "namespaces", ns, ns), true},
		})
		if got := p.Entitlements("a"); len(got) != 1 {
			t.Errorf("entitlements in our namespaces: %v", got)
		}
	}
	check(t, p, []decideCase{
		{ask("a", "list", "", "namespaces", "", ""), true},
		{ask("a", "deletecollection", "", "namespaces", "", ""), false},
		{ask("a", "list", "", "secrets", "", ""), false},
		{ask("a", "watch", "", "secrets", "", ""), false},
		{ask("a", "list", "", "secrets", "default", ""), true},
		{ask("a", "list", "", "configmaps", "", ""), true},
	})
}

func TestSubresourcesAreMatchedAsInKubernetes(t *testing.T) {
	p := compile(t, bundleOf([]*apiv1.Role{
		custom("pods", on([]string{"*"}, []string{""}, "pods")),
		custom("scale", on([]string{"get"}, []string{"*"}, "*/scale")),
		custom("slash", on([]string{"get"}, []string{""}, "services/*")),
	}, grantTo("a", "pods"), grantTo("a", "scale"), grantTo("a", "slash")))
	check(t, p, []decideCase{
		{ask("a", "get", "", "pods", "x", "p"), true},
		{ask("a", "create", "", "pods/exec", "x", "p"), false},
		{ask("a", "get", "", "pods/log", "x", "p"), false},
		{ask("a", "get", "apps", "deployments/scale", "x", "p"), true},
		{ask("a", "get", "apps", "deployments", "x", "p"), false},
		{ask("a", "get", "", "services/status", "x", "p"), false},
	})
}

func TestClassesFollowWhatStalenessCouldCost(t *testing.T) {
	stream := ask("a", "get", "kubevirt.io", "virtualmachineinstances/console", "x", "vm")
	stream.Upgrade = true
	for _, c := range []struct {
		a    Attributes
		want Class
	}{
		{ask("a", "get", "", "pods", "x", "p"), Read},
		{ask("a", "watch", "", "pods", "x", ""), Read},
		{ask("a", "get", "", "pods/log", "x", "p"), Read},
		{path("a", "get", "/metrics"), Read},
		{ask("a", "create", "authorization.k8s.io", "selfsubjectaccessreviews", "", ""), Read},
		{ask("a", "create", "", "pods", "x", ""), Write},
		{ask("a", "deletecollection", "", "pods", "x", ""), Write},
		{ask("a", "create", "authorization.k8s.io", "subjectaccessreviews", "", ""), Write},
		{path("a", "post", "/metrics"), Write},
		{ask("a", "get", "", "secrets", "x", "s"), Exec},
		{ask("a", "delete", "", "secrets", "x", "s"), Exec},
		{ask("a", "get", "", "pods/exec", "x", "p"), Exec},
		{ask("a", "create", "", "pods/attach", "x", "p"), Exec},
		{ask("a", "get", "", "pods/portforward", "x", "p"), Exec},
		{ask("a", "get", "", "nodes/proxy", "", "n"), Exec},
		{ask("a", "create", "", "serviceaccounts/token", "x", "s"), Exec},
		{ask("a", "get", "example.com", "secrets", "x", "s"), Read},
		{stream, Exec},
	} {
		if got := c.a.Class(); got != c.want {
			t.Errorf("%s %s: class %s, want %s", c.a.Verb, c.a.resource(), got, c.want)
		}
	}
}

func TestReasonsNameTheGrantAndTheRule(t *testing.T) {
	b := bundleOf(append(Builtin(), custom("no-exec", deny(on([]string{"*"}, []string{""}, "pods/exec")))),
		grantTo("shivam", Edit, "team-a"), &apiv1.BundleGrant{Id: "grt-group", GroupId: "grp-1", Role: "no-exec"})
	b.Groups = []*apiv1.BundleGroup{{Id: "grp-1", Name: "trainees"}}
	b.Subjects[0].GroupIds = []string{"grp-1"}
	b.Requires = Requires(b)
	p := compile(t, b)
	d := p.Decide(ask("shivam", "get", "", "pods", "team-a", "x"))
	if d.Rule != "grant grt-shivam-edit role edit rule 1" || d.Grant != "grt-shivam-edit" || d.Role != Edit || d.Revision != 7 {
		t.Errorf("%+v", d)
	}
	d = p.Decide(ask("shivam", "create", "", "pods/exec", "team-a", "x"))
	if d.Allowed || d.Rule != "grant grt-group role no-exec rule 1" || !strings.Contains(d.Reason, "forbids") {
		t.Errorf("%+v", d)
	}
	for want, a := range map[string]Attributes{
		"no grant lets shivam delete deployments.apps/scale in namespace team-b": ask("shivam", "delete", "apps", "deployments/scale", "team-b", "x"),
		"no grant lets shivam list nodes at cluster scope":                       ask("shivam", "list", "", "nodes", "", ""),
		"no grant lets shivam get /metrics":                                      path("shivam", "get", "/metrics"),
		"no grant lets shivam get /a\ufffdb":                                     path("shivam", "get", "/a\nb"),
	} {
		if d := p.Decide(a); d.Reason != want {
			t.Errorf("reason %q, want %q", d.Reason, want)
		}
	}
	if d := p.Decide(path("shivam", "get", "/"+strings.Repeat("a", 8000))); len(d.Reason) > 300 {
		t.Errorf("reason of %d bytes", len(d.Reason))
	}
}

func TestGroupGrantConcernsItsMembersOnly(t *testing.T) {
	b := bundleOf(Builtin(), &apiv1.BundleGrant{Id: "grt-1", GroupId: "grp-1", Role: ClusterAdmin}, grantTo("b", View))
	b.Groups = []*apiv1.BundleGroup{{Id: "grp-1", Name: "ops"}}
	b.Subjects = append(b.Subjects, &apiv1.BundleSubject{UserId: "a", Name: "a", GroupIds: []string{"grp-1"}})
	p := compile(t, b)
	check(t, p, []decideCase{
		{ask("a", "delete", "", "pods", "x", "p"), true},
		{ask("b", "delete", "", "pods", "x", "p"), false},
		{ask("grp-1", "delete", "", "pods", "x", "p"), false},
	})
	if s, ok := p.Subject("a"); !ok || len(s.Groups) != 1 || s.Groups[0] != (Group{"grp-1", "ops"}) {
		t.Errorf("subject %+v", s)
	}
}

func TestBundleThatDoesNotHoldTogetherIsRefused(t *testing.T) {
	for name, f := range map[string]func(*apiv1.Bundle){
		"unknown feature":      func(b *apiv1.Bundle) { b.Requires = append(b.Requires, "moon-phase.v1") },
		"feature not required": func(b *apiv1.Bundle) { b.Requires = nil },
		"unknown role":         func(b *apiv1.Bundle) { b.Grants[0].Role = "ghost" },
		"no subject":           func(b *apiv1.Bundle) { b.Grants[0].UserId = "" },
		"two subjects":         func(b *apiv1.Bundle) { b.Grants[0].GroupId = "grp-1" },
		"empty namespace":      func(b *apiv1.Bundle) { b.Grants[0].Namespaces = []string{""} },
		"grant twice":          func(b *apiv1.Bundle) { b.Grants = append(b.Grants, b.Grants[0]) },
		"role twice":           func(b *apiv1.Bundle) { b.Roles = append(b.Roles, b.Roles[0]) },
		"user twice":           func(b *apiv1.Bundle) { b.Subjects = append(b.Subjects, b.Subjects[0]) },
		"unknown group":        func(b *apiv1.Bundle) { b.Subjects[0].GroupIds = []string{"grp-9"} },
	} {
		b := bundleOf(Builtin(), grantTo("a", View))
		f(b)
		if _, err := Compile(b); err == nil {
			t.Errorf("%s: compiled", name)
		}
	}
}

func TestClosedPolicyRefusesEverythingAndSaysWhy(t *testing.T) {
	p := Closed(bundleOf(Builtin(), grantTo("a", ClusterAdmin)), "it is too new")
	for _, a := range []Attributes{
		ask("a", "get", "", "pods", "x", "p"), path("a", "get", "/api"),
		ask("a", "create", "authorization.k8s.io", "selfsubjectaccessreviews", "", ""),
	} {
		if d := p.Decide(a); d.Allowed || !strings.Contains(d.Reason, "it is too new") || d.Revision != 7 {
			t.Errorf("%+v", d)
		}
	}
	if p.Entitlements("a") != nil || len(p.Users()) != 0 {
		t.Error("a closed policy entitles somebody")
	}
}

func TestMemoryOfDecisionsIsBounded(t *testing.T) {
	p := compile(t, bundleOf(append(Builtin(), custom("n", named(on([]string{"get"}, []string{""}, "pods"), "x"))), grantTo("a", View), grantTo("a", "n")))
	for i := range 3 * memoShards * memoPerShard {
		p.Decide(ask("a", "get", "", "pods", "default", fmt.Sprint("pod-", i)))
	}
	p.Decide(path("a", "get", "/"+strings.Repeat("x", 4096)))
	total := 0
	for _, s := range p.memo.shards {
		for _, k := range s.Keys() {
			total++
			if len(k.path)+len(k.name) > memoKeyBytes {
				t.Errorf("key of %d bytes remembered", len(k.path)+len(k.name))
			}
		}
	}
	if total > memoShards*memoPerShard {
		t.Errorf("%d decisions remembered", total)
	}
}

func TestNamesShareADecisionWhereNoRuleLooksAtThem(t *testing.T) {
	p := compile(t, bundleOf(Builtin(), grantTo("a", View)))
	for i := range 100 {
		p.Decide(ask("a", "get", "", "pods", "default", fmt.Sprint("pod-", i)))
	}
	total := 0
	for _, s := range p.memo.shards {
		total += s.Len()
	}
	if total != 1 {
		t.Errorf("%d decisions remembered for one question", total)
	}
}

func TestDecidesForManyAtOnce(t *testing.T) {
	b := large(400, 50, 40)
	p := compile(t, b)
	want := make([]Decision, len(b.Subjects))
	for i, s := range b.Subjects {
		want[i] = compile(t, proto.CloneOf(b)).Decide(ask(s.UserId, "get", "", "pods", "ns-1", "x"))
		if i == 20 {
			want = want[:i]
			break
		}
	}
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for i := range 2000 {
				s := b.Subjects[i%len(b.Subjects)]
				d := p.Decide(ask(s.UserId, "get", "", "pods", "ns-1", "x"))
				if j := i % len(b.Subjects); j < len(want) && d != want[j] {
					t.Errorf("%s: %+v, alone it was %+v", s.UserId, d, want[j])
				}
			}
		})
	}
	all.Wait()
}

// A write is answered with the object, also as a dry run, and a watch begins with
// the list: who may not read something may not have it that way either.
func TestDeniedReadingHasNoOtherWay(t *testing.T) {
	secrets := func(verbs ...string) *apiv1.Rule { return deny(named(on(verbs, []string{""}, "secrets"), "prod-*")) }
	p := compile(t, bundleOf(append(Builtin(), custom("no-get", secrets("get")), custom("no-list", secrets("list")), custom("no-watch", secrets("watch"))),
		grantTo("a", Edit, "web"), grantTo("a", "no-get"), grantTo("b", Edit, "web"), grantTo("b", "no-list"), grantTo("c", Edit, "web"), grantTo("c", "no-watch")))
	for _, verb := range []string{"get", "patch", "update", "delete"} {
		check(t, p, []decideCase{{ask("a", verb, "", "secrets", "web", "prod-db"), false}, {ask("a", verb, "", "secrets", "web", "dev-db"), true}})
	}
	check(t, p, []decideCase{
		{ask("a", "list", "", "secrets", "web", ""), false},
		{ask("a", "watch", "", "secrets", "web", ""), false},
		{ask("a", "deletecollection", "", "secrets", "web", ""), false},
		{ask("b", "watch", "", "secrets", "web", ""), false},
		{ask("b", "deletecollection", "", "secrets", "web", ""), false},
		{ask("b", "get", "", "secrets", "web", "prod-db"), true},
		{ask("c", "list", "", "secrets", "web", ""), false},
	})
}
