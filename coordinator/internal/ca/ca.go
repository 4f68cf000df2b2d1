package ca

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha1"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/netip"
	"net/url"
	"time"

	"github.com/sallyport-mesh/sallyport/pkg/identity"
	"github.com/sallyport-mesh/sallyport/pkg/pki"
)

// backdate makes certificates valid a little before now, for clocks at the edge
// that run late.
const backdate = 5 * time.Minute

// Lifetimes of what is never renewed by hand. Agents renew by themselves long
// before, and after, so theirs only bounds a stolen key.
const (
	rootLifetime    = 20 * 365 * 24 * time.Hour
	issuingLifetime = 10 * 365 * 24 * time.Hour
	AgentLifetime   = 30 * 24 * time.Hour
	serverLifetime  = 90 * 24 * time.Hour
)

// Authority issues every certificate of one trust domain.
type Authority struct {
	trustDomain string
	root        *x509.Certificate
	users       issuer
	agents      issuer
	servers     issuer
	now         func() time.Time
}

type issuer struct {
	cert *x509.Certificate
	key  crypto.Signer
}

// Issued is a new certificate with its chain.
type Issued struct {
	Leaf *x509.Certificate
	// ChainPEM holds the leaf and its issuing certificate.
	ChainPEM string
}

// RequestError says what is wrong with a certificate request.
type RequestError struct{ error }

// Unwrap is the cause.
func (e *RequestError) Unwrap() error { return e.error }

// IssueUser issues for a session of a user on a device. The certificate lasts
// exactly as long as the session.
func (a *Authority) IssueUser(csrDER []byte, id identity.UserCert, commonName string, notAfter time.Time) (Issued, error) {
	// 1. The request proves possession of a P-256 key.
	pub, err := publicKey(csrDER)
	if err != nil {
		return Issued{}, err
	}
	// 2. The identity is ours, whatever the request says.
	id.TrustDomain = a.trustDomain
	ext, err := id.SessionExtension()
	if err != nil {
		return Issued{}, err
	}
	// 3. Sign.
	return a.issue(a.users, pub, &x509.Certificate{
		Subject:         pkix.Name{CommonName: commonName},
		URIs:            []*url.URL{id.URI()},
		ExtKeyUsage:     []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		ExtraExtensions: []pkix.Extension{ext},
		NotAfter:        notAfter,
	})
}

// IssueAgent issues an agent's client certificate.
func (a *Authority) IssueAgent(csrDER []byte, id identity.AgentCert, commonName string) (Issued, error) {
	pub, err := publicKey(csrDER)
	if err != nil {
		return Issued{}, err
	}
	id.TrustDomain = a.trustDomain
	return a.issue(a.agents, pub, &x509.Certificate{
		Subject:     pkix.Name{CommonName: commonName},
		URIs:        []*url.URL{id.URI()},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		NotAfter:    a.now().Add(AgentLifetime),
	})
}

// IssueServing issues an agent's server certificate for its overlay names.
func (a *Authority) IssueServing(csrDER []byte, dnsNames []string) (Issued, error) {
	pub, err := publicKey(csrDER)
	if err != nil {
		return Issued{}, err
	}
	if len(dnsNames) == 0 {
		return Issued{}, errors.New("a server certificate needs a name")
	}
	return a.issue(a.servers, pub, &x509.Certificate{
		Subject:     pkix.Name{CommonName: dnsNames[0]},
		DNSNames:    dnsNames,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		NotAfter:    a.now().Add(AgentLifetime),
	})
}

// Server makes a key and a certificate for the coordinator itself. The chain it
// presents ends with the root, so that who holds only the root's pin can check.
func (a *Authority) Server(hosts []string) (*tls.Certificate, error) {
	key, err := pki.GenerateKey()
	if err != nil {
		return nil, err
	}
	tmpl := &x509.Certificate{
		Subject:     pkix.Name{CommonName: "Sallyport coordinator"},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		NotAfter:    a.now().Add(serverLifetime),
	}
	for _, h := range hosts {
		if ip, err := netip.ParseAddr(h); err == nil {
			tmpl.IPAddresses = append(tmpl.IPAddresses, net.IP(ip.AsSlice()))
		} else {
			tmpl.DNSNames = append(tmpl.DNSNames, h)
		}
	}
	issued, err := a.issue(a.servers, &key.PublicKey, tmpl)
	if err != nil {
		return nil, err
	}
	return &tls.Certificate{
		Certificate: [][]byte{issued.Leaf.Raw, a.servers.cert.Raw, a.root.Raw},
		PrivateKey:  key,
		Leaf:        issued.Leaf,
	}, nil
}

// Root is the root certificate.
func (a *Authority) Root() *x509.Certificate { return a.root }

// Certificate is one of the authority's own, with what it issues for.
type Certificate struct {
	Role string // "root", "users", "agents" or "servers"
	*x509.Certificate
}

// Certificates are the authority's own, the root first.
func (a *Authority) Certificates() []Certificate {
	return []Certificate{{"root", a.root}, {"users", a.users.cert}, {"agents", a.agents.cert}, {"servers", a.servers.cert}}
}

// RootPEM is what clients and agents check servers against.
func (a *Authority) RootPEM() string { return string(pki.EncodeChain(a.root)) }

// UserCAs are the certificates, DER, that issue users' certificates.
func (a *Authority) UserCAs() [][]byte { return [][]byte{a.users.cert.Raw} }

// AgentCAs are the certificates, DER, that issue agents' certificates.
func (a *Authority) AgentCAs() [][]byte { return [][]byte{a.agents.cert.Raw} }

// Users verifies users' certificates, Agents agents'. Each trusts its own
// issuing certificate and no other.
func (a *Authority) Users() *x509.CertPool { return pool(a.users.cert) }

// Agents verifies agents' certificates.
func (a *Authority) Agents() *x509.CertPool { return pool(a.agents.cert) }

func pool(c *x509.Certificate) *x509.CertPool {
	p := x509.NewCertPool()
	p.AddCert(c)
	return p
}

func (a *Authority) issue(by issuer, pub *ecdsa.PublicKey, tmpl *x509.Certificate) (Issued, error) {
	now := a.now()
	if !tmpl.NotAfter.After(now) {
		return Issued{}, fmt.Errorf("certificate would have ended at %s already", tmpl.NotAfter.Format(time.RFC3339))
	}
	serial, err := newSerial()
	if err != nil {
		return Issued{}, err
	}
	tmpl.SerialNumber = serial
	tmpl.NotBefore = now.Add(-backdate)
	tmpl.KeyUsage = x509.KeyUsageDigitalSignature
	tmpl.BasicConstraintsValid = true
	der, err := x509.CreateCertificate(rand.Reader, tmpl, by.cert, pub, by.key)
	if err != nil {
		return Issued{}, fmt.Errorf("signing certificate: %w", err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return Issued{}, fmt.Errorf("reading the certificate just signed: %w", err)
	}
	return Issued{Leaf: leaf, ChainPEM: string(pki.EncodeChain(leaf, by.cert))}, nil
}

func publicKey(csrDER []byte) (*ecdsa.PublicKey, error) {
	pub, err := pki.ParseCSR(csrDER)
	if err != nil {
		return nil, &RequestError{err}
	}
	return pub, nil
}

func newSerial() (*big.Int, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, fmt.Errorf("making serial number: %w", err)
	}
	return serial.Add(serial, big.NewInt(1)), nil
}

func keyID(pub crypto.PublicKey) ([]byte, error) {
	der, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		return nil, fmt.Errorf("encoding public key: %w", err)
	}
	sum := sha1.Sum(der) // an identifier (RFC 5280 4.2.1.2), not a proof
	return sum[:], nil
}
