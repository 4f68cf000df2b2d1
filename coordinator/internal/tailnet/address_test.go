package tailnet

import (
	"net/netip"
	"testing"

	"tailscale.com/net/tsaddr"
	"tailscale.com/tailcfg"

	"github.com/sallyport-mesh/sallyport/coordinator/internal/store"
	"github.com/sallyport-mesh/sallyport/coordinator/internal/store/storetest"
)

func TestAddressesAreFreeAndMeanNothingElseToClients(t *testing.T) {
	st := storetest.New(t)
	seen := map[netip.Addr]bool{}
	take := func(id tailcfg.NodeID) netip.Addr {
		var a netip.Addr
		_, err := st.Update(t.Context(), func(tx store.Txn) (err error) {
			if a, err = allocate(tx, id); err == nil {
				tx.Put(addrPrefix+a.String(), []byte("x"))
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	offset := func(s string) tailcfg.NodeID {
		a, b := netip.MustParseAddr(s).As4(), addrRange.Addr().As4()
		var d tailcfg.NodeID
		for i := range 4 {
			d = d<<8 + tailcfg.NodeID(a[i]) - tailcfg.NodeID(b[i])
		}
		return d
	}
	ids := []tailcfg.NodeID{
		0, 1, 1, 2, 1 << 22, 1<<22 - 1, 1<<22 + 1, 1 << 40,
		offset("100.100.100.100"), offset("100.100.100.99"), offset("100.100.0.1"), offset("100.115.92.7"), offset("100.115.93.255"),
	}
	for _, id := range ids {
		a := take(id)
		switch {
		case seen[a]:
			t.Errorf("%v is given out twice", a)
		case !tsaddr.IsTailscaleIP(a), a == tsaddr.TailscaleServiceIP(), a == addrRange.Addr():
			t.Errorf("%v is given out", a)
		}
		for _, p := range reserved {
			if p.Contains(a) {
				t.Errorf("%v is reserved", a)
			}
		}
		seen[a] = true
		if v6 := (record{IPv4: a}).ipv6(); !tsaddr.TailscaleULARange().Contains(v6) {
			t.Errorf("%v maps to %v", a, v6)
		}
	}
}

func TestAddressStaysWithItsMemberAndIsFreeWhenForgotten(t *testing.T) {
	m := newMesh(t, device("dev-1"), device("dev-2"))
	m.enrolled("dev-1")
	had := m.Status("dev-1").Addrs[0]
	m.enrolled("dev-1") // another machine
	if got := m.Status("dev-1").Addrs[0]; got != had {
		t.Errorf("had %v, has %v", had, got)
	}
	if err := m.Forget(t.Context(), "dev-1"); err != nil {
		t.Fatal(err)
	}
	err := m.store.View(t.Context(), func(r store.Reader) error {
		it, err := r.Get(addrPrefix + had.String())
		if it != nil {
			t.Errorf("%v still belongs to %s", had, it.Value)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}
