package pki

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
)

const certBlock = "CERTIFICATE"

// EncodeChain is certificates as PEM, in the order given (leaf first).
func EncodeChain(certs ...*x509.Certificate) []byte {
	var out bytes.Buffer
	for _, c := range certs {
		// Writing to a buffer never fails.
		_ = pem.Encode(&out, &pem.Block{Type: certBlock, Bytes: c.Raw})
	}
	return out.Bytes()
}

// ParseChain reads one or more PEM certificates and nothing else beside them.
func ParseChain(data []byte) ([]*x509.Certificate, error) {
	var certs []*x509.Certificate
	for rest := data; len(bytes.TrimSpace(rest)) > 0; {
		var block *pem.Block
		block, rest = pem.Decode(rest)
		if block == nil || block.Type != certBlock {
			return nil, errors.New("parsing certificates: not a chain of PEM certificates")
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("parsing certificates: %w", err)
		}
		certs = append(certs, c)
	}
	if len(certs) == 0 {
		return nil, errors.New("parsing certificates: there is none")
	}
	return certs, nil
}

// SaveChain writes a chain as PEM, atomically.
func SaveChain(path string, certs ...*x509.Certificate) error {
	return WriteFile(path, EncodeChain(certs...))
}

// LoadChain reads what SaveChain wrote. A missing file is fs.ErrNotExist.
func LoadChain(path string) ([]*x509.Certificate, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("loading certificates: %w", err)
	}
	certs, err := ParseChain(data)
	if err != nil {
		return nil, fmt.Errorf("loading %s: %w", path, err)
	}
	return certs, nil
}

// Certificate joins a chain (PEM, leaf first) and its key for crypto/tls. A
// chain for another key is refused.
func Certificate(chainPEM []byte, key *ecdsa.PrivateKey) (tls.Certificate, error) {
	certs, err := ParseChain(chainPEM)
	if err != nil {
		return tls.Certificate{}, err
	}
	if !key.PublicKey.Equal(certs[0].PublicKey) {
		return tls.Certificate{}, errors.New("joining certificate and key: the certificate is for another key")
	}
	out := tls.Certificate{PrivateKey: key, Leaf: certs[0]}
	for _, c := range certs {
		out.Certificate = append(out.Certificate, c.Raw)
	}
	return out, nil
}

// Pin is the name of a root by its key: hex SHA-256 of the SubjectPublicKeyInfo.
func Pin(cert *x509.Certificate) string {
	sum := sha256.Sum256(cert.RawSubjectPublicKeyInfo)
	return hex.EncodeToString(sum[:])
}
