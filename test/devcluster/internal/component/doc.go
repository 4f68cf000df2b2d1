// Package component holds the programs a control plane is made of, each run as its own process
// of the one devcluster binary: etcd, kube-apiserver, kube-controller-manager, kube-scheduler
// and the node. They are the real ones, from their own modules.
//
// Each is started by the supervisor (package cluster) with the cluster's directory as its
// working directory and a pipe as its standard input. Nothing is ever written to that pipe: it
// is a lifeline, and its end means that the supervisor is gone, however it went.
package component
