// Package parts builds and starts the real parts that tests, benchmarks and the quickstart run
// against: a Kubernetes cluster (test/devcluster) and Ory Hydra (test/hydra). Both are modules
// of their own, so that what they need stays out of ours.
//
// A part is built once for what it is made of: the name of its directory in the cache is a hash
// over the Go version, the target, the build flags and every source file, so a binary that is
// found is the binary that would be built. Processes that ask at the same time wait for one
// build. An unfinished build is never visible: it is renamed into place.
//
// A part that was started ends with the context it was started under, with Stop, and when this
// process dies in whatever way: it holds one end of a pipe, and ends when the other is gone.
package parts
