// Package publish turns the directory into effect: it computes, signs and sends
// each cluster's policy bundle, takes the agents' confirmations, and tells the
// overlay who may reach whom.
//
// Why nobody has access that the directory does not give:
//
//   - A bundle is a pure function of one snapshot (BundleFor). Where its content
//     changed it is signed anew under that snapshot's revision; where it did not,
//     the bytes that were signed stay the ones in use, over restarts too.
//   - What was signed is noted in the store, synced, before anyone sees it. Two
//     bundles of one revision are never sent, and no agent is told an older one.
//   - While a change could not be noted, heartbeats stop: agents go stale rather
//     than be told that an outdated bundle is the newest.
//   - The overlay follows the agents, not the directory. Where access widens, a
//     device hears of an agent once that agent confirmed a bundle that allows it.
//     Where it narrows, the agent cuts first; the edge goes with its confirmation,
//     or after two seconds regardless.
//
// One goroutine (Run) computes; every agent's stream has its own and takes what
// is newest when it gets to it, so that a slow one delays nobody.
package publish
