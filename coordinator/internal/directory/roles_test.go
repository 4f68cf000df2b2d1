package directory

import (
	"errors"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	apiv1 "github.com/sallyport-mesh/sallyport/pkg/api/sallyport/v1"
)

func webReader(name string) *apiv1.Role {
	return &apiv1.Role{Name: name, Rules: []*apiv1.Rule{{
		Verbs: []string{"get"}, ApiGroups: []string{""}, Resources: []string{"configmaps"}, ResourceNames: []string{"web-*"},
	}}}
}

func TestRolesOfOnesOwnAreMadeChangedAndRemoved(t *testing.T) {
	d := open(t)
	ctx := t.Context()
	made, rev, err := d.CreateRole(ctx, webReader("web"))
	if err != nil || d.Snapshot().Revision < rev {
		t.Fatal(made, rev, err)
	}
	if got, err := d.Snapshot().Role("web"); err != nil || !proto.Equal(got, made) {
		t.Errorf("the snapshot has %v: %v", got, err)
	}
	if _, _, err := d.CreateRole(ctx, webReader("web")); !is[*ExistsError](err) {
		t.Errorf("made twice: %v", err)
	}
	other := webReader("web")
	other.Builtin, other.Rules[0].Deny = true, true
	changed, _, err := d.ChangeRole(ctx, other)
	if err != nil || changed.Builtin || !changed.Rules[0].Deny {
		t.Errorf("changed to %v: %v", changed, err)
	}
	if _, _, err := d.ChangeRole(ctx, webReader("nothing")); !is[*NotFoundError](err) {
		t.Errorf("changed a role that is not there: %v", err)
	}
	before := d.Snapshot().Revision
	if _, rev, err := d.ChangeRole(ctx, changed); err != nil || rev != before {
		t.Errorf("a change to the same thing: revision %d after %d, %v", rev, before, err)
	}
	if _, _, err := d.DeleteRole(ctx, "web", false); err != nil {
		t.Error(err)
	}
	if _, err := d.Snapshot().Role("web"); !is[*NotFoundError](err) {
		t.Errorf("it is still there: %v", err)
	}
}

func TestBuiltInRolesStayAsTheyAre(t *testing.T) {
	d := open(t)
	name := "view"
	if _, _, err := d.CreateRole(t.Context(), webReader(name)); !is[*ExistsError](err) {
		t.Errorf("made anew: %v", err)
	}
	if _, _, err := d.ChangeRole(t.Context(), webReader(name)); !is[*RefusedError](err) {
		t.Errorf("changed: %v", err)
	}
	if _, _, err := d.DeleteRole(t.Context(), name, true); !is[*RefusedError](err) {
		t.Errorf("removed: %v", err)
	}
	if got, err := d.Snapshot().Role(name); err != nil || !proto.Equal(got, &apiv1.Role{Name: "view", Builtin: true}) {
		t.Errorf("it is now %v: %v", got, err)
	}
}

// What a grant means must not change because a new version has a built-in role
// of the same name.
func TestABuiltInRoleThatIsNewDoesNotReplaceOnesOwn(t *testing.T) {
	d := open(t)
	own, _, err := d.CreateRole(t.Context(), webReader("newcomer"))
	if err != nil {
		t.Fatal(err)
	}
	if err := d.seed(t.Context(), []*apiv1.Role{{Name: "newcomer", Builtin: true}}); err != nil {
		t.Fatal(err)
	}
	if got, err := d.Snapshot().Role("newcomer"); err != nil || !proto.Equal(got, own) {
		t.Errorf("it is now %v: %v", got, err)
	}
}

func TestARoleThatIsGivenGoesOnlyWithItsGrants(t *testing.T) {
	d := open(t)
	ctx := t.Context()
	d.user("ann")
	ok[*apiv1.Project](t)(d.CreateProject(t.Context(), "aws"))
	if _, _, err := d.CreateRole(ctx, webReader("web")); err != nil {
		t.Fatal(err)
	}
	kept, _, err := d.CreateGrant(ctx, GrantSpec{Role: "web", User: "ann", Project: "aws"})
	if err != nil {
		t.Fatal(err)
	}
	short, _, err := d.CreateGrant(ctx, GrantSpec{Role: "web", User: "ann", Project: "aws", Namespaces: []string{"a"}, ExpiresAt: d.clock.Now().Add(time.Minute)})
	if err != nil {
		t.Fatal(err)
	}
	d.clock.Advance(time.Hour)
	_, _, err = d.DeleteRole(ctx, "web", false)
	if !is[*RefusedError](err) || !strings.Contains(err.Error(), "1 grant: "+kept.Id) || !strings.Contains(Hint(err), "--with-grants") {
		t.Fatalf("%v (%s)", err, Hint(err))
	}
	if _, _, err := d.DeleteRole(ctx, "web", true); err != nil {
		t.Fatal(err)
	}
	// The one that has expired too: it would name the next role of that name.
	for _, id := range []string{kept.Id, short.Id} {
		if _, ok := d.Snapshot().Grants[id]; ok {
			t.Errorf("grant %s is still there", id)
		}
	}
}

func TestRolesAreRefusedByRuleAndField(t *testing.T) {
	d := open(t)
	r := webReader("web")
	r.Rules = append(r.Rules, &apiv1.Rule{}, &apiv1.Rule{Verbs: []string{"escalate"}, ApiGroups: []string{"apps/v1"}, Resources: []string{"Pods"}})
	_, _, err := d.CreateRole(t.Context(), r)
	var invalid *InvalidError
	if !errors.As(err, &invalid) || invalid.Field != "rules[1].verbs" {
		t.Fatalf("%v", err)
	}
	for _, field := range []string{"rules[1].resources: ", "rules[2].verbs: ", "rules[2].apiGroups: ", "rules[2].resources: "} {
		if !strings.Contains(err.Error(), field) {
			t.Errorf("%v does not name %s", err, field)
		}
	}
	if _, _, err := d.CreateRole(t.Context(), webReader("Not A Name")); !is[*InvalidError](err) {
		t.Errorf("%v", err)
	}
	if _, _, err := d.CreateRole(t.Context(), nil); !is[*InvalidError](err) {
		t.Errorf("%v", err)
	}
}

func TestAGrantOnLabelsIsWrittenInOneWay(t *testing.T) {
	d := open(t)
	ctx := t.Context()
	d.user("ann")
	ok[*apiv1.Project](t)(d.CreateProject(t.Context(), "aws"))
	role := "view"
	g, _, err := d.CreateGrant(ctx, GrantSpec{Role: role, User: "ann", Project: "aws", NamespaceSelector: "team = a, env notin (prod)"})
	if err != nil || g.NamespaceSelector != "env notin (prod),team=a" {
		t.Fatal(g, err)
	}
	if _, _, err := d.CreateGrant(ctx, GrantSpec{Role: role, User: "ann", Project: "aws", NamespaceSelector: "env notin (prod),team=a"}); !is[*ExistsError](err) {
		t.Errorf("the same grant twice: %v", err)
	}
	for name, spec := range map[string]GrantSpec{
		"with names":     {Namespaces: []string{"a"}, NamespaceSelector: "team=a"},
		"everything":     {NamespaceSelector: " "},
		"not a selector": {NamespaceSelector: "team=a=b"},
	} {
		spec.Role, spec.User, spec.Project = role, "ann", "aws"
		if _, _, err := d.CreateGrant(ctx, spec); !is[*InvalidError](err) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func is[E error](err error) bool {
	_, ok := errors.AsType[E](err)
	return ok
}
