package server

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/sallyport-mesh/sallyport/pkg/audit"
	"github.com/sallyport-mesh/sallyport/pkg/pki"
	"github.com/sallyport-mesh/sallyport/pkg/policy"
)

// keys are what the coordinator signs with, beside its CA.
type keys struct {
	policy         *policy.Signer
	cosigner       string // countersigns agents' checkpoints; a note signer key
	cosignerPublic string // its C2SP vkey
	login          []byte // seals what logins keep in the store
	own            string // signs the checkpoints of the coordinator's own log
}

func openKeys(dir, trustDomain string) (keys, error) {
	var k keys
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return k, err
	}
	private, err := policyKey(filepath.Join(dir, "policy.key"))
	if err != nil {
		return k, fmt.Errorf("opening policy key: %w", err)
	}
	if k.policy, err = policy.NewSigner(private); err != nil {
		return k, fmt.Errorf("opening policy key: %w", err)
	}
	if k.cosigner, k.cosignerPublic, err = audit.LoadKey(filepath.Join(dir, "cosigner.key"), trustDomain+"/coordinator"); err != nil {
		return k, fmt.Errorf("opening countersigning key: %w", err)
	}
	if k.own, _, err = audit.LoadKey(filepath.Join(dir, "log.key"), trustDomain+"/coordinator"); err != nil {
		return k, fmt.Errorf("opening log key: %w", err)
	}
	if k.login, err = sealKey(filepath.Join(dir, "login.key")); err != nil {
		return k, fmt.Errorf("opening login key: %w", err)
	}
	return k, nil
}

// sealKey reads 32 bytes, or makes them at the first start.
func sealKey(path string) ([]byte, error) {
	key, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		key = make([]byte, 32)
		rand.Read(key) // never fails (crypto/rand, Go 1.24)
		return key, pki.WriteFile(path, key)
	}
	if err == nil && len(key) != 32 {
		err = fmt.Errorf("%s has %d bytes, not 32", path, len(key))
	}
	return key, err
}

// policyKey reads an Ed25519 key in PKCS#8, or makes one at the first start.
func policyKey(path string) (ed25519.PrivateKey, error) {
	raw, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		_, key, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			return nil, err
		}
		der, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			return nil, err
		}
		return key, pki.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
	}
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(raw)
	if block == nil {
		return nil, fmt.Errorf("%s is not PEM", path)
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", path, err)
	}
	ed, ok := key.(ed25519.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("%s holds no Ed25519 key", path)
	}
	return ed, nil
}
