//go:build !long

package uplink

// crashRounds is how often something is killed.
const crashRounds = 12
