package pki

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
)

const keyBlock = "PRIVATE KEY" // PKCS#8

// GenerateKey makes a P-256 key.
func GenerateKey() (*ecdsa.PrivateKey, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("generating key: %w", err)
	}
	return key, nil
}

// SaveKey writes key as PKCS#8 PEM, 0600, replacing what is there atomically.
func SaveKey(path string, key *ecdsa.PrivateKey) error {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return fmt.Errorf("encoding key: %w", err)
	}
	return WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: keyBlock, Bytes: der}))
}

// LoadKey reads what SaveKey wrote. A key file that others may read is refused
// rather than repaired: it may have been read already. A missing file is
// fs.ErrNotExist.
func LoadKey(path string) (*ecdsa.PrivateKey, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("loading key: %w", err)
	}
	if info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("loading key: %s may be read by others (mode %04o, want 0600)", path, info.Mode().Perm())
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("loading key: %w", err)
	}
	block, rest := pem.Decode(data)
	if block == nil || block.Type != keyBlock || len(rest) != 0 {
		return nil, fmt.Errorf("loading key: %s holds no single %s", path, keyBlock)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("loading key: %s: %w", path, err)
	}
	key, ok := parsed.(*ecdsa.PrivateKey)
	if !ok || key.Curve != elliptic.P256() {
		return nil, fmt.Errorf("loading key: %s holds no P-256 key", path)
	}
	return key, nil
}

// LoadOrCreateKey loads the key at path, or makes one and saves it first.
func LoadOrCreateKey(path string) (*ecdsa.PrivateKey, error) {
	key, err := LoadKey(path)
	if err == nil || !errors.Is(err, fs.ErrNotExist) {
		return key, err
	}
	if key, err = GenerateKey(); err != nil {
		return nil, err
	}
	return key, SaveKey(path, key)
}

// NewCSR makes a DER PKCS#10 request for key. It names nobody: the issuer knows
// who asks by what came with it.
func NewCSR(key *ecdsa.PrivateKey) ([]byte, error) {
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
		Subject:            pkix.Name{},
		SignatureAlgorithm: x509.ECDSAWithSHA256,
	}, key)
	if err != nil {
		return nil, fmt.Errorf("making certificate request: %w", err)
	}
	return der, nil
}

// ParseCSR returns the P-256 public key that signed a request. Everything else
// in the request is ignored.
func ParseCSR(der []byte) (*ecdsa.PublicKey, error) {
	if len(der) > 4096 {
		return nil, errors.New("parsing certificate request: longer than 4096 bytes")
	}
	req, err := x509.ParseCertificateRequest(der)
	if err != nil {
		return nil, fmt.Errorf("parsing certificate request: %w", err)
	}
	pub, ok := req.PublicKey.(*ecdsa.PublicKey)
	if !ok || pub.Curve != elliptic.P256() {
		return nil, errors.New("parsing certificate request: key is not P-256")
	}
	if err := req.CheckSignature(); err != nil {
		return nil, fmt.Errorf("parsing certificate request: %w", err)
	}
	return pub, nil
}
