package config

import (
	"fmt"
	"net/url"
	"regexp"
	"time"
)

// Login says how people log in.
type Login struct {
	// RequireSecondFactor makes everyone who logs in with a password of this
	// coordinator set up a second factor. Default false: each person chooses.
	RequireSecondFactor bool `json:"require_second_factor"`
	// Providers are upstream OpenID providers through which people log in too.
	Providers []Provider `json:"providers"`
}

// Provider is an upstream OpenID provider.
type Provider struct {
	// Name of it in URLs, on record and in commands: lower-case letters, digits
	// and dashes. It must not change once people have logged in through it.
	Name string `json:"name"`
	// Title is what its button says. Default: Name.
	Title string `json:"title"`
	// Issuer is its URL, exactly as it stands in its discovery document.
	Issuer string `json:"issuer"`
	// ClientID and ClientSecretFile are what the provider gave to this
	// coordinator. Without a secret the client is public; PKCE is used always.
	ClientID         string `json:"client_id"`
	ClientSecretFile string `json:"client_secret_file"`
	// ClientAuth is how the secret is sent: "basic" or "post". Default: what the
	// provider says that it takes, basic first.
	ClientAuth string `json:"client_auth"`
	// CAFile holds root certificates to trust for this provider, PEM. Default:
	// the system's.
	CAFile string `json:"ca_file"`
	// Scopes to ask for beside openid. Default [profile, email, offline_access].
	// Without offline_access groups are read at each login only.
	Scopes []string `json:"scopes"`
	// GroupsClaim names the claim with the person's groups. Default "groups".
	GroupsClaim string `json:"groups_claim"`
	// Groups maps values of that claim to groups of ours. For who comes through
	// this provider they follow the claim; no other group is touched.
	Groups map[string]string `json:"groups"`
	// NameClaim is what a new user is named after. Default "preferred_username".
	NameClaim string `json:"name_claim"`
	// CreateUsers lets people in whom nobody has added. Default false.
	CreateUsers bool `json:"create_users"`
	// Domains, where given, are those of the verified addresses that such people
	// must have. An address decides nothing else.
	Domains []string `json:"domains"`
	// Refresh is how often the provider is asked whether the person may still be
	// here, and which groups he has. Default 5m, at least 2s.
	Refresh string `json:"refresh"`

	refresh time.Duration
}

// RefreshEvery is Refresh, parsed.
func (p Provider) RefreshEvery() time.Duration { return p.refresh }

var providerName = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?$`)

func (l *Login) complete() error {
	names, issuers, mapped := map[string]bool{}, map[string]bool{}, map[string]string{}
	for i := range l.Providers {
		p := &l.Providers[i]
		key := fmt.Sprintf("login.providers[%d].", i)
		if !providerName.MatchString(p.Name) || names[p.Name] {
			return bad(key+"name", p.Name, "want a name of its own: lower-case letters, digits and dashes")
		}
		key = "login.providers[" + p.Name + "]."
		names[p.Name] = true
		if u, err := url.Parse(p.Issuer); err != nil || u.Scheme != "https" || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
			return bad(key+"issuer", p.Issuer, "want the provider's https URL")
		}
		if issuers[p.Issuer] {
			return bad(key+"issuer", p.Issuer, "another provider has it")
		}
		issuers[p.Issuer] = true
		if p.ClientID == "" {
			return bad(key+"client_id", "", "it is needed")
		}
		if p.ClientAuth != "" && p.ClientAuth != "basic" && p.ClientAuth != "post" {
			return bad(key+"client_auth", p.ClientAuth, "want basic or post")
		}
		fill(&p.Title, p.Name)
		fill(&p.GroupsClaim, "groups")
		fill(&p.NameClaim, "preferred_username")
		fill(&p.Refresh, "5m")
		if p.Scopes == nil {
			p.Scopes = []string{"profile", "email", "offline_access"}
		}
		for value, group := range p.Groups {
			if group == "" || value == "" {
				return bad(key+"groups", value, "want claim value: group")
			}
			if other, taken := mapped[group]; taken && other != p.Name {
				return bad(key+"groups", group, "provider "+other+" decides about this group already")
			}
			mapped[group] = p.Name
		}
		var err error
		if p.refresh, err = time.ParseDuration(p.Refresh); err != nil || p.refresh < 2*time.Second || p.refresh > 24*time.Hour {
			return bad(key+"refresh", p.Refresh, "want a duration between 2s and 24h")
		}
	}
	return nil
}
