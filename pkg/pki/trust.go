package pki

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
)

// ErrPin says that a server's chain holds no certificate with the pinned key:
// it is another server, or someone is in between.
var ErrPin = errors.New("the server does not hold the pinned certificate authority")

// PinnedTLS is how a client trusts a coordinator named serverName (a host name
// or an IP address, without a port):
//
//   - with rootPEM: by that root alone; pin, if given, must be the root's;
//   - with only a pin: by the CA certificate with that pin, which the server
//     must present in its chain;
//   - with neither: by the system's roots, for a coordinator with a public
//     certificate.
//
// TLS 1.3 only. The caller may add client certificates to what is returned.
func PinnedTLS(serverName, pin string, rootPEM []byte) (*tls.Config, error) {
	if serverName == "" {
		return nil, errors.New("no server name to verify")
	}
	if pin != "" && !isPin(pin) {
		return nil, errors.New("a pin is 64 lower-case hex digits")
	}
	cfg := &tls.Config{MinVersion: tls.VersionTLS13, ServerName: serverName}
	if len(rootPEM) > 0 {
		roots, err := ParseRoot(rootPEM, pin)
		if err != nil {
			return nil, err
		}
		cfg.RootCAs = roots
		return cfg, nil
	}
	if pin == "" {
		return cfg, nil
	}
	// The usual verification cannot know a root it has not seen, so it is
	// replaced by one that does the same with the pinned root. VerifyConnection
	// runs on resumption too.
	cfg.InsecureSkipVerify = true
	cfg.VerifyConnection = func(cs tls.ConnectionState) error {
		return verifyPinned(cs.PeerCertificates, serverName, pin)
	}
	return cfg, nil
}

// ParseRoot reads one root certificate and, if pin is not empty, checks that it
// is the pinned one.
func ParseRoot(rootPEM []byte, pin string) (*x509.CertPool, error) {
	certs, err := ParseChain(rootPEM)
	if err != nil {
		return nil, err
	}
	if len(certs) != 1 || !certs[0].IsCA {
		return nil, errors.New("parsing root: not a single certificate authority")
	}
	if pin != "" && Pin(certs[0]) != pin {
		return nil, ErrPin
	}
	pool := x509.NewCertPool()
	pool.AddCert(certs[0])
	return pool, nil
}

func verifyPinned(chain []*x509.Certificate, serverName, pin string) error {
	if len(chain) == 0 {
		return ErrPin
	}
	roots, intermediates := x509.NewCertPool(), x509.NewCertPool()
	found := false
	for _, c := range chain[1:] {
		if c.IsCA && c.BasicConstraintsValid && Pin(c) == pin {
			roots.AddCert(c)
			found = true
		} else {
			intermediates.AddCert(c)
		}
	}
	if !found {
		return ErrPin
	}
	_, err := chain[0].Verify(x509.VerifyOptions{
		DNSName:       serverName,
		Roots:         roots,
		Intermediates: intermediates,
		KeyUsages:     []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	})
	if err != nil {
		return fmt.Errorf("verifying the server under its pin: %w", err)
	}
	return nil
}

func isPin(s string) bool {
	if len(s) != 64 {
		return false
	}
	for _, c := range []byte(s) {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}
