// Package cluster starts, supervises and stops one devcluster.
//
// Everything of a cluster lies in one directory: keys, etcd's data, logs, the containers'
// directories, admin.kubeconfig. One supervisor process owns it and holds a lock on a file in
// it; the components it starts inherit a second lock. So a start knows which of three things it
// has met: a running cluster, the components of a supervisor that was killed and which are just
// ending, or a directory at rest.
//
// Nothing outlives its supervisor. Each component reads a pipe that only the supervisor holds
// and ends when it closes, and on Linux the kernel kills it too. The supervisor itself ends on
// SIGTERM, when its parent is gone, and when its standard input, if that is a pipe, closes.
package cluster
