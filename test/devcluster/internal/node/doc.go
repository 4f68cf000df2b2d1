// Package node is the devcluster's one worker node.
//
// The node object and the life of its pods are kwok's: a pod that is scheduled here becomes
// Running at once, a Job's pod completes, a deleted pod goes. Nothing is pulled and no image
// runs.
//
// What a kubelet serves, this package serves itself, on the same streaming code the kubelet
// uses (k8s.io/cri-streaming), because kwok's own server asks nobody for a certificate: its
// exec would hand every local user of the machine a shell. This one listens on loopback and
// takes only the apiserver's client certificate.
//
//   - exec starts a real local process in the container's own empty directory. It is not a
//     sandbox: it runs as whoever started the devcluster and sees the machine's files.
//   - a container's main program prints a line when it starts, echoes each line it is sent
//     through attach, and prints a tick every second while somebody follows it. Its output is
//     a log file in the CRI format, so logs has tail, since, limits and timestamps.
//   - port-forward reaches a responder inside the process: port 7 echoes bytes, port 1 refuses,
//     every other port speaks HTTP (see responder.go).
//
// A process started by exec lives in a process group of its own, which is killed when the
// process ends, when its pod is deleted and when the node stops; the kernel kills the process
// itself when the node is killed.
package node
