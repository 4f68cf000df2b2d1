// Package identity names everyone and everything: ids, SPIFFE IDs and what a
// certificate says about its holder.
//
// A certificate of ours has exactly one URI SAN. A user's names the user and
// the device the key was made on; the session and the auth generation it was
// issued under stand in a private, non-critical extension of the same
// certificate, so that a session can be ended, and everything issued before a
// moment can be ended, without a revocation list. An agent's names its cluster
// and the replica. Parsing is strict: anything that is not exactly one of these
// forms is nobody.
package identity
