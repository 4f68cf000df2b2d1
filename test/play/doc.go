// Package play sets the whole of Sallyport up on one machine, from the built
// binaries and real parts: Hydra, Kubernetes clusters, a coordinator, agents
// beside the clusters, and people who are logged in and joined.
//
// `make up`, the end-to-end tests and the benchmarks use the same World, so what
// a newcomer plays with is what the tests prove. Every process is a child that
// dies with this one; everything listens on loopback.
package play
