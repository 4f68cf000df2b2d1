package parts

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"strings"
)

// HydraConfig is one Ory Hydra.
type HydraConfig struct {
	// Dir holds database, secrets and sockets; starting in it again keeps clients and tokens.
	Dir string
	// Issuer is the coordinator's own https URL: its reverse proxy stands in front of Hydra.
	Issuer string
	// LoginURL, ConsentURL and LogoutURL are where Hydra sends browsers.
	LoginURL, ConsentURL, LogoutURL string
	// RefreshHook is asked before a token is refreshed; empty for none.
	RefreshHook string
	// PublicPort on 127.0.0.1; 0 for the last one, or a free one.
	PublicPort int
	// AdminSocket defaults to Dir/run/admin.sock.
	AdminSocket string
	// Database is auto (the default), postgresql or sqlite. Auto takes PostgreSQL where it is
	// installed; on SQLite two logins at the same time break each other.
	Database string
}

// RunningHydra is a running Ory Hydra.
type RunningHydra struct {
	*process

	// Public is the URL of the public API, plain HTTP on a port of 127.0.0.1.
	Public string
	// Admin is the unix socket of the admin API, as "unix:/PATH". It is for its owner alone.
	Admin string
	// Database is postgresql or sqlite.
	Database string
}

// StartHydra starts Hydra and returns when both its APIs answer.
func StartHydra(ctx context.Context, c HydraConfig) (*RunningHydra, error) {
	path, err := Binary(ctx, Hydra)
	if err != nil {
		return nil, err
	}
	args := []string{"run"}
	for _, f := range []struct{ name, value string }{
		{"dir", c.Dir},
		{"issuer", c.Issuer},
		{"login-url", c.LoginURL},
		{"consent-url", c.ConsentURL},
		{"logout-url", c.LogoutURL},
		{"refresh-hook", c.RefreshHook},
		{"admin-socket", c.AdminSocket},
		{"database", c.Database},
	} {
		if f.value != "" {
			args = append(args, "--"+f.name, f.value)
		}
	}
	if c.PublicPort != 0 {
		args = append(args, "--public-port", strconv.Itoa(c.PublicPort))
	}
	var answer struct{ Public, Admin, Database string }
	p, err := launch(ctx, "hydra", &answer, path, args...)
	if err != nil {
		return nil, err
	}
	return &RunningHydra{process: p, Public: answer.Public, Admin: answer.Admin, Database: answer.Database}, nil
}

// AdminClient speaks to the admin API; any host in the URL will do, as in http://admin/clients.
func (h *RunningHydra) AdminClient() *http.Client {
	socket, ok := strings.CutPrefix(h.Admin, "unix:")
	return &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			if !ok {
				return nil, fmt.Errorf("admin API is at %s, not on a unix socket", h.Admin)
			}
			return new(net.Dialer).DialContext(ctx, "unix", socket)
		},
	}}
}
