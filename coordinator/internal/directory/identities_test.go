package directory

import (
	"errors"
	"strings"
	"testing"

	"github.com/sallyport-mesh/sallyport/coordinator/internal/store"
	apiv1 "github.com/sallyport-mesh/sallyport/pkg/api/sallyport/v1"
	"github.com/sallyport-mesh/sallyport/pkg/identity"
)

// TestIdentityIsOneUsers: a subject is one user, a user has one subject with each
// issuer, and the same subject at another issuer is somebody else.
func TestIdentityIsOneUsers(t *testing.T) {
	f := open(t)
	ctx := t.Context()
	shivam, mallory := f.user("shivam"), f.user("mallory")
	corp := &apiv1.Identity{Provider: "corp", Issuer: "https://corp.example", Subject: "1"}
	if _, _, err := f.LinkIdentity(ctx, "shivam", corp); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		user string
		id   *apiv1.Identity
	}{
		"somebody else's": {"mallory", corp},
		"a second one":    {"shivam", &apiv1.Identity{Provider: "corp", Issuer: "https://corp.example", Subject: "2"}},
		"no subject":      {"mallory", &apiv1.Identity{Provider: "corp", Issuer: "https://corp.example"}},
	} {
		if _, _, err := f.LinkIdentity(ctx, c.user, c.id); err == nil {
			t.Errorf("%s was linked", name)
		}
	}
	if u, err := f.UserByIdentity(ctx, corp.Issuer, corp.Subject); err != nil || u.Id != shivam.Id {
		t.Errorf("%v, %v", u, err)
	}
	if u, err := f.UserByIdentity(ctx, "https://other.example", corp.Subject); err == nil {
		t.Errorf("another issuer's subject is %v", u)
	}
	// Taken back: it ends what it let in, and is free.
	u, _, err := f.UnlinkIdentity(ctx, "shivam", "corp")
	if err != nil || u.AuthGeneration == shivam.AuthGeneration {
		t.Errorf("%v, %v", u, err)
	}
	if _, _, err := f.LinkIdentity(ctx, mallory.Name, corp); err != nil {
		t.Error(err)
	}
}

// TestDeletedUserLeavesNoWayIn: whoever was deleted leaves no identity, second
// factor or passkey that the next user of the name could inherit.
func TestDeletedUserLeavesNoWayIn(t *testing.T) {
	f := open(t)
	ctx := t.Context()
	u := f.user("shivam")
	id := &apiv1.Identity{Provider: "corp", Issuer: "https://corp.example", Subject: "1"}
	if _, _, err := f.LinkIdentity(ctx, u.Id, id); err != nil {
		t.Fatal(err)
	}
	if _, _, err := f.SetSecondFactor(ctx, u.Id, SecondFactor{Sealed: []byte("x"), Recovery: []string{"h"}}); err != nil {
		t.Fatal(err)
	}
	if err := f.AddPasskey(ctx, u.Id, Passkey{ID: []byte("key"), Name: "laptop", Credential: []byte(`{}`)}); err != nil {
		t.Fatal(err)
	}
	if _, _, err := f.DeleteUser(ctx, u.Id); err != nil {
		t.Fatal(err)
	}
	err := f.store.View(ctx, func(r store.Reader) error {
		return r.List("", func(it store.Item) error {
			if !strings.HasPrefix(it.Key, RevokePrefix) && (strings.Contains(it.Key, u.Id) || strings.Contains(string(it.Value), u.Id)) {
				t.Errorf("%s is left", it.Key)
			}
			return nil
		})
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.UserByIdentity(ctx, id.Issuer, id.Subject); err == nil {
		t.Error("the identity is still somebody's")
	}
}

// TestCodesWorkOnce at the store: a step, an earlier one, a recovery code.
func TestCodesWorkOnce(t *testing.T) {
	f := open(t)
	ctx := t.Context()
	u := f.user("shivam")
	if _, _, err := f.SetSecondFactor(ctx, u.Id, SecondFactor{Sealed: []byte("x"), LastStep: 10, Recovery: []string{"a", "b"}}); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		use  func() error
		good bool
	}{
		{func() error { return f.UseStep(ctx, u.Id, 10) }, false},
		{func() error { return f.UseStep(ctx, u.Id, 12) }, true},
		{func() error { return f.UseStep(ctx, u.Id, 12) }, false},
		{func() error { return f.UseStep(ctx, u.Id, 11) }, false},
		{func() error { return f.UseRecovery(ctx, u.Id, "b") }, true},
		{func() error { return f.UseRecovery(ctx, u.Id, "b") }, false},
		{func() error { return f.UseRecovery(ctx, u.Id, "") }, false},
	} {
		if err := c.use(); (err == nil) != c.good || err != nil && !errors.Is(err, ErrWrongCode) {
			t.Errorf("%v", err)
		}
	}
}

// FuzzNameFrom: whatever a provider calls somebody, a name comes of it.
func FuzzNameFrom(f *testing.F) {
	for _, s := range []string{"Virat.K@corp.example", "", "@", "usr-abcdefghijklmnop", "日本", "-a-", strings.Repeat("x", 300), "a b\nc", "shivam-2"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, wish string) {
		name := NameFrom(wish)
		if err := identity.CheckName(name); err != nil {
			t.Errorf("%q becomes %v", wish, err)
		}
		if err := identity.CheckName(name + "-12345"); err != nil {
			t.Errorf("%q leaves no room for a number: %v", wish, err)
		}
	})
}
