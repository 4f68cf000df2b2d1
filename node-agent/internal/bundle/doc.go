// Package bundle keeps the policy that the agent decides by: the newest bundle
// that the coordinator signed for this cluster, and how fresh it is.
//
// Why an agent does not decide by what it should not:
//
//   - A bundle counts only with a signature of a key that enrolment named, for
//     this cluster, and of a later revision than the one held. It is on disk,
//     synced, before it is used, so a restart never goes back to an older one.
//   - A newer bundle that is genuine but cannot be used, because it requires
//     what this version does not know, closes the agent: it refuses every
//     request rather than go on with a policy known to be over.
//   - Freshness is proven by heartbeats alone, and only by one that names the
//     very bundle held. One that names a newer bundle says that this one is
//     over, so it extends nothing.
//   - 'Now' never comes from the wall clock while there is anything better. It is
//     the time of a heartbeat plus the boot time since, which runs through
//     suspension and which nobody sets. A heartbeat that was held back on its way
//     cannot turn it back: elapsed time counts, less one part in a thousand for
//     a clock that runs fast.
//   - A mark on disk carries 'now' over a restart. Within one boot nothing is
//     lost. After a reboot the time away is not known: 'now' is the mark plus the
//     time since boot, or the wall clock where that is later, and writes and exec
//     count as stale until the next heartbeat.
package bundle
