package store

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/gofrs/flock"
)

// prepareDir makes the directory, for the owner alone, and refuses one whose
// file system cannot be trusted with a sync.
func prepareDir(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	info, err := os.Stat(dir)
	if err != nil {
		return err
	}
	if !info.IsDir() {
		return errors.New("not a directory")
	}
	if info.Mode().Perm()&0o077 != 0 {
		if err := os.Chmod(dir, 0o700); err != nil {
			return fmt.Errorf("closing the directory to others: %w", err)
		}
	}
	name, err := networkFileSystem(dir)
	if err != nil {
		return fmt.Errorf("asking for the file system: %w", err)
	}
	if name != "" {
		return fmt.Errorf("it is on %s: a network file system can lose what was synced; use a directory on a local disk", name)
	}
	return nil
}

// lockDir takes the directory before anything in it is touched. The kernel
// frees the lock when the process ends, however it ends.
func lockDir(dir string) (*flock.Flock, error) {
	lock := flock.New(filepath.Join(dir, "lock"), flock.SetPermissions(0o600))
	ok, err := lock.TryLock()
	if err != nil {
		return nil, fmt.Errorf("locking: %w", err)
	}
	if !ok {
		return nil, ErrLocked
	}
	return lock, nil
}

// removeEmptyFiles removes 0-byte write-ahead and value logs. A kill between
// making such a file and giving it its size leaves one, and Badger then refuses
// to open; it holds nothing. The caller holds the lock.
func removeEmptyFiles(dir string, log *slog.Logger) error {
	for _, pattern := range []string{"*.mem", "*.vlog"} {
		paths, err := filepath.Glob(filepath.Join(dir, pattern))
		if err != nil {
			return err
		}
		for _, path := range paths {
			info, err := os.Lstat(path)
			if err != nil {
				return err
			}
			if !info.Mode().IsRegular() || info.Size() != 0 {
				continue
			}
			if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
			log.Info("removed an empty file that a kill left behind", "path", path)
		}
	}
	return nil
}
