package incluster

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"

	"golang.org/x/sys/unix"
)

// sandbox is what a container runtime is told: the process, and the walls
// around it.
type sandbox struct {
	Root     string
	Mounts   []bind
	Hostname string

	Args, Env []string
	Dir       string

	UID, GID         int
	Groups           []int
	ReadOnlyRoot     bool
	NoNewPrivileges  bool
	DropCapabilities bool
	// Refused are numbers of system calls that fail with EPERM.
	Refused []uint32
}

type bind struct {
	Source, Target string
	ReadOnly       bool
}

// enter is the first process of a container. It comes up as root in namespaces
// of its own, builds the walls, gives up every right, and becomes the program.
// It returns only when that fails.
func enter(spec *os.File) error {
	var s sandbox
	if err := json.NewDecoder(spec).Decode(&s); err != nil {
		return err
	}
	_ = spec.Close()
	if err := unix.Sethostname([]byte(s.Hostname)); err != nil {
		return fmt.Errorf("sethostname: %w", err)
	}
	if err := s.mounts(); err != nil {
		return err
	}
	if err := unix.Chdir(s.Dir); err != nil {
		return fmt.Errorf("chdir: %w", err)
	}
	// Rights belong to a thread: from here to exec it must be this one.
	runtime.LockOSThread()
	if err := s.giveUp(); err != nil {
		return err
	}
	return fmt.Errorf("exec %s: %w", s.Args[0], unix.Exec(s.Args[0], s.Args, s.Env))
}

// mounts makes the container's own file system and nothing else visible.
func (s *sandbox) mounts() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("leaving the host's mounts: %w", err)
	}
	if err := unix.Mount(s.Root, s.Root, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("binding root: %w", err)
	}
	const still = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	for _, m := range []struct {
		target, kind string
		flags        uintptr
		data         string
	}{
		{"/proc", "proc", still, ""},
		{"/sys", "sysfs", still | unix.MS_RDONLY, ""},
		{"/dev", "tmpfs", unix.MS_NOSUID, "mode=755,size=64k"},
	} {
		target := filepath.Join(s.Root, m.target)
		if err := os.MkdirAll(target, 0o755); err != nil {
			return err
		}
		if err := unix.Mount(m.kind, target, m.kind, m.flags, m.data); err != nil {
			return fmt.Errorf("mounting %s: %w", m.target, err)
		}
	}
	binds := s.Mounts
	for _, device := range []string{"null", "zero", "full", "random", "urandom"} {
		binds = append(binds, bind{Source: "/dev/" + device, Target: "/dev/" + device})
	}
	for _, b := range binds {
		if err := b.mount(s.Root); err != nil {
			return fmt.Errorf("mounting %s: %w", b.Target, err)
		}
	}
	if s.ReadOnlyRoot {
		if err := unix.Mount("", s.Root, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
			return fmt.Errorf("making root read-only: %w", err)
		}
	}
	if err := unix.Chdir(s.Root); err != nil {
		return err
	}
	// The old root comes to lie over the new one, and is taken off.
	if err := unix.PivotRoot(".", "."); err != nil {
		return fmt.Errorf("pivot_root: %w", err)
	}
	return unix.Unmount(".", unix.MNT_DETACH)
}

func (b bind) mount(root string) error {
	target := filepath.Join(root, b.Target)
	info, err := os.Stat(b.Source)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
		return err
	}
	if info.IsDir() {
		err = os.MkdirAll(target, 0o755)
	} else if err = os.WriteFile(target, nil, 0o644); errors.Is(err, os.ErrExist) {
		err = nil
	}
	if err != nil {
		return err
	}
	if err := unix.Mount(b.Source, target, "", unix.MS_BIND, ""); err != nil {
		return err
	}
	if b.ReadOnly {
		return unix.Mount("", target, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, "")
	}
	return nil
}

// giveUp takes from this thread what the pod may not have, in the order in
// which each step still has the right to do it.
func (s *sandbox) giveUp() error {
	if s.DropCapabilities {
		for c := uintptr(0); c <= unix.CAP_LAST_CAP; c++ {
			if err := unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0); err != nil {
				return fmt.Errorf("dropping capability %d: %w", c, err)
			}
		}
	}
	groups := make([]uint32, 0, len(s.Groups)+1)
	for _, g := range s.Groups {
		groups = append(groups, uint32(g))
	}
	// By hand: Go's own calls would change every thread, and the race detector's
	// threads are not Go's.
	if err := setgroups(groups); err != nil {
		return fmt.Errorf("setgroups: %w", err)
	}
	if _, _, e := unix.RawSyscall(unix.SYS_SETRESGID, uintptr(s.GID), uintptr(s.GID), uintptr(s.GID)); e != 0 {
		return fmt.Errorf("setresgid: %w", e)
	}
	if _, _, e := unix.RawSyscall(unix.SYS_SETRESUID, uintptr(s.UID), uintptr(s.UID), uintptr(s.UID)); e != 0 {
		return fmt.Errorf("setresuid: %w", e)
	}
	if s.NoNewPrivileges {
		if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
			return fmt.Errorf("setting no_new_privs: %w", err)
		}
	}
	return s.refuse()
}
