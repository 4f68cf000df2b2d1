// Package auditlog is the agent's append-only log: an intent is on disk before a
// byte goes upstream, and what is on disk can be proved.
//
// Why nothing is lost:
//
//   - Intent returns after a synced commit, or with an error, and then the
//     request is refused. Records, tree and size go in one transaction, so a
//     crash leaves all of a batch or none; positions have no gaps.
//   - One committer drains everyone who waits into one transaction, at most
//     256 KiB of records. Sizes are bounded by audit.Encode before that, so no
//     client can make a commit fail; if one does fail the log is over (Failed):
//     an fsync that failed is never tried again, because the kernel may have
//     dropped the pages.
//   - The disk is asked before every batch. Below the bound there is no access,
//     said clearly; a ballast file is given up then, so that outcomes of what
//     still runs, and trimming, have room. Badger's memory-mapped files must never
//     meet a full disk: that is a SIGBUS, not an error.
//   - Refusals equal to each other are counted together and each user has a
//     quota, so that nobody fills the disk by being refused.
//
// Why nothing is hidden: a checkpoint of what is on disk is kept in a file of its
// own beside Badger, renewed every second and before any is shown to others. Open
// recomputes the tree from the last acknowledged size and refuses a log that is
// shorter than its own checkpoint (ErrRollback) or hashes to something else
// (ErrCorrupt); one flipped bit in Badger's write-ahead log, which makes it drop
// the rest without a word, is found that way. Checkpoints are signed only over
// what is synced, or an honest crash would look like a fork.
//
// What is acknowledged stays for seven days, so that the coordinator can be
// repaired from here, and goes then; what is not acknowledged stays.
package auditlog
