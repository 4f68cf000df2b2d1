// Package ca is the coordinator's certificate authority.
//
// One root signs three issuing authorities and is not used again: users and
// agents may only be TLS clients, servers only TLS servers, and each issuing
// certificate says so (extended key usage, path length 0, and for the first two
// a name constraint to the trust domain). A verifier trusts the issuing
// certificate it means, so a user's certificate is worth nothing where an
// agent's is asked for, even if an issuing key were stolen.
//
// Nothing of a certificate request is believed but its public key and the proof
// that its sender holds the private one: names, uses and lifetime come from the
// caller, who has checked them.
package ca
