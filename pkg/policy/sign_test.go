package policy

import (
	"bytes"
	"crypto/ed25519"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	apiv1 "github.com/sallyport-mesh/sallyport/pkg/api/sallyport/v1"
)

func signer(t testing.TB, seed byte) *Signer {
	t.Helper()
	s, err := NewSigner(ed25519.NewKeyFromSeed(bytes.Repeat([]byte{seed}, ed25519.SeedSize)))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestSignatureHoldsForItsKeyContextAndBytesOnly(t *testing.T) {
	one, two := signer(t, 1), signer(t, 2)
	v, err := NewVerifier(one.Public())
	if err != nil {
		t.Fatal(err)
	}
	signed := one.Sign(BundleContext, []byte("payload"))
	if err := v.Verify(BundleContext, signed); err != nil {
		t.Fatal(err)
	}
	change := func(f func(*apiv1.Signed)) *apiv1.Signed { x := proto.CloneOf(signed); f(x); return x }
	for name, bad := range map[string]error{
		"context":   v.Verify(HeartbeatContext, signed),
		"key":       v.Verify(BundleContext, two.Sign(BundleContext, []byte("payload"))),
		"key id":    v.Verify(BundleContext, change(func(x *apiv1.Signed) { x.KeyId = KeyID(two.Public()) })),
		"payload":   v.Verify(BundleContext, change(func(x *apiv1.Signed) { x.Payload[0]++ })),
		"signature": v.Verify(BundleContext, change(func(x *apiv1.Signed) { x.Signature[0]++ })),
		"none":      v.Verify(BundleContext, change(func(x *apiv1.Signed) { x.Signature = nil })),
		"nil":       v.Verify(BundleContext, nil),
		"shifted":   v.Verify(BundleContext+"\x00p", change(func(x *apiv1.Signed) { x.Payload = []byte("ayload") })),
	} {
		if bad == nil {
			t.Errorf("another %s verified", name)
		}
	}
	if _, err := NewVerifier(); err == nil {
		t.Error("a verifier without keys was made")
	}
	if _, err := NewVerifier([]byte("short")); err == nil {
		t.Error("a verifier of a short key was made")
	}
}

func TestHugePayloadsAreNotRead(t *testing.T) {
	if _, err := ParseBundle(make([]byte, MaxBundle+1)); err == nil {
		t.Error("a huge bundle was read")
	}
	if _, err := ParseHeartbeat(make([]byte, MaxHeartbeat+1)); err == nil {
		t.Error("a huge heartbeat was read")
	}
}

// FuzzBundle: whatever parses and compiles decides without panicking, and allows
// nothing to whom it does not list.
func FuzzBundle(f *testing.F) {
	for _, b := range []*apiv1.Bundle{
		bundleOf([]*apiv1.Role{custom("r", on([]string{"*"}, []string{"*"}, "*"), deny(named(on([]string{"get"}, []string{""}, "pods"), "n")))},
			until(grantTo("a", "r", "x"), time.Unix(1<<33, 0)), grantTo("b", "r")),
		large(2, 10, 2),
	} {
		data, err := proto.Marshal(b)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		b, err := ParseBundle(data)
		if err != nil {
			return
		}
		p, err := Compile(b)
		if err != nil {
			return
		}
		for _, user := range append(p.Users(), "stranger") {
			for _, a := range []Attributes{
				ask(user, "get", "", "pods", "x", "p"), ask(user, "impersonate", "", "users", "", "x"),
				ask(user, "get", "", "secrets", SystemNamespace, "x"), path(user, "get", "/metrics"),
			} {
				d := p.Decide(a)
				if d.Allowed && (user == "stranger" || a.Verb == "impersonate" || a.Namespace == SystemNamespace) {
					t.Fatalf("%+v allowed: %+v", a, d)
				}
			}
			p.Entitlements(user)
			p.Rules(user, "x")
		}
	})
}

func FuzzHeartbeat(f *testing.F) {
	data, err := proto.Marshal(&apiv1.Heartbeat{ClusterId: "cls-1", Revision: 1, Time: timestamppb.Now()})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Fuzz(func(t *testing.T, data []byte) {
		if h, err := ParseHeartbeat(data); err == nil && !h.GetTime().IsValid() {
			t.Fatal("a heartbeat without a time was read")
		}
	})
}
