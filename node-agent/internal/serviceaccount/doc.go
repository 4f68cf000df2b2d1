// Package serviceaccount lends people an identity in the cluster for as long as
// they use it.
//
// A person's first request makes an account in sallyport-users and binds it to
// what policy entitles him to, never more than the owner's ceiling; a token for
// it lives in this process's memory and nowhere else. Before that moment nothing
// of his exists in the cluster, and after a revocation, an expiry, a lost
// entitlement or half an hour of idleness nothing does again.
//
// Why this cannot be turned against the cluster:
//
//   - What exists under a name of ours but not in our ledger, by UID, was made by
//     somebody else: it is deleted, and an account of that kind costs its name
//     too, since a token of it may live on in the apiserver's cache for seconds.
//   - An account exists before its bindings and outlives them, so a binding never
//     waits for whoever makes the account first.
//   - Roles are named by the hash of their rules. Two replicas that make the same
//     role make the same thing, and a changed one is put right or made anew.
//   - Everything that changes a person's account holds his lock, minting and
//     revoking alike, and reads the policy in force after taking it. So once the
//     new policy is in force and Apply has had the lock, no older one is at work.
//   - The ledger is written after the objects. A crash between leaves objects
//     without an entry, which the next start sweeps by their label.
//
// The warm path is one map lookup and no write to the cluster.
package serviceaccount
