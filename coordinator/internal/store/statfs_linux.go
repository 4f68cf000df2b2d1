package store

import "golang.org/x/sys/unix"

// freeSpace is how many bytes an unprivileged process can still write to dir.
func freeSpace(dir string) (uint64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, err
	}
	return st.Bavail * uint64(st.Bsize), nil
}
