package dev

import "syscall"

// processAttributes keep a terminal's Ctrl-C from the process, which the supervisor stops in
// order, and have the kernel send s when the supervisor dies.
func processAttributes(s syscall.Signal) *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: s}
}
