// Package proxy is the door: it takes a person's request off the overlay and
// hands it to the apiserver, or does not.
//
// Every request goes through the same eight steps, in this order, one file each:
//
//	accept    accept.go    TLS 1.3, a client certificate, bounded everything
//	identify  identify.go  the certificate's device must be the overlay node's
//	parse     parse.go     one reading of target, headers and upgrade
//	decide    decide.go    policy, fresh enough for this kind of request
//	intent    intent.go    a durable record before anything goes upstream
//	mint      mint.go      a token of the person's own service account
//	forward   forward.go   what was decided, byte for byte, as that account
//	outcome   outcome.go   how it ended
//
// Why this is safe:
//
//   - The only function that can reach the apiserver with a person's bytes is
//     forward, its one caller is the sequence in serve (proxy.go), and every
//     earlier step ends the request by returning a refusal. No step logs an error
//     and goes on. A panic in a step is a refusal too.
//   - The two upstream transports are built from rest.AnonymousClientConfig and
//     New fails if a certificate is left on them, so there is no credential in
//     reach that could be the agent's own. An empty token is an error.
//   - Whatever is decided, recorded and forwarded comes from one reading. Where a
//     target or header could be read in two ways there is none, and the request
//     is refused. The target then goes upstream as the bytes that were read.
//   - From parse on, a request stands in the registry with its attributes. Cut
//     decides each of them again; forward begins only under the entry's lock and
//     after another look at the policy, so that there is no moment in which a
//     revocation finds a request nowhere: it is either before that look, and is
//     stopped there, or in the registry as forwarding, and is ended there.
package proxy
