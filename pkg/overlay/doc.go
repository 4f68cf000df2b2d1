// Package overlay joins a process to the coordinator's WireGuard network. The
// agent and the client use it; nothing else in Sallyport touches tsnet.
//
// A [Node] is one member of the overlay: an address, a key that never leaves
// the state directory, and the short list of peers that the coordinator says it
// may reach. Traffic is userspace only: no root, no TUN device, no change to
// the host's routes or resolver.
//
// # What is trusted
//
// The coordinator decides who is a peer and which device a peer is; [Node.WhoIs]
// repeats what it said, and nothing else is ever consulted. An answer is kept
// only until the network map changes in any way, because a device that has lost
// its access must not be recognised from memory. When the stream of changes
// breaks, nothing is kept at all.
//
// # What is contacted
//
// The coordinator, the relays it names and the peers. Log upload, captive portal
// checks, port mapping and public relays are turned off, by switches where there
// are any (process.go) and by force where there are none (compiledin.go).
// docs/overlay.md lists them.
//
// # Process-wide state
//
// Some of tsnet's switches and the roots it verifies servers with belong to the
// whole process. The first [Start] sets them; a later one with another private
// root fails, since it could not be honoured.
package overlay
