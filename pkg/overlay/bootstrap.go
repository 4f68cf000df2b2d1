package overlay

import (
	_ "unsafe" // for go:linkname

	_ "tailscale.com/net/dnsfallback"
)

// When the resolver cannot find the coordinator, tsnet asks a list of public
// relays for its address, which would tell strangers where it is. There is no
// switch for that, so the list, which is compiled into tailscale.com, is emptied;
// what remains are the relays that the coordinator itself named.
// TestNoPublicRelayIsAskedForNames fails if a new version keeps it elsewhere.
//
//go:linkname publicRelays tailscale.com/net/dnsfallback.staticDERPMapJSON
var publicRelays []byte

func init() { publicRelays = []byte(`{"Regions":{}}`) }
