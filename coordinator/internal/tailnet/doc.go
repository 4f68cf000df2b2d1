// Package tailnet is the overlay's control server: it decides who is on the
// WireGuard network, what each node is told about, and what each may reach. It
// speaks Tailscale's control protocol (ts2021), so that tsnet joins unchanged,
// and embeds the relay (DERP) and STUN that nodes need to find each other.
//
// # Why it is safe
//
// A node is admitted by a single-use auth key that names one member. The key is
// stored as a hash, and it is spent in the same transaction that records the
// node, so that it cannot work twice, whatever crashes in between. From then on
// the machine key, which Noise proves on every connection, is the identity: a
// request about a node key is answered only to the machine that registered it.
//
// What a node is told is a pure function of the [Topology] and of the nodes that
// have registered, computed in one place ([Server.view]). A node hears of exactly
// the peers that it has an edge to; an agent's packet filter admits port 443
// from exactly those devices, and a device's admits nothing. There is no rule
// that could be forgotten: no edge means not in the map, no key for WireGuard,
// no filter, no name.
//
// Who a device belongs to reaches an agent only as a capability in the agent's
// own packet filter, set here. A device cannot say it about itself.
//
// Nothing is answered before the first topology has been set: a coordinator that
// has just started must not mistake 'not known yet' for 'removed'.
//
// # Liveness
//
// A stream keeps the view it was last sent, and when it is woken it computes the
// difference to the newest one. So a slow client costs one view and one frame,
// however many changes it slept through, and holds up nobody else. Changes wake
// only the nodes whose view they can change.
//
// # What is kept
//
// Node records, the server's keys and unspent auth keys are in the store, under
// "tailnet/". Who is online and at which addresses is kept in memory alone;
// after a restart the nodes say it again, and meanwhile reach each other through
// the relay by what the records hold.
package tailnet
