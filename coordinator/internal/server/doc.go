// Package server wires the coordinator: it opens what the configuration names,
// in the order in which one thing needs another, and serves until it is told to
// stop or until something that must not fail has failed.
//
// Nothing listens before everything is open, so a coordinator that answers is
// whole. When the state or the audit store breaks, the process ends: what was
// acknowledged is on disk, and a fresh start reads it; going on would not be
// safe.
package server
