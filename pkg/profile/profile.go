package profile

import (
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"github.com/gofrs/flock"

	"github.com/sallyport-mesh/sallyport/pkg/pki"
	"github.com/sallyport-mesh/sallyport/pkg/process"
)

// Profile is a coordinator that this device knows, and the session with it.
type Profile struct {
	// Login is the login URL: the coordinator's URL and the pin of its root.
	Login string `json:"coordinator"`
	// Name of the coordinator, for people.
	Name string `json:"name,omitempty"`
	// RootPEM is the coordinator's root, which agents are known by.
	RootPEM       string `json:"root"`
	TrustDomain   string `json:"trustDomain"`
	OverlayDomain string `json:"overlayDomain"`
	// Session is nil after a logout.
	Session *Session `json:"session,omitempty"`

	link pki.Link
}

// New is a profile for the coordinator at link, without a session.
func New(link pki.Link) *Profile { return &Profile{Login: link.String(), link: link} }

// Link is the coordinator's URL and the pin of its root.
func (p *Profile) Link() pki.Link { return p.link }

// Session is one login on this device.
type Session struct {
	ID       string    `json:"id"`
	UserID   string    `json:"user"`
	UserName string    `json:"userName"`
	DeviceID string    `json:"device"`
	Expires  time.Time `json:"expires"`
	// ChainPEM is the session's certificate for the device key, leaf first.
	ChainPEM string `json:"certificate"`
	// ControlURL is where the overlay's control server is.
	ControlURL string `json:"controlURL"`
	// AuthKey enrols this device's node on the overlay once. Empty when used.
	AuthKey string `json:"authKey,omitempty"`
}

// ErrNotLoggedIn says that there is no session on this device.
var ErrNotLoggedIn = errors.New("not logged in on this device")

// ErrExpired says that the session's time is over.
var ErrExpired = errors.New("the session on this device is over")

// Load reads the profile. Without one the error is ErrNotLoggedIn.
func (h Home) Load() (*Profile, error) {
	if err := h.Check(); err != nil {
		return nil, err
	}
	data, err := os.ReadFile(h.Path(profileFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, process.Hint(ErrNotLoggedIn, "sallyport login https://…, with the login URL you were given")
	}
	if err != nil {
		return nil, fmt.Errorf("reading profile: %w", err)
	}
	p := new(Profile)
	if err := json.Unmarshal(data, p); err != nil {
		return nil, process.Hint(fmt.Errorf("reading %s: %w", h.Path(profileFile), err),
			"remove the file and log in again")
	}
	if p.link, err = pki.ParseLink(p.Login); err != nil {
		return nil, fmt.Errorf("reading %s: %w", h.Path(profileFile), err)
	}
	return p, nil
}

// Save replaces the profile.
func (h Home) Save(p *Profile) error {
	unlock, err := h.lock()
	if err != nil {
		return err
	}
	defer unlock()
	return h.write(p)
}

// Update changes the profile that is there now. Nobody else changes it meanwhile:
// a login and the daemon do not overwrite one another. Where change returns false
// nothing is written.
func (h Home) Update(change func(*Profile) bool) error {
	unlock, err := h.lock()
	if err != nil {
		return err
	}
	defer unlock()
	p, err := h.Load()
	if err != nil || !change(p) {
		return err
	}
	return h.write(p)
}

// lock makes the home and holds off other writers of the profile. The kernel lets
// go of it when the process ends.
func (h Home) lock() (unlock func(), err error) {
	if err := h.Make(); err != nil {
		return nil, err
	}
	l := flock.New(h.Path(lockFile), flock.SetPermissions(0o600))
	if err := l.Lock(); err != nil {
		return nil, fmt.Errorf("locking the profile: %w", err)
	}
	return func() { _ = l.Unlock() }, nil
}

func (h Home) write(p *Profile) error {
	data, err := json.MarshalIndent(p, "", "  ")
	if err != nil {
		return fmt.Errorf("encoding profile: %w", err)
	}
	return pki.WriteFile(h.Path(profileFile), append(data, '\n'))
}

// Renounce ends the session on this machine and removes the device key: the next
// login is that of a new device.
func (h Home) Renounce() error {
	err := h.Update(func(p *Profile) bool {
		had := p.Session != nil
		p.Session = nil
		return had
	})
	if err != nil && !errors.Is(err, ErrNotLoggedIn) {
		return err
	}
	// A crash before this leaves the old key without a session: as after a logout.
	if err := os.Remove(h.Path(keyFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("removing the device key: %w", err)
	}
	return nil
}

// LoadSession is Load for those who need a session that is running now.
func (h Home) LoadSession(now time.Time) (*Profile, error) {
	p, err := h.Load()
	switch {
	case err != nil:
		return nil, err
	case p.Session == nil:
		return nil, process.Hint(ErrNotLoggedIn, "sallyport login")
	case !now.Before(p.Session.Expires):
		return nil, process.Hint(fmt.Errorf("%w since %s", ErrExpired, p.Session.Expires.Local().Format("Mon 15:04")), "sallyport login")
	}
	return p, nil
}

// Certificate is the session's certificate with the device key.
func (h Home) Certificate(s *Session) (*tls.Certificate, error) {
	key, err := pki.LoadKey(h.Path(keyFile))
	if err != nil {
		return nil, err
	}
	cert, err := pki.Certificate([]byte(s.ChainPEM), key)
	if err != nil {
		return nil, err
	}
	return &cert, nil
}

// Trust is what apiclient needs to know the coordinator by: under a pin its
// root, else (a public certificate) the machine's roots, which is nil.
func (p *Profile) Trust() []byte {
	if p.link.Pin == "" {
		return nil
	}
	return []byte(p.RootPEM)
}
