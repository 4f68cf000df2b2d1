package ca

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"
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
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return fmt.Errorf("making key: %w", err)
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
		if err := save(tmp, name, der, key); err != nil {
			return err
		}
	}
	if err := os.Rename(tmp, cfg.Dir); err != nil {
		return err
	}
	return syncDir(filepath.Dir(cfg.Dir))
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

func save(dir, name string, der []byte, key *ecdsa.PrivateKey) error {
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return fmt.Errorf("encoding %s key: %w", name, err)
	}
	keyPEM := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})
	if err := writeSynced(filepath.Join(dir, name+".key"), keyPEM); err != nil {
		return err
	}
	return writeSynced(filepath.Join(dir, name+".crt"), []byte(encodePEM(der)))
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
	certDER, err := readPEM(filepath.Join(dir, name+".crt"), "CERTIFICATE")
	if err != nil {
		return issuer{}, err
	}
	cert, err := x509.ParseCertificate(certDER)
	if err != nil {
		return issuer{}, fmt.Errorf("reading %s.crt: %w", name, err)
	}
	keyDER, err := readPEM(filepath.Join(dir, name+".key"), "PRIVATE KEY")
	if err != nil {
		return issuer{}, err
	}
	key, err := x509.ParsePKCS8PrivateKey(keyDER)
	if err != nil {
		return issuer{}, fmt.Errorf("reading %s.key: %w", name, err)
	}
	ec, ok := key.(*ecdsa.PrivateKey)
	if !ok || !ec.PublicKey.Equal(cert.PublicKey) {
		return issuer{}, fmt.Errorf("%s.key is not the key of %s.crt", name, name)
	}
	return issuer{cert: cert, key: ec}, nil
}

func readPEM(path, kind string) ([]byte, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	block, rest := pem.Decode(raw)
	if block == nil || block.Type != kind || len(rest) != 0 {
		return nil, fmt.Errorf("%s does not hold one %s in PEM", path, kind)
	}
	return block.Bytes, nil
}

func writeSynced(path string, data []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	if _, err := f.Write(data); err != nil {
		return errors.Join(err, f.Close())
	}
	if err := f.Sync(); err != nil {
		return errors.Join(err, f.Close())
	}
	return f.Close()
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
