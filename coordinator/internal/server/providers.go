package server

import (
	"crypto/x509"
	"fmt"
	"os"
	"strings"

	"github.com/sallyport-mesh/sallyport/coordinator/internal/config"
	"github.com/sallyport-mesh/sallyport/coordinator/internal/login"
)

// providers reads the files that the configured providers name.
func providers(configured []config.Provider) ([]login.Provider, error) {
	var out []login.Provider
	for _, p := range configured {
		to := login.Provider{
			Name: p.Name, Title: p.Title, Issuer: p.Issuer, ClientID: p.ClientID, ClientAuth: p.ClientAuth, Scopes: p.Scopes, GroupsClaim: p.GroupsClaim,
			Groups: p.Groups, NameClaim: p.NameClaim, CreateUsers: p.CreateUsers, Domains: p.Domains, Refresh: p.RefreshEvery(),
		}
		key := "login.providers[" + p.Name + "]."
		if p.ClientSecretFile != "" {
			raw, err := os.ReadFile(p.ClientSecretFile)
			if err != nil {
				return nil, fmt.Errorf("configuration: %sclient_secret_file: %w", key, err)
			}
			if to.ClientSecret = strings.TrimSpace(string(raw)); to.ClientSecret == "" {
				return nil, fmt.Errorf("configuration: %sclient_secret_file: %s is empty", key, p.ClientSecretFile)
			}
		}
		if p.CAFile != "" {
			raw, err := os.ReadFile(p.CAFile)
			if err != nil {
				return nil, fmt.Errorf("configuration: %sca_file: %w", key, err)
			}
			if to.Roots = x509.NewCertPool(); !to.Roots.AppendCertsFromPEM(raw) {
				return nil, fmt.Errorf("configuration: %sca_file: %s holds no certificate", key, p.CAFile)
			}
		}
		out = append(out, to)
	}
	return out, nil
}
