package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func write(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "agent.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestNoFileIsAConfiguration(t *testing.T) {
	c, err := Read("")
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Complete(); err != nil {
		t.Fatal(err)
	}
	if c.DataDir != "/var/lib/sallyport-agent" || c.Accounts.IdleDuration() != 30*time.Minute {
		t.Errorf("%+v", c)
	}
}

func TestErrorNamesTheKey(t *testing.T) {
	for text, key := range map[string]string{
		"data_dri: /x":                      "data_dri",
		"log: {levle: info}":                "levle",
		"log: {level: loud}":                "log.level",
		"log: {format: xml}":                "log.format",
		"accounts: {idle: 1s}":              "accounts.idle",
		"accounts: {idle: soon}":            "accounts.idle",
		"join_token: a\njoin_token_file: b": "join_token_file",
		"data_dir: [1]":                     "data_dir",
		"data_dir: /a\ndata_dir: /b":        "data_dir",
	} {
		c, err := Read(write(t, text))
		if err == nil {
			err = c.Complete()
		}
		if err == nil || !strings.Contains(err.Error(), key) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%q: %v", text, err)
		}
	}
}
