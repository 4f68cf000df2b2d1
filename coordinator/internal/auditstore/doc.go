// Package auditstore is the coordinator's copy of every agent's audit log, and the
// log of the coordinator's own acts. It is where records are searched.
//
// Why each record is here exactly once, and cannot be changed later:
//
//   - An agent's records are taken only where its log here ends. What overlaps is
//     compared leaf by leaf and skipped; what would leave a gap is refused with
//     the size that is here, and the agent goes on from there.
//   - The records, hashed onto the tree that is here, must give the root that the
//     agent has signed. So a changed, dropped, swapped or foreign record is
//     refused on arrival; a fork or a rollback is named and kept as evidence.
//   - Records, indexes, tree and the agent's checkpoint go into one synced
//     transaction. Only then is the checkpoint countersigned, and only with that
//     may the agent trim. A crash before the answer costs one repetition.
//   - A log belongs to one agent, known by its certificate, and to one checkpoint
//     key. An agent has one epoch; a second one needs an administrator.
//
// Concurrent appends share a sync: one committer drains them into one
// transaction. A commit that fails ends the store (Failed), as in the agent.
//
// A record that cannot be read as JSON is stored and proved like any other and
// found by log and time of arrival only: one bad record does not block the rest.
//
// Own puts the coordinator's acts into a log of the same kind, signed with one
// key and countersigned with the other.
package auditstore
