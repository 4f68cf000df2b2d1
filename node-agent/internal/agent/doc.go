// Package agent wires the agent: everything it is made of meets here, and
// nowhere else.
//
// The order of the start is that of the trust: the directory is ours alone, the
// cluster knows us as the one account that its manifest made, the coordinator
// knows us by our key; then what is on disk (policy, log, ledger) is opened and
// checked; only then does anything listen. An audit log or a ledger that cannot
// be written ends the process, because what it would allow next would be on no
// record. The coordinator's absence ends nothing.
//
// The end goes the other way: nothing new is taken, what runs is ended, its
// outcomes are on disk and, where the coordinator answers at once, shipped.
package agent
