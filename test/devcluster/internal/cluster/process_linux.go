package cluster

import "syscall"

// processAttributes keep a terminal's Ctrl-C from the components, which the supervisor stops in
// order, and have the kernel end them with the supervisor. Not with SIGKILL: the node still has
// to kill what exec started. The lifeline ends a component that does not heed the signal.
func processAttributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
}
