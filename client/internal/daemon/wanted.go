package daemon

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/sallyport-mesh/sallyport/pkg/pki"
	"github.com/sallyport-mesh/sallyport/pkg/profile"
)

// WantedFile is there from `sallyport up` until `sallyport down` or a logout: the
// person wants a daemon, so one that is gone (a reboot, a crash) is started again
// by whoever needs it next.
const WantedFile = "wanted.json"

// Wanted is how the daemon was asked for.
type Wanted struct {
	Kubeconfig string `json:"kubeconfig"`
	Verbose    bool   `json:"verbose,omitempty"`
}

// Want remembers that a daemon is wanted.
func Want(home profile.Home, w Wanted) error {
	data, err := json.Marshal(w)
	if err != nil {
		return fmt.Errorf("remembering that a daemon is wanted: %w", err)
	}
	return pki.WriteFile(home.Path(WantedFile), append(data, '\n'))
}

// Unwant forgets it.
func Unwant(home profile.Home) error {
	if err := os.Remove(home.Path(WantedFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("forgetting that a daemon is wanted: %w", err)
	}
	return nil
}

// AsWanted is how the daemon was asked for; nil when none is wanted.
func AsWanted(home profile.Home) (*Wanted, error) {
	data, err := os.ReadFile(home.Path(WantedFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading whether a daemon is wanted: %w", err)
	}
	w := new(Wanted)
	if err := json.Unmarshal(data, w); err != nil || w.Kubeconfig == "" {
		return nil, nil // torn: `sallyport up` writes it anew
	}
	return w, nil
}
