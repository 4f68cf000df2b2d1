package pki

import (
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"io/fs"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestKeyIsSavedForItsOwnerAlone(t *testing.T) {
	path := filepath.Join(t.TempDir(), "k")
	if _, err := LoadKey(path); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("missing key: %v", err)
	}
	key, err := LoadOrCreateKey(path)
	if err != nil {
		t.Fatal(err)
	}
	again, err := LoadOrCreateKey(path)
	if err != nil || !again.Equal(key) {
		t.Fatalf("second load gave another key: %v", err)
	}
	info, _ := os.Stat(path)
	if info.Mode().Perm() != 0o600 {
		t.Fatalf("mode %v", info.Mode())
	}
	os.Chmod(path, 0o640)
	if _, err := LoadKey(path); err == nil {
		t.Fatal("a key that others may read was loaded")
	}
	entries, _ := os.ReadDir(filepath.Dir(path))
	if len(entries) != 1 {
		t.Fatalf("left behind: %v", entries)
	}
}

func TestCSRProvesItsKey(t *testing.T) {
	key := mustKey(t)
	der, err := NewCSR(key)
	if err != nil {
		t.Fatal(err)
	}
	pub, err := ParseCSR(der)
	if err != nil || !pub.Equal(&key.PublicKey) {
		t.Fatalf("%v", err)
	}
	der[len(der)-1] ^= 1
	if _, err := ParseCSR(der); err == nil {
		t.Fatal("a request with a broken signature was taken")
	}
}

func TestPinnedServerIsVerifiedInFull(t *testing.T) {
	root, rootKey := issue(t, "root", nil, nil, true)
	other, otherKey := issue(t, "other", nil, nil, true)
	inter, interKey := issue(t, "inter", root, rootKey, true)
	good, goodKey := issue(t, "127.0.0.1", inter, interKey, false)
	wrongName, wrongNameKey := issue(t, "127.0.0.2", inter, interKey, false)
	foreign, foreignKey := issue(t, "127.0.0.1", other, otherKey, false)

	for _, c := range []struct {
		name  string
		chain []*x509.Certificate
		key   *ecdsa.PrivateKey
		pin   string
		root  []byte
		want  string // "" means trusted
	}{
		{"pinned root in the chain", []*x509.Certificate{good, inter, root}, goodKey, Pin(root), nil, ""},
		{"root by PEM", []*x509.Certificate{good, inter}, goodKey, "", EncodeChain(root), ""},
		{"root by PEM and pin", []*x509.Certificate{good, inter}, goodKey, Pin(root), EncodeChain(root), ""},
		{"root missing from the chain", []*x509.Certificate{good, inter}, goodKey, Pin(root), nil, ErrPin.Error()},
		{"another root", []*x509.Certificate{foreign, other}, foreignKey, Pin(root), nil, ErrPin.Error()},
		{"pinned root shown beside a foreign leaf", []*x509.Certificate{foreign, other, root}, foreignKey, Pin(root), nil, "unknown authority"},
		{"another host", []*x509.Certificate{wrongName, inter, root}, wrongNameKey, Pin(root), nil, "127.0.0.1"},
		{"another root by PEM", []*x509.Certificate{good, inter}, goodKey, "", EncodeChain(other), "unknown authority"},
		{"no trust given", []*x509.Certificate{good, inter, root}, goodKey, "", nil, "unknown authority"},
	} {
		t.Run(c.name, func(t *testing.T) {
			cfg, err := PinnedTLS("127.0.0.1", c.pin, c.root)
			if err != nil {
				t.Fatal(err)
			}
			err = handshake(t, c.chain, c.key, cfg)
			if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Fatalf("got %v, want %q", err, c.want)
			}
		})
	}
	if _, err := PinnedTLS("h", Pin(root), EncodeChain(other)); !errors.Is(err, ErrPin) {
		t.Fatalf("a root that is not the pinned one: %v", err)
	}
}

func handshake(t *testing.T, chain []*x509.Certificate, key *ecdsa.PrivateKey, client *tls.Config) error {
	t.Helper()
	cert, err := Certificate(EncodeChain(chain...), key)
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	go func() {
		c, err := ln.Accept()
		if err != nil {
			return
		}
		tls.Server(c, &tls.Config{Certificates: []tls.Certificate{cert}}).Handshake()
		c.Close()
	}()
	c, err := tls.Dial("tcp", ln.Addr().String(), client)
	if err == nil {
		c.Close()
	}
	return err
}

func mustKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	k, err := GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func issue(t *testing.T, name string, parent *x509.Certificate, parentKey *ecdsa.PrivateKey, ca bool) (*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	key := mustKey(t)
	serial, _ := rand.Int(rand.Reader, big.NewInt(1<<62))
	tmpl := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour),
		BasicConstraintsValid: true, IsCA: ca, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	if !ca {
		tmpl.KeyUsage = x509.KeyUsageDigitalSignature
		tmpl.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
		tmpl.IPAddresses = []net.IP{net.ParseIP(name)}
	}
	if parent == nil {
		parent, parentKey = tmpl, key
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, parent, &key.PublicKey, parentKey)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert, key
}
