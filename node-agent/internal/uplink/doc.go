// Package uplink is the agent's line to the coordinator: policy comes down it and
// audit records go up.
//
// Ship sends the log in order, one batch in flight, each with a checkpoint over
// everything up to its end. It remembers nothing of its own: what the
// coordinator has countersigned stands in the log, and where the coordinator is,
// the coordinator says. So either side may be killed at any moment, and each
// record still arrives exactly once:
//
//   - An answer that was lost is asked for again; the coordinator compares what
//     overlaps and skips it.
//   - A coordinator that has less (it was restored) gets the rest again, loudly.
//   - One that has more, or another record or root, holds another history: that
//     is never tried again. The log refuses from then on, because requests that
//     can never be acknowledged must not be let through.
//
// A busy or absent coordinator is waited for; agents decide and record meanwhile.
package uplink
