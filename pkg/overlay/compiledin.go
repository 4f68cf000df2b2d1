package overlay

import (
	"crypto/x509"
	"sync"
	_ "unsafe" // for go:linkname

	_ "tailscale.com/net/bakedroots"
	_ "tailscale.com/net/dnsfallback"
)

// Two things are compiled into tailscale.com that a private overlay must not
// have, and there is no switch for either. Tests here fail if a new version keeps
// them elsewhere.

// When the resolver cannot find the coordinator, tsnet asks a list of public
// relays for its address, which would tell strangers where it is. The list is
// emptied; what remains are the relays that the coordinator itself named.
//
//go:linkname publicRelays tailscale.com/net/dnsfallback.staticDERPMapJSON
var publicRelays []byte

func init() { publicRelays = []byte(`{"Regions":{}}`) }

// Where the process's roots do not vouch for a server, tsnet tries Let's
// Encrypt's. It does not compare names where the URL has an address, so with a
// private root anyone with a certificate of theirs could pass for the
// coordinator.
//
//go:linkname bakedRoots tailscale.com/net/bakedroots.roots
var bakedRoots struct {
	once sync.Once
	p    *x509.CertPool
}

func dropBakedRoots() {
	bakedRoots.once.Do(func() {})
	bakedRoots.p = x509.NewCertPool()
}
