// Package incluster proves, without a container engine, that the agent runs in a
// cluster as the manifest puts it there. Its tests hold a small hand that does a
// kubelet's and a container runtime's work for one pod.
//
// Real: the manifest as sallyportctl prints it, applied by kubectl; the
// apiserver with its admission, pod security level included; the pod that the
// controllers made and the scheduler bound; its spec as the apiserver answers it
// to the node; the image archive of tools/image; the projected service account
// token, bound to that pod and asked for as the node; the claim and the volume
// that the controllers bind to it; the namespaces, read-only root, user,
// capabilities and no_new_privs that the spec asks for, all the kernel's own. A
// field of the spec that the hand does not know fails the test.
//
// Root is needed: it is what a container runtime is.
//
// Not real: the node (kwok reports the pod as Running, whatever its process
// does); the network, which is a namespace with loopback and forwarders in place
// of kube-proxy and a CNI, and through which no UDP passes; the seccomp profile,
// which refuses what runtimes' default refuses but is not that list; the limit
// of memory, which is compared with the peak instead of enforced.
package incluster
