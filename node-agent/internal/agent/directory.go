package agent

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/gofrs/flock"

	"github.com/sallyport-mesh/sallyport/pkg/process"
)

// directory is the agent's data directory, locked against a second process.
type directory struct {
	path string
	lock *flock.Flock
	made bool // by us, just now
}

func openDirectory(path string) (*directory, error) {
	d := &directory{path: path}
	_, err := os.Stat(path)
	d.made = errors.Is(err, fs.ErrNotExist)
	if err := os.MkdirAll(path, 0o700); err != nil {
		return nil, process.Hint(fmt.Errorf("opening data directory: %w", err), "name another one: --data-dir DIR")
	}
	d.lock = flock.New(filepath.Join(path, "lock"), flock.SetPermissions(0o600))
	ok, err := d.lock.TryLock()
	if err != nil {
		return nil, process.Hint(fmt.Errorf("locking data directory: %w", err), "name another one: --data-dir DIR")
	}
	if !ok {
		return nil, process.Hint(fmt.Errorf("another process holds the data directory %s", path), "stop it, or name another one: --data-dir DIR")
	}
	return d, nil
}

func (d *directory) sub(name string) string { return filepath.Join(d.path, name) }

// abandon takes back what openDirectory made, after a start that came to
// nothing. A directory that holds anything else stays.
func (d *directory) abandon() {
	if d.made {
		_ = os.Remove(d.sub("lock"))
		_ = os.Remove(d.path)
	}
}

func (d *directory) close() error { return d.lock.Unlock() }
