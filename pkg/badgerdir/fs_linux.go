package badgerdir

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// networkFS are the magic numbers of statfs(2) that mean another machine.
var networkFS = map[uint32]string{
	unix.NFS_SUPER_MAGIC:  "nfs",
	unix.SMB_SUPER_MAGIC:  "smb",
	unix.CIFS_SUPER_MAGIC: "cifs",
	unix.SMB2_SUPER_MAGIC: "smb2",
	unix.V9FS_MAGIC:       "9p",
	unix.AFS_SUPER_MAGIC:  "afs",
	unix.AFS_FS_MAGIC:     "afs",
	unix.CEPH_SUPER_MAGIC: "ceph",
	unix.CODA_SUPER_MAGIC: "coda",
	unix.NCP_SUPER_MAGIC:  "ncp",
}

func refuseNetworkFS(dir string) error {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return fmt.Errorf("asking for the file system of %s: %w", dir, err)
	}
	if name, ok := networkFS[uint32(st.Type)]; ok {
		return fmt.Errorf("%s (%s): %w", dir, name, ErrNetworkFS)
	}
	return nil
}

// Free is how many bytes an unprivileged process may still write in dir.
func Free(dir string) (uint64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, fmt.Errorf("asking for free space in %s: %w", dir, err)
	}
	return st.Bavail * uint64(st.Bsize), nil
}
