// Package pki holds what every part of Sallyport does with keys and
// certificates on disk and on the wire, and nothing that issues them (that is
// the coordinator's ca).
//
// Keys are P-256 and never leave the machine they were made on: what travels is
// a CSR. A key file is 0600 from its first byte and appears whole or not at all
// (written beside, synced, renamed), so a crash leaves either no key or a good
// one. First trust is a pin, the SHA-256 of a root's public key, carried by a
// login URL or a join token; a connection under a pin is verified in full
// (chain, name, purpose) with that root alone, so a pin is never less than a
// private root in the trust store would be, and system roots play no part.
// Whatever parses bytes from others is strict: one form, or an error.
package pki
