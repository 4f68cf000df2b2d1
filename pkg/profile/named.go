package profile

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"

	"github.com/sallyport-mesh/sallyport/pkg/process"
)

// NameVariable is the environment variable that names a profile.
const NameVariable = "SALLYPORT_PROFILE"

// Default is the name of the profile that lives in the home itself.
const Default = "default"

// profilesDir holds the homes of named profiles, in the home.
const profilesDir = "profiles"

// A name stands in paths of sockets, which have 100 characters at most, and in
// names of contexts between slashes.
var namePattern = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?$`)

// named is the home of a profile: a directory of its own below this one, with a
// device key, a session and a daemon of its own.
func (h Home) named(name string) (Home, error) {
	if name == "" || name == Default {
		return Home{dir: h.base, base: h.base}, nil
	}
	if !namePattern.MatchString(name) {
		return Home{}, process.Hint(process.Usage("%q is not the name of a profile", name), "use 1 to 32 of a-z, 0-9 and '-'")
	}
	return Home{dir: filepath.Join(h.base, profilesDir, name), base: h.base, name: name}, nil
}

// Name of the profile; empty for the default one.
func (h Home) Name() string { return h.name }

// Title is the profile's name for people.
func (h Home) Title() string {
	if h.name == "" {
		return Default
	}
	return h.name
}

// Environment lets another program find this home, whatever the environment says
// that it is started in.
func (h Home) Environment() map[string]string {
	return map[string]string{Variable: h.base, NameVariable: h.Title()}
}

// All are the homes that exist beside this one, the default first.
func (h Home) All() ([]Home, error) {
	if err := check(h.base); err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(filepath.Join(h.base, profilesDir))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("listing profiles: %w", err)
	}
	all := []Home{{dir: h.base, base: h.base}}
	for _, e := range entries { // sorted
		if other, err := h.named(e.Name()); err == nil && e.IsDir() && other.name != "" {
			all = append(all, other)
		}
	}
	return all, nil
}
