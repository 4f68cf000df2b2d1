// Package directory is who and what there is: users, groups, projects,
// clusters, roles, grants, devices, sessions and agents, typed, over the store.
//
// Why it is safe to build on:
//
//   - Every change is one transaction of the store. What belongs together
//     happens together: a suspension marks the user, raises the auth generation,
//     revokes every session and queues the word to Hydra in one commit, so no
//     crash leaves half of it. Checks are made inside the transaction, so a
//     session is never created for a user whom a commit before suspended.
//   - A [Snapshot] is one revision, immutable. Everything that is derived
//     (bundles, netmaps, contexts) is a pure function of one snapshot and
//     carries its revision. A change returns once a snapshot at least as new as
//     its own revision is visible (read your writes).
//   - Nothing secret is in a snapshot, an error or a log line. Passwords are
//     argon2id hashes, join and welcome tokens SHA-256 hashes, each under keys
//     of their own that the snapshot never reads.
//   - What cannot be read is an error, never an absence: an object that does not
//     decode stops the directory rather than quietly dropping a suspension.
package directory
