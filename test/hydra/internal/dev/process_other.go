//go:build !linux

package dev

import "syscall"

// processAttributes keep a terminal's Ctrl-C from the process, which the supervisor stops in
// order.
func processAttributes(syscall.Signal) *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true}
}
