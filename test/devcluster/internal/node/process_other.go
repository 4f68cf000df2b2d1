//go:build !linux

package node

import "syscall"

// processAttributes puts an exec'd process into a group of its own. Only Linux can have the
// kernel kill it with the node.
func processAttributes(tty bool) *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: !tty}
}
