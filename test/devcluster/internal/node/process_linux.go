package node

import "syscall"

// processAttributes puts an exec'd process into a group of its own, and has the kernel kill
// it with the node. A process on a terminal leads a session, which is a group too.
func processAttributes(tty bool) *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: !tty, Pdeathsig: syscall.SIGKILL}
}
