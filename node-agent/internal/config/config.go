// Package config reads the agent's configuration: a YAML file, or none. A key
// that is unknown or has a bad value is an error that names it.
package config

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"sigs.k8s.io/yaml"
)

// Config is the whole configuration. The zero value, after Complete, runs in a
// cluster with what the manifest made.
type Config struct {
	// DataDir holds the agent's key, its audit log and its place in the overlay,
	// and belongs to one process. Default "/var/lib/sallyport-agent".
	DataDir string `json:"data_dir"`
	// Kubeconfig is for an agent that runs beside its cluster: the path of one for
	// the account sallyport-agent in namespace sallyport-system. Default: the
	// account of the pod the agent runs in.
	Kubeconfig string `json:"kubeconfig"`
	// JoinTokenFile holds the join token for the first start. Default: JoinToken,
	// else the Secret sallyport-join in namespace sallyport-system.
	JoinTokenFile string `json:"join_token_file"`
	// JoinToken is the token itself, in place of a file.
	JoinToken string `json:"join_token"`

	Accounts Accounts `json:"accounts"`
	Log      Log      `json:"log"`
}

// Accounts configures the accounts made for people.
type Accounts struct {
	// Idle is how long one stays without a request, as "30m". Default 30m, at
	// least 1m.
	Idle string `json:"idle"`

	idle time.Duration
}

// IdleDuration is Idle, parsed.
func (a Accounts) IdleDuration() time.Duration { return a.idle }

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
	return strings.Join(strings.Fields(msg), " ")
}

// Complete fills in the defaults and checks every value.
func (c *Config) Complete() error {
	fill(&c.DataDir, "/var/lib/sallyport-agent")
	fill(&c.Accounts.Idle, "30m")
	fill(&c.Log.Level, "info")
	fill(&c.Log.Format, "text")
	var err error
	if c.DataDir, err = filepath.Abs(c.DataDir); err != nil {
		return bad("data_dir", c.DataDir, err.Error())
	}
	if c.JoinToken != "" && c.JoinTokenFile != "" {
		return bad("join_token_file", c.JoinTokenFile, "join_token is set too: give one of them")
	}
	if c.Accounts.idle, err = time.ParseDuration(c.Accounts.Idle); err != nil || c.Accounts.idle < time.Minute {
		return bad("accounts.idle", c.Accounts.Idle, "want a duration of at least 1m, for example 30m")
	}
	switch c.Log.Level {
	case "debug", "info", "warn", "error":
	default:
		return bad("log.level", c.Log.Level, "want debug, info, warn or error")
	}
	switch c.Log.Format {
	case "text", "json":
	default:
		return bad("log.format", c.Log.Format, "want text or json")
	}
	return nil
}

func fill(s *string, v string) {
	if *s == "" {
		*s = v
	}
}

func bad(key, value, want string) error {
	return fmt.Errorf("bad value %q for %s: %s", value, key, want)
}
