package profile

import (
	"crypto/ecdsa"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/sallyport-mesh/sallyport/pkg/pki"
	"github.com/sallyport-mesh/sallyport/pkg/process"
)

// Variable is the environment variable that names a home.
const Variable = "SALLYPORT_HOME"

// Home is a directory with one person's client state.
type Home struct{ dir string }

// Files in a home.
const (
	keyFile     = "device.key"
	profileFile = "profile.json"
	lockFile    = "profile.lock"
)

// Find is the home that dir, else SALLYPORT_HOME, else ~/.sallyport names. It
// need not exist.
func Find(dir string) (Home, error) {
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
	return Home{abs}, nil
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
	info, err := os.Stat(h.dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("opening %s: %w", h.dir, err)
	case !info.IsDir():
		return fmt.Errorf("%s is not a directory", h.dir)
	case info.Mode().Perm()&0o077 != 0:
		return process.Hint(fmt.Errorf("%s is open to other users of this machine (mode %04o)", h.dir, info.Mode().Perm()),
			"chmod 700 "+h.dir)
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
