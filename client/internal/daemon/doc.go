// Package daemon is the client that stays: it holds this device's place on the
// overlay, carries kubectl into it, and keeps kubeconfig to what the coordinator
// says is open to the person.
//
// There is one per home, held by a lock on a file that the kernel lets go of when
// the process ends, however it ends; so a socket that is there without the lock
// is old and is replaced. The daemon holds no power of its own: what it reads are
// the files of the person who runs it, and a connection that it carries still
// has to show the session's certificate to an agent.
//
// A daemon that the person asked for and that is gone is started again by the next
// kubectl (see WantedFile and package credential); its proxy listens where it did.
//
// When the coordinator says that the session is over, or its time comes, the
// daemon leaves the overlay at once and stays to tell why; a login wakes it. When
// the coordinator is merely away, everything goes on as it was.
package daemon
