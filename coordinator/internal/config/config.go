// Package config reads the coordinator's configuration: a YAML file, or none.
// A key that is unknown or has a bad value is an error that names it.
package config

import (
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"sigs.k8s.io/yaml"
)

// Config is the whole configuration. The zero value, after Complete, runs a
// coordinator on loopback with everything embedded.
type Config struct {
	// Listen is the address of the one TLS port. Default "127.0.0.1:8443".
	Listen string `json:"listen"`
	// PublicURL is how clients, agents and browsers reach that port, without a
	// path: "https://sallyport.example.com". It is the OAuth issuer too. Default:
	// https:// and Listen. It must not change once devices have logged in.
	PublicURL string `json:"public_url"`
	// DataDir holds state, audit log and keys, and belongs to one process.
	// Default "/var/lib/sallyport" for root, else "~/.local/share/sallyport".
	DataDir string `json:"data_dir"`
	// TrustDomain is the host part of SPIFFE IDs; it cannot change later.
	// Default: the host of PublicURL, or "sallyport.internal" if that is an
	// address.
	TrustDomain string `json:"trust_domain"`
	// TLS is a public certificate. Default: one of Sallyport's own CA, whose pin
	// login URLs and join tokens then carry.
	TLS TLS `json:"tls"`
	// Socket is the unix socket of the first administrator. Default:
	// <data_dir>/admin.sock.
	Socket string `json:"socket"`

	Overlay Overlay `json:"overlay"`
	Hydra   Hydra   `json:"hydra"`
	Session Session `json:"session"`
	Login   Login   `json:"login"`
	Log     Log     `json:"log"`
}

// TLS names a certificate and its key, both PEM files, or neither.
type TLS struct {
	CertFile string `json:"cert_file"`
	KeyFile  string `json:"key_file"`
}

// Overlay configures the mesh.
type Overlay struct {
	// Domain is the DNS suffix of overlay names. Default "sallyport.internal".
	Domain string `json:"domain"`
	// STUN is the UDP address that answers STUN. Default: the host of Listen,
	// port 3478.
	STUN string `json:"stun"`
}

// Hydra says where Ory Hydra is.
type Hydra struct {
	// AdminURL is its admin API: "http://127.0.0.1:4445" (the default) or
	// "unix:/run/hydra/admin.sock". Whoever reaches it is root there.
	AdminURL string `json:"admin_url"`
	// PublicURL is its public API, which the coordinator serves on its own port.
	// Default "http://127.0.0.1:4444".
	PublicURL string `json:"public_url"`
}

// Session bounds a login.
type Session struct {
	// Lifetime of a login and of its certificate, as "12h". Default 12h, at
	// least 5m, at most 7 days (168h).
	Lifetime string `json:"lifetime"`

	lifetime time.Duration
}

// Duration is Lifetime, parsed.
func (s Session) Duration() time.Duration { return s.lifetime }

// Log says what is written to standard error.
type Log struct {
	// Level is "debug", "info" (default), "warn" or "error".
	Level string `json:"level"`
	// Format is "text" (default) or "json".
	Format string `json:"format"`
}

// Read reads the file at path; no path means no file.
func Read(path string) (Config, error) {
	var c Config
	if path == "" {
		return c, nil
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		return c, fmt.Errorf("reading configuration: %w", err)
	}
	if err := yaml.UnmarshalStrict(raw, &c); err != nil {
		return c, fmt.Errorf("reading configuration %s: %s", path, tidy(err))
	}
	return c, nil
}

// tidy takes the decoder's prefixes off an error, down to what names the key.
func tidy(err error) string {
	msg := err.Error()
	for _, prefix := range []string{"error unmarshaling JSON: while decoding JSON: ", "error converting YAML to JSON: ", "json: "} {
		msg = strings.TrimPrefix(msg, prefix)
	}
	return msg
}

var domainPattern = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)+$`)

// Complete fills in the defaults and checks every value.
func (c *Config) Complete() error {
	fill(&c.Listen, "127.0.0.1:8443")
	host, port, err := net.SplitHostPort(c.Listen)
	if err != nil {
		return bad("listen", c.Listen, "want host:port, for example 127.0.0.1:8443")
	}
	if c.PublicURL == "" {
		if ip, err := netip.ParseAddr(host); host == "" || err == nil && ip.IsUnspecified() {
			return bad("public_url", "", "it is needed when listen is a wildcard address: say how others reach this port")
		}
		c.PublicURL = "https://" + net.JoinHostPort(host, port)
	}
	public, err := url.Parse(c.PublicURL)
	if err != nil || public.Scheme != "https" || public.Hostname() == "" || strings.Trim(public.Path, "/") != "" || public.RawQuery != "" || public.Fragment != "" || public.User != nil {
		return bad("public_url", c.PublicURL, "want https://host[:port] and nothing behind it")
	}
	c.PublicURL = "https://" + public.Host

	if c.DataDir == "" {
		if c.DataDir, err = defaultDataDir(); err != nil {
			return err
		}
	}
	if c.DataDir, err = filepath.Abs(c.DataDir); err != nil {
		return bad("data_dir", c.DataDir, err.Error())
	}
	fill(&c.Socket, filepath.Join(c.DataDir, "admin.sock"))
	if len(c.Socket) > 100 {
		return bad("socket", c.Socket, "a unix socket's path has 100 characters at most: choose a shorter one")
	}

	if c.TrustDomain == "" {
		c.TrustDomain = "sallyport.internal"
		if _, err := netip.ParseAddr(public.Hostname()); err != nil && domainPattern.MatchString(public.Hostname()) {
			c.TrustDomain = public.Hostname()
		}
	}
	if !domainPattern.MatchString(c.TrustDomain) {
		return bad("trust_domain", c.TrustDomain, "want a lower-case domain name")
	}
	if (c.TLS.CertFile == "") != (c.TLS.KeyFile == "") {
		return bad("tls", "", "cert_file and key_file go together")
	}

	fill(&c.Overlay.Domain, "sallyport.internal")
	if !domainPattern.MatchString(c.Overlay.Domain) {
		return bad("overlay.domain", c.Overlay.Domain, "want a lower-case domain name with a dot in it")
	}
	fill(&c.Overlay.STUN, net.JoinHostPort(host, "3478"))
	if _, _, err := net.SplitHostPort(c.Overlay.STUN); err != nil {
		return bad("overlay.stun", c.Overlay.STUN, "want host:port")
	}

	fill(&c.Hydra.AdminURL, "http://127.0.0.1:4445")
	if !strings.HasPrefix(c.Hydra.AdminURL, "unix:/") && !isHTTP(c.Hydra.AdminURL) {
		return bad("hydra.admin_url", c.Hydra.AdminURL, "want http://host:port, https://host:port or unix:/path")
	}
	fill(&c.Hydra.PublicURL, "http://127.0.0.1:4444")
	if !isHTTP(c.Hydra.PublicURL) {
		return bad("hydra.public_url", c.Hydra.PublicURL, "want http://host:port or https://host:port")
	}

	fill(&c.Session.Lifetime, "12h")
	d, err := time.ParseDuration(c.Session.Lifetime)
	if err != nil || d < 5*time.Minute || d > 7*24*time.Hour {
		return bad("session.lifetime", c.Session.Lifetime, "want a duration between 5m and 168h")
	}
	c.Session.lifetime = d

	if err := c.Login.complete(); err != nil {
		return err
	}
	fill(&c.Log.Level, "info")
	fill(&c.Log.Format, "text")
	switch c.Log.Level {
	case "debug", "info", "warn", "error":
	default:
		return bad("log.level", c.Log.Level, "want debug, info, warn or error")
	}
	if c.Log.Format != "text" && c.Log.Format != "json" {
		return bad("log.format", c.Log.Format, "want text or json")
	}
	return nil
}

// Hosts are the names that the coordinator's own certificate is for.
func (c *Config) Hosts() []string {
	public, _ := url.Parse(c.PublicURL) // Complete has parsed it
	hosts := []string{public.Hostname()}
	if host, _, err := net.SplitHostPort(c.Listen); err == nil && host != "" && host != hosts[0] {
		if ip, err := netip.ParseAddr(host); err != nil || !ip.IsUnspecified() {
			hosts = append(hosts, host)
		}
	}
	return hosts
}

// ValueError says which key has a value that cannot be used.
type ValueError struct{ Key, Value, Want string }

func (e *ValueError) Error() string {
	if e.Value == "" {
		return fmt.Sprintf("configuration: %s: %s", e.Key, e.Want)
	}
	return fmt.Sprintf("configuration: %s: %q cannot be used: %s", e.Key, e.Value, e.Want)
}

func bad(key, value, want string) error { return &ValueError{key, value, want} }

func fill(s *string, def string) {
	if *s == "" {
		*s = def
	}
}

func isHTTP(s string) bool {
	u, err := url.Parse(s)
	return err == nil && (u.Scheme == "http" || u.Scheme == "https") && u.Host != ""
}

func defaultDataDir() (string, error) {
	if os.Geteuid() == 0 {
		return "/var/lib/sallyport", nil
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "", bad("data_dir", "", "no home directory to put it in: name one")
	}
	return filepath.Join(home, ".local", "share", "sallyport"), nil
}
