package dev

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
)

// Config is one Hydra.
type Config struct {
	// Dir holds everything; it is made when absent.
	Dir string
	// Issuer is the URL in tokens and discovery: https, since TLS ends in front of Hydra.
	Issuer string
	// LoginURL, ConsentURL and LogoutURL are where Hydra sends browsers.
	LoginURL, ConsentURL, LogoutURL string
	// RefreshHook is asked before a token is refreshed; empty for none.
	RefreshHook string
	// PublicPort on 127.0.0.1; 0 takes the one of the last start, or a free one.
	PublicPort int
	// AdminSocket defaults to Dir/run/admin.sock.
	AdminSocket string
	// Database is auto, postgresql or sqlite.
	Database string
}

// Endpoints say where a running Hydra is. They are written to Dir/endpoints.json.
type Endpoints struct {
	Public   string `json:"public"`   // http://127.0.0.1:PORT
	Admin    string `json:"admin"`    // unix:/PATH
	Database string `json:"database"` // postgresql or sqlite
}

// EndpointsFile is written when Hydra is ready and removed when it stops.
const EndpointsFile = "endpoints.json"

// maxSocketPath is what fits into a unix socket's address on Linux and macOS.
const maxSocketPath = 103

func (c *Config) check() error {
	if c.Dir == "" {
		return errors.New("no directory given")
	}
	abs, err := filepath.Abs(c.Dir)
	if err != nil {
		return fmt.Errorf("resolving directory: %w", err)
	}
	c.Dir = abs
	for name, value := range map[string]string{
		"issuer": c.Issuer, "login-url": c.LoginURL, "consent-url": c.ConsentURL, "logout-url": c.LogoutURL,
	} {
		u, err := url.Parse(value)
		if err != nil || u.Host == "" || u.Scheme != "https" && (name == "issuer" || u.Scheme != "http") {
			return fmt.Errorf("%s: %q is not an https URL", name, value)
		}
	}
	if c.AdminSocket == "" {
		c.AdminSocket = filepath.Join(c.Dir, "run", "admin.sock")
	}
	if c.AdminSocket, err = filepath.Abs(c.AdminSocket); err != nil {
		return fmt.Errorf("resolving admin socket: %w", err)
	}
	if len(c.AdminSocket) > maxSocketPath {
		return withHint(fmt.Errorf("admin socket %s is longer than %d bytes", c.AdminSocket, maxSocketPath),
			"give a shorter --admin-socket")
	}
	switch c.Database {
	case "auto", "postgresql", "sqlite":
		return nil
	case "":
		c.Database = "auto"
		return nil
	}
	return fmt.Errorf("unknown database %q", c.Database)
}

func (c Config) path(name ...string) string {
	return filepath.Join(append([]string{c.Dir}, name...)...)
}

// kept is what stays the same from one start to the next.
type kept struct {
	SystemSecret string `json:"systemSecret"` // encrypts what is in the database
	CookieSecret string `json:"cookieSecret"`
	PublicPort   int    `json:"publicPort"`
	Database     string `json:"database"`
	DataDir      string `json:"dataDir,omitempty"` // PostgreSQL's
}

const keptFile = "hydra-dev.json"

func (c Config) load() (kept, error) {
	raw, err := os.ReadFile(c.path(keptFile))
	if errors.Is(err, fs.ErrNotExist) {
		return kept{SystemSecret: rand.Text() + rand.Text(), CookieSecret: rand.Text() + rand.Text()}, nil
	}
	if err != nil {
		return kept{}, fmt.Errorf("reading secrets: %w", err)
	}
	var k kept
	if err := json.Unmarshal(raw, &k); err != nil {
		return kept{}, fmt.Errorf("parsing %s: %w", c.path(keptFile), err)
	}
	return k, nil
}

// hydraConfig is Hydra's own configuration; see its spec/config.json.
func (c Config) hydraConfig(k kept, dsn string) map[string]any {
	type object = map[string]any
	oauth2 := object{
		"expose_internal_errors": false,
		"pkce":                   object{"enforced_for_public_clients": true},
	}
	if c.RefreshHook != "" {
		oauth2["refresh_token_hook"] = c.RefreshHook
	}
	return object{
		"dsn": dsn,
		"log": object{"level": "warn", "format": "json"},
		"serve": object{
			// Plain HTTP on loopback: the coordinator ends TLS in front of it. With tls.enabled
			// Hydra 2.3 serves TLS itself, whatever allow_termination_from says, and without it
			// it looks at no X-Forwarded-Proto; the issuer alone makes its URLs https.
			"tls": object{"enabled": false},
			"public": object{
				"host":        "127.0.0.1",
				"port":        k.PublicPort,
				"request_log": object{"disable_for_health": true},
			},
			"admin": object{
				"host":        "unix:" + c.AdminSocket,
				"socket":      object{"mode": 0o600},
				"request_log": object{"disable_for_health": true},
			},
			"cookies": object{"secure": true, "same_site_mode": "Lax"},
		},
		"urls": object{
			"self":    object{"issuer": c.Issuer},
			"login":   c.LoginURL,
			"consent": c.ConsentURL,
			"logout":  c.LogoutURL,
		},
		"strategies": object{"access_token": "opaque", "scope": "exact"},
		"oauth2":     oauth2,
		"secrets":    object{"system": []string{k.SystemSecret}, "cookie": []string{k.CookieSecret}},
		"sqa":        object{"opt_out": true},
	}
}

func writeJSON(path string, v any) error {
	raw, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return fmt.Errorf("encoding %s: %w", path, err)
	}
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*") // 0600
	if err != nil {
		return fmt.Errorf("making %s: %w", path, err)
	}
	_, err = f.Write(append(raw, '\n'))
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		_ = os.Remove(f.Name())
		return fmt.Errorf("writing %s: %w", path, err)
	}
	return nil
}
