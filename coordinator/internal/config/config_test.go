package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func read(t *testing.T, text string) (Config, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "coordinator.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := Read(path)
	if err == nil {
		err = c.Complete()
	}
	return c, err
}

func TestNoFileRunsOnLoopback(t *testing.T) {
	c, err := Read("")
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Complete(); err != nil {
		t.Fatal(err)
	}
	if c.PublicURL != "https://127.0.0.1:8443" || c.TrustDomain != "sallyport.internal" || c.Session.Duration() != 12*time.Hour {
		t.Errorf("got %+v", c)
	}
}

func TestTrustDomainFollowsThePublicName(t *testing.T) {
	c, err := read(t, "listen: 0.0.0.0:443\npublic_url: https://sallyport.example.com/\n")
	if err != nil {
		t.Fatal(err)
	}
	if c.TrustDomain != "sallyport.example.com" || c.PublicURL != "https://sallyport.example.com" {
		t.Errorf("got %q %q", c.TrustDomain, c.PublicURL)
	}
}

func TestBadValuesNameTheirKey(t *testing.T) {
	for text, key := range map[string]string{
		"lisen: 127.0.0.1:1":                                   "lisen",
		"overlay: {domian: x.y}":                               "domian",
		"listen: nonsense":                                     "listen",
		"listen: 0.0.0.0:8443":                                 "public_url",
		"public_url: http://plain.example.com":                 "public_url",
		"public_url: https://example.com/path":                 "public_url",
		"session: {lifetime: 1s}":                              "session.lifetime",
		"session: {lifetime: soon}":                            "session.lifetime",
		"hydra: {admin_url: 'ftp://x'}":                        "hydra.admin_url",
		"overlay: {domain: NODOTS}":                            "overlay.domain",
		"tls: {cert_file: a.pem}":                              "tls",
		"log: {level: loud}":                                   "log.level",
		"socket: /" + strings.Repeat("x", 120) + "/admin.sock": "socket",
	} {
		if _, err := read(t, text); err == nil || !strings.Contains(err.Error(), key) {
			t.Errorf("%q: error %v does not name %s", text, err, key)
		}
	}
}
