package bundle

import (
	"testing"

	apiv1 "github.com/sallyport-mesh/sallyport/pkg/api/sallyport/v1"
	"github.com/sallyport-mesh/sallyport/pkg/policy"
)

func byLabel(b *apiv1.Bundle) {
	b.Grants[0].NamespaceSelector = "team=a"
	b.Requires = policy.Requires(b)
}

func TestLabelsOfNamespacesMakeAnotherPolicyOfTheSameBundle(t *testing.T) {
	w := newWorld(t)
	k := w.open()
	x := policy.Namespaces{"x": {"team": "a"}}
	if p := k.SeeNamespaces(x); p != nil {
		t.Error("a policy without a bundle")
	}
	allowed := func(want bool) {
		t.Helper()
		if d := k.Current().Decide(get); d.Allowed != want {
			t.Errorf("allowed %v: %s", d.Allowed, d.Reason)
		}
	}
	// What was seen before the bundle counts for it.
	w.accept(k, w.bundle(5, byLabel))
	allowed(true)
	if p := k.SeeNamespaces(policy.Namespaces{"x": {"team": "a", "else": "1"}, "y": nil}); p != nil {
		t.Error("another policy where nothing selected differs")
	}
	p := k.SeeNamespaces(policy.Namespaces{"x": {"team": "b"}})
	if p == nil || p != k.Current() || p.Revision() != 5 {
		t.Fatalf("policy %v, current %v", p, k.Current())
	}
	allowed(false)
	k.SeeNamespaces(x)
	allowed(true)
	// Not known is not the same as none.
	if p := k.SeeNamespaces(nil); p == nil {
		t.Error("the policy stays as it is when labels are not known any more")
	}
	allowed(false)
	// A restart knows nothing until it has looked.
	again := w.open()
	if d := again.Current().Decide(get); d.Allowed {
		t.Error("allowed by labels that nobody has looked at")
	}
	again.SeeNamespaces(x)
	if d := again.Current().Decide(get); !d.Allowed {
		t.Error(d.Reason)
	}
}

func TestLabelsDoNotOpenAClosedAgent(t *testing.T) {
	w := newWorld(t)
	k := w.open()
	w.accept(k, w.bundle(5, byLabel))
	if _, err := k.Accept(w.bundle(6, byLabel, func(b *apiv1.Bundle) { b.Requires = append(b.Requires, "moon-phase.v1") })); err == nil {
		t.Fatal("a bundle that needs what nobody knows was taken")
	}
	if p := k.SeeNamespaces(policy.Namespaces{"x": {"team": "a"}}); p != nil {
		t.Errorf("another policy: %v", p)
	}
	if d := k.Current().Decide(get); d.Allowed {
		t.Error("allowed by a bundle that cannot be used")
	}
}
