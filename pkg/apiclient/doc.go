// Package apiclient makes Connect clients that talk to the coordinator, for the
// client, the agent and sallyportctl.
//
// Trust is package pki's: the root that an earlier enrolment left behind, or a
// pin of it for the very first contact, or the machine's public roots, and
// exactly one of them for a connection. TLS 1.3 only; sessions are never resumed;
// redirects are refused, so that a coordinator cannot hand a request that carries
// a secret on to someone else.
//
// The bootstrap socket (Config.Socket) carries the same services without TLS.
// There the server checks who the peer is, not the other way round.
package apiclient
