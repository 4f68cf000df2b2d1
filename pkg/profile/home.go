package profile

import (
	"crypto/ecdsa"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/sallyport-mesh/sallyport/pkg/pki"
	"github.com/sallyport-mesh/sallyport/pkg/process"
)

// Variable is the environment variable that names a home.
const Variable = "SALLYPORT_HOME"

// Home is a directory with one person's client state for one coordinator.
type Home struct {
	dir string
	// base is what SALLYPORT_HOME names; dir itself for the default profile.
	base string
	name string // of a named profile
}

// Files in a home.
const (
	keyFile     = "device.key"
	profileFile = "profile.json"
	lockFile    = "profile.lock"
)

// Find is the home that dir, else SALLYPORT_HOME, else ~/.sallyport names, and of
// it the profile that SALLYPORT_PROFILE names. It need not exist.
func Find(dir string) (Home, error) { return FindProfile(dir, "") }

// FindProfile is Find for a profile that was named; the empty name is
// SALLYPORT_PROFILE's.
func FindProfile(dir, name string) (Home, error) {
	if dir == "" {
		dir = os.Getenv(Variable)
	}
	if dir == "" {
		user, err := os.UserHomeDir()
		if err != nil {
			return Home{}, process.Hint(fmt.Errorf("finding your home directory: %w", err), "set "+Variable)
		}
		dir = filepath.Join(user, ".sallyport")
	}
	abs, err := filepath.Abs(dir)
	if err != nil {
		return Home{}, fmt.Errorf("finding %s: %w", dir, err)
	}
	if name == "" {
		name = os.Getenv(NameVariable)
	}
	return Home{dir: abs, base: abs}.named(name)
}

// Dir is the directory.
func (h Home) Dir() string { return h.dir }

// Path is a file in the home.
func (h Home) Path(name string) string { return filepath.Join(h.dir, name) }

// Make makes the directory where it is missing.
func (h Home) Make() error {
	if err := os.MkdirAll(h.dir, 0o700); err != nil {
		return fmt.Errorf("making %s: %w", h.dir, err)
	}
	return h.Check()
}

// Check refuses a home that others may enter, or that is not a directory. One
// that does not exist is fine.
func (h Home) Check() error {
	if err := check(h.base); err != nil || h.dir == h.base {
		return err
	}
	return check(h.dir)
}

// Mine reports whether the home belongs to the user of this process: root may
// read anybody's, and must leave nothing of its own there.
func (h Home) Mine() bool {
	info, err := os.Stat(h.dir)
	if err != nil {
		return false
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	return ok && int(st.Uid) == os.Getuid()
}

func check(dir string) error {
	info, err := os.Stat(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("opening %s: %w", dir, err)
	case !info.IsDir():
		return fmt.Errorf("%s is not a directory", dir)
	case info.Mode().Perm()&0o077 != 0:
		return process.Hint(fmt.Errorf("%s is open to other users of this machine (mode %04o)", dir, info.Mode().Perm()),
			"chmod 700 "+dir)
	}
	return nil
}

// DeviceKey is the key of this device, made at the first call.
func (h Home) DeviceKey() (*ecdsa.PrivateKey, error) {
	if err := h.Make(); err != nil {
		return nil, err
	}
	return pki.LoadOrCreateKey(h.Path(keyFile))
}
