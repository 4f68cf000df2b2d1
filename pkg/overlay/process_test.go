package overlay

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"tailscale.com/net/bakedroots"
	"tailscale.com/net/dnsfallback"
)

func TestNoPublicRelayIsAskedForNames(t *testing.T) {
	if dm := dnsfallback.GetDERPMap(); len(dm.Regions) != 0 || dm.Regions == nil {
		t.Errorf("tsnet would ask %v", dm.Regions)
	}
}

func TestControlURLMustBeTheCoordinators(t *testing.T) {
	for _, good := range []string{"https://coordinator:8443", "https://10.0.0.1", "https://[fd00::1]:443/", "http://127.0.0.1:80", "http://localhost:1"} {
		if _, err := parseControlURL(good); err != nil {
			t.Errorf("%s: %v", good, err)
		}
	}
	for _, bad := range []string{"", "coordinator:8443", "https://", "http://coordinator", "https://c/path", "https://c?q=1", "https://u:p@c", "https://c:99999999", "ftp://c", "https://%zz"} {
		if _, err := Start(t.Context(), Config{Dir: t.TempDir(), ControlURL: bad}); err == nil {
			t.Errorf("%q is accepted", bad)
		}
	}
}

func newRoot(t *testing.T) (*x509.Certificate, []byte) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: rand.Text()},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, k.Public(), k)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

func TestPrivateRootIsTheOnlyOne(t *testing.T) {
	// Roots are the process's, for good, so this runs in one of its own.
	if os.Getenv("OVERLAY_TEST_PROCESS") == "" {
		cmd := exec.Command(os.Args[0], "-test.run", "^"+t.Name()+"$")
		cmd.Env = append(os.Environ(), "OVERLAY_TEST_PROCESS=1")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%v\n%s", err, out)
		}
		return
	}
	root, rootPEM := newRoot(t)
	other, otherPEM := newRoot(t)
	u := &url.URL{Scheme: "https", Host: "coordinator"}
	before, _ := os.LookupEnv("GODEBUG")
	trusted := func(c *x509.Certificate) bool {
		_, err := c.Verify(x509.VerifyOptions{KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}})
		return err == nil
	}
	if trusted(root) { // and the system's roots are loaded from here on
		t.Fatal("trusted before it was added")
	}
	if err := configureProcess(&url.URL{Scheme: "https", Host: "192.0.2.1"}, nil); err == nil {
		t.Error("an address without a private root is accepted")
	}
	if err := configureProcess(u, []byte("no certificate")); err == nil {
		t.Error("a root that is none is accepted")
	}
	for range 2 {
		if err := configureProcess(u, rootPEM); err != nil {
			t.Fatal(err)
		}
	}
	if !trusted(root) || trusted(other) {
		t.Errorf("trusted: the root %v, another %v", trusted(root), trusted(other))
	}
	if err := configureProcess(u, otherPEM); err == nil || !strings.Contains(err.Error(), "another private root") {
		t.Errorf("a second root: %v", err)
	}
	only := x509.NewCertPool()
	only.AddCert(root)
	if now, err := x509.SystemCertPool(); err != nil || !now.Equal(only) {
		t.Errorf("the system's roots are trusted still (%v)", err)
	}
	if !bakedroots.Get().Equal(x509.NewCertPool()) {
		t.Error("Let's Encrypt's roots are trusted still")
	}
	if after, _ := os.LookupEnv("GODEBUG"); after != before {
		t.Errorf("GODEBUG was %q and is %q", before, after)
	}
	if os.Getenv("TS_FORCE_NOISE_443") == "" || os.Getenv("TS_DISABLE_PORTMAPPER") == "" {
		t.Error("tsnet's knobs are not set")
	}
}

func TestStartWithoutADirectoryFails(t *testing.T) {
	if _, err := Start(context.Background(), Config{ControlURL: "https://coordinator"}); err == nil {
		t.Error("started")
	}
}

func TestNodeKeepsItsPort(t *testing.T) {
	dir := t.TempDir()
	first, err := choosePort(dir)
	if err != nil || first == 0 {
		t.Fatalf("%d, %v", first, err)
	}
	if again, err := choosePort(dir); err != nil || again != first {
		t.Errorf("had %d, now %d, %v", first, again, err)
	}
	if err := os.WriteFile(dir+"/"+portFile, []byte("torn"), 0o600); err != nil {
		t.Fatal(err)
	}
	if again, err := choosePort(dir); err != nil || again == 0 {
		t.Errorf("with a torn file: %d, %v", again, err)
	}
}
