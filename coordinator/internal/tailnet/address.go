package tailnet

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"

	"tailscale.com/tailcfg"

	"github.com/sallyport-mesh/sallyport/coordinator/internal/store"
)

var (
	// addrRange is the shared address space of RFC 6598, which Tailscale uses.
	addrRange = netip.MustParsePrefix("100.64.0.0/10")
	// reserved parts of it mean something to clients: the resolver and its
	// neighbours, and the range that ChromeOS gives to its own machines.
	reserved = []netip.Prefix{
		netip.MustParsePrefix("100.100.0.0/24"),
		netip.MustParsePrefix("100.100.100.0/24"),
		netip.MustParsePrefix("100.115.92.0/23"),
	}
)

const addrCount = 1 << 22 // addresses in addrRange

// nth is the address at an offset into the range.
func nth(offset uint32) netip.Addr {
	b := addrRange.Addr().As4()
	binary.BigEndian.PutUint32(b[:], binary.BigEndian.Uint32(b[:])+offset)
	return netip.AddrFrom4(b)
}

func usable(offset uint32) bool {
	a := nth(offset)
	return offset != 0 && offset != addrCount-1 &&
		!slices.ContainsFunc(reserved, func(p netip.Prefix) bool { return p.Contains(a) })
}

// nextID gives out a node id, which is never used again.
func nextID(tx store.Txn) (tailcfg.NodeID, error) {
	it, err := tx.Get(serial)
	if err != nil {
		return 0, err
	}
	var last int64
	if it != nil {
		if last, err = strconv.ParseInt(string(it.Value), 10, 64); err != nil {
			return 0, fmt.Errorf("decoding %s: %w", serial, err)
		}
	}
	last++
	tx.Put(serial, strconv.AppendInt(nil, last, 10))
	return tailcfg.NodeID(last), nil
}

// allocate finds a free address, looking first at the one that the node's id
// points to: ids rise, so an address that was given back stays unused longest.
func allocate(tx store.Txn, id tailcfg.NodeID) (netip.Addr, error) {
	for i := range uint32(addrCount) {
		offset := (uint32(id%addrCount) + i) % addrCount
		if !usable(offset) {
			continue
		}
		a := nth(offset)
		it, err := tx.Get(addrPrefix + a.String())
		if err != nil {
			return netip.Addr{}, err
		}
		if it == nil {
			return a, nil
		}
	}
	return netip.Addr{}, errors.New("every overlay address is in use")
}
