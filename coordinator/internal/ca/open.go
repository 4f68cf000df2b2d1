package ca

import (
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/sallyport-mesh/sallyport/pkg/pki"
)

// Config says where an authority lives.
type Config struct {
	// Dir holds the certificates and keys, 0700. It is made whole or not at all.
	Dir string
	// TrustDomain is the host part of every SPIFFE ID, for example
	// "sallyport.example.com". An authority that exists keeps to the one it was
	// made for.
	TrustDomain string
	// Now is the clock; time.Now if nil.
	Now func() time.Time
}

// Open opens the authority in cfg.Dir, or makes one at the first start.
func Open(cfg Config) (*Authority, error) {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.TrustDomain == "" {
		return nil, errors.New("opening certificate authority: no trust domain")
	}
	_, err := os.Stat(cfg.Dir)
	if errors.Is(err, fs.ErrNotExist) {
		err = create(cfg)
	}
	if err != nil {
		return nil, fmt.Errorf("opening certificate authority: %w", err)
	}
	a, err := load(cfg)
	if err != nil {
		return nil, fmt.Errorf("opening certificate authority in %s: %w", cfg.Dir, err)
	}
	return a, nil
}

// names are the files: <name>.crt and <name>.key.
var names = []string{"root", "users", "agents", "servers"}

// create makes everything in a directory beside the final one and renames it
// into place: a crash before that leaves only a directory that the next start
// removes.
func create(cfg Config) error {
	tmp := cfg.Dir + ".making"
	if err := os.RemoveAll(tmp); err != nil {
		return fmt.Errorf("removing what an earlier start left: %w", err)
	}
	if err := os.MkdirAll(tmp, 0o700); err != nil {
		return err
	}
	now := cfg.Now()
	var root issuer
	for _, name := range names {
		key, err := pki.GenerateKey()
		if err != nil {
			return err
		}
		tmpl, err := template(cfg.TrustDomain, name, now)
		if err != nil {
			return err
		}
		if tmpl.SubjectKeyId, err = keyID(&key.PublicKey); err != nil {
			return err
		}
		by := root
		if name == "root" {
			by = issuer{cert: tmpl, key: key}
		}
		der, err := x509.CreateCertificate(rand.Reader, tmpl, by.cert, &key.PublicKey, by.key)
		if err != nil {
			return fmt.Errorf("signing %s certificate: %w", name, err)
		}
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			return err
		}
		if name == "root" {
			root = issuer{cert: cert, key: key}
		}
		if err := pki.SaveKey(filepath.Join(tmp, name+".key"), key); err != nil {
			return err
		}
		if err := pki.SaveChain(filepath.Join(tmp, name+".crt"), cert); err != nil {
			return err
		}
	}
	if err := os.Rename(tmp, cfg.Dir); err != nil {
		return err
	}
	return pki.SyncDir(filepath.Dir(cfg.Dir))
}

func template(trustDomain, name string, now time.Time) (*x509.Certificate, error) {
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	t := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{Organization: []string{"Sallyport"}, CommonName: trustDomain + " " + name},
		NotBefore:             now.Add(-backdate),
		NotAfter:              now.Add(issuingLifetime),
		IsCA:                  true,
		BasicConstraintsValid: true,
		MaxPathLenZero:        true,
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	switch name {
	case "root":
		t.NotAfter = now.Add(rootLifetime)
		t.MaxPathLen, t.MaxPathLenZero = 1, false
	case "users", "agents":
		t.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
		t.PermittedURIDomains = []string{trustDomain}
		t.PermittedDNSDomainsCritical = true
	case "servers":
		t.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	}
	return t, nil
}

func load(cfg Config) (*Authority, error) {
	a := &Authority{trustDomain: cfg.TrustDomain, now: cfg.Now}
	for _, name := range names {
		is, err := loadIssuer(cfg.Dir, name)
		if err != nil {
			return nil, err
		}
		if want := cfg.TrustDomain + " " + name; is.cert.Subject.CommonName != want {
			return nil, fmt.Errorf("%s.crt is for %q, not for trust domain %q: it cannot change once certificates were issued", name, is.cert.Subject.CommonName, cfg.TrustDomain)
		}
		switch name {
		case "root":
			a.root = is.cert // its key stays on disk
		case "users":
			a.users = is
		case "agents":
			a.agents = is
		case "servers":
			a.servers = is
		}
	}
	for _, is := range []issuer{a.users, a.agents, a.servers} {
		if err := is.cert.CheckSignatureFrom(a.root); err != nil {
			return nil, fmt.Errorf("checking %q: %w", is.cert.Subject.CommonName, err)
		}
	}
	return a, nil
}

func loadIssuer(dir, name string) (issuer, error) {
	chain, err := pki.LoadChain(filepath.Join(dir, name+".crt"))
	if err != nil {
		return issuer{}, err
	}
	key, err := pki.LoadKey(filepath.Join(dir, name+".key"))
	if err != nil {
		return issuer{}, err
	}
	if !key.PublicKey.Equal(chain[0].PublicKey) {
		return issuer{}, fmt.Errorf("%s.key is not the key of %s.crt", name, name)
	}
	return issuer{cert: chain[0], key: key}, nil
}
