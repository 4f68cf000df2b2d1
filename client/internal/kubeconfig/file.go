package kubeconfig

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/sallyport-mesh/sallyport/pkg/pki"
	"github.com/sallyport-mesh/sallyport/pkg/process"
)

// File is a kubeconfig and the home whose entries are kept in it.
type File struct {
	// Path of the kubeconfig. It need not exist.
	Path string
	// Owner is the home, an absolute path.
	Owner string
}

// DefaultPath is explicit, else the first file of $KUBECONFIG, else
// ~/.kube/config: where kubectl itself would write.
func DefaultPath(explicit string) (string, error) {
	if explicit != "" {
		return filepath.Abs(explicit)
	}
	if paths := Paths(); len(paths) > 0 {
		return filepath.Abs(paths[0])
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "", process.Hint(fmt.Errorf("finding your kubeconfig: %w", err), "set KUBECONFIG")
	}
	return filepath.Join(home, ".kube", "config"), nil
}

// Paths are the files of $KUBECONFIG.
func Paths() []string {
	return slices.DeleteFunc(filepath.SplitList(os.Getenv("KUBECONFIG")), func(p string) bool { return p == "" })
}

// Apply makes entries the owner's only ones in the file. Where nothing changes
// the file is not touched.
func (f File) Apply(ctx context.Context, entries []Entry) (Change, error) {
	if _, err := os.Stat(f.Path); errors.Is(err, fs.ErrNotExist) && len(entries) == 0 {
		return Change{}, nil
	}
	var change Change
	err := f.change(ctx, func(data []byte) (out []byte, err error) {
		out, change, err = edit(data, f.Owner, entries)
		return out, err
	})
	if err != nil {
		return Change{}, err
	}
	return change, nil
}

// change replaces what is in the file with what edit makes of it, under kubectl's
// lock.
func (f File) change(ctx context.Context, edit func([]byte) ([]byte, error)) error {
	path, err := filepath.EvalSymlinks(f.Path) // so that a link stays one
	if errors.Is(err, fs.ErrNotExist) {
		path, err = f.Path, nil
	}
	if err != nil {
		return fmt.Errorf("opening kubeconfig: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fmt.Errorf("making kubeconfig's directory: %w", err)
	}
	unlock, err := lock(ctx, path+".lock")
	if err != nil {
		return err
	}
	defer unlock()
	data, err := read(path)
	if err != nil {
		return err
	}
	out, err := edit(data)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if bytes.Equal(out, data) {
		return nil
	}
	return pki.WriteFile(path, out)
}

func read(path string) ([]byte, error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading kubeconfig: %w", err)
	}
	return data, nil
}

// staleLock is how old a lock has to be to count as left behind by a process
// that was killed: kubectl holds it for milliseconds.
const staleLock = 10 * time.Second

// lock takes the lock that kubectl takes: a file that must not exist.
func lock(ctx context.Context, path string) (unlock func(), err error) {
	ctx, cancel := context.WithTimeout(ctx, 2*staleLock)
	defer cancel()
	for {
		f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
		if err == nil {
			f.Close()
			return func() { _ = os.Remove(path) }, nil // a lock that stays is taken over later
		}
		if !errors.Is(err, fs.ErrExist) {
			return nil, fmt.Errorf("locking kubeconfig: %w", err)
		}
		if info, err := os.Stat(path); err == nil && time.Since(info.ModTime()) > staleLock {
			_ = os.Remove(path) // somebody else was faster, or the next try says why not
			continue
		}
		select {
		case <-ctx.Done():
			return nil, process.Hint(fmt.Errorf("%s is held by another process", path), "remove it if nothing is using it")
		case <-time.After(20 * time.Millisecond):
		}
	}
}
