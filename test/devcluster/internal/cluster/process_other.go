//go:build !linux

package cluster

import "syscall"

// processAttributes keep a terminal's Ctrl-C from the components, which the supervisor stops in
// order. That they end with the supervisor is left to the lifeline.
func processAttributes() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }
