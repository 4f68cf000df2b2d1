//go:build unix

package badgerdir

import (
	"os"
	"syscall"
)

// lock takes the lock that Badger takes; closing f lets go of it.
func lock(f *os.File) error {
	return syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
}
