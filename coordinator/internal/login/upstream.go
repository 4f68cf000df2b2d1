package login

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"golang.org/x/oauth2"
)

// Provider is an upstream OpenID provider through which people log in.
type Provider struct {
	// Name in URLs, on record and in commands; Title on its button.
	Name, Title string
	// Issuer is its URL, exactly as it names itself.
	Issuer string
	// ClientID and ClientSecret are what it knows this coordinator by.
	ClientID, ClientSecret string
	// ClientAuth is how the secret is sent: "basic", "post", or "" for what the
	// provider says that it takes.
	ClientAuth string
	// Roots to trust for it; nil means the system's.
	Roots *x509.CertPool
	// Scopes to ask for beside openid.
	Scopes []string
	// GroupsClaim names the claim with groups; Groups maps its values to ours.
	GroupsClaim string
	Groups      map[string]string
	// NameClaim is what a new user is named after.
	NameClaim string
	// CreateUsers lets people in whom nobody has added, with a verified address
	// of one of Domains where there are any.
	CreateUsers bool
	Domains     []string
	// Refresh is how often it is asked again. 0 means five minutes.
	Refresh time.Duration
}

// upstreamProvider is a provider at work. It is asked about itself at its first use, so
// that a provider that is away keeps nothing here from starting.
type upstreamProvider struct {
	Provider
	http     *http.Client
	redirect string
	now      func() time.Time

	mu    sync.Mutex
	known *oidc.Provider
}

var errProviderAway = errors.New("the provider does not answer")

func (a *App) newUpstream(p Provider) *upstreamProvider {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.TLSClientConfig = &tls.Config{RootCAs: p.Roots, MinVersion: tls.VersionTLS12}
	if p.Refresh == 0 {
		p.Refresh = 5 * time.Minute
	}
	return &upstreamProvider{
		Provider: p, http: &http.Client{Transport: transport, Timeout: 15 * time.Second},
		redirect: a.pagesURL(providerPath + p.Name + "/callback"), now: a.cfg.Now,
	}
}

// context carries the client with which the provider is spoken to.
func (u *upstreamProvider) context(ctx context.Context) context.Context {
	return oidc.ClientContext(ctx, u.http)
}

// discover reads what the provider says of itself, once it has.
func (u *upstreamProvider) discover(ctx context.Context) (*oidc.Provider, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.known == nil {
		p, err := oidc.NewProvider(u.context(ctx), u.Issuer)
		if err != nil {
			return nil, fmt.Errorf("discovering provider %s: %w: %w", u.Name, errProviderAway, err)
		}
		u.known = p
	}
	return u.known, nil
}

func (u *upstreamProvider) client(p *oidc.Provider) oauth2.Config {
	scopes := []string{oidc.ScopeOpenID}
	for _, s := range u.Scopes {
		if !slices.Contains(scopes, s) {
			scopes = append(scopes, s)
		}
	}
	endpoint := p.Endpoint()
	endpoint.AuthStyle = u.authStyle(p)
	return oauth2.Config{ClientID: u.ClientID, ClientSecret: u.ClientSecret, Endpoint: endpoint, RedirectURL: u.redirect, Scopes: scopes}
}

// authStyle is settled here: a library that tries one after the other would take
// a provider's no to a person for a no to us, ask again, and burn what was asked
// with.
func (u *upstreamProvider) authStyle(p *oidc.Provider) oauth2.AuthStyle {
	var says struct {
		Methods []string `json:"token_endpoint_auth_methods_supported"`
	}
	switch {
	case u.ClientSecret == "", u.ClientAuth == "post":
		return oauth2.AuthStyleInParams
	case u.ClientAuth == "" && p.Claims(&says) == nil && len(says.Methods) > 0 &&
		!slices.Contains(says.Methods, "client_secret_basic") && slices.Contains(says.Methods, "client_secret_post"):
		return oauth2.AuthStyleInParams
	}
	return oauth2.AuthStyleInHeader // the default (OpenID Connect Core, section 9)
}

// stranger is what a provider says of somebody.
type stranger struct {
	Subject string
	SID     string   // its session, where it tells
	Groups  []string // of ours, by the provider's map
	Name    string
	Display string
	Email   string // verified, or ""
	Refresh string
}

// claims of an id token or of the userinfo endpoint.
type claims map[string]any

func (c claims) text(name string) string {
	s, _ := c[name].(string)
	return s
}

// texts is a list, or one text alone, as some providers have it.
func (c claims) texts(name string) []string {
	switch v := c[name].(type) {
	case string:
		return []string{v}
	case []any:
		var out []string
		for _, x := range v {
			if s, ok := x.(string); ok {
				out = append(out, s)
			}
		}
		return out
	}
	return nil
}

// read turns a token response into who it is. Nonce is "" at a refresh, subject
// what it has to be then.
func (u *upstreamProvider) read(ctx context.Context, p *oidc.Provider, t *oauth2.Token, nonce, subject string) (stranger, error) {
	all := claims{}
	s := stranger{Refresh: t.RefreshToken}
	raw, _ := t.Extra("id_token").(string)
	if raw == "" && nonce != "" {
		return s, fmt.Errorf("provider %s sent no id token", u.Name)
	}
	if raw != "" {
		id, err := p.Verifier(&oidc.Config{ClientID: u.ClientID, Now: u.now}).Verify(u.context(ctx), raw)
		if err != nil {
			return s, fmt.Errorf("verifying the id token of provider %s: %w", u.Name, err)
		}
		if id.Nonce != nonce && nonce != "" {
			return s, fmt.Errorf("the id token of provider %s belongs to another login", u.Name)
		}
		if id.AccessTokenHash != "" {
			if err := id.VerifyAccessToken(t.AccessToken); err != nil {
				return s, fmt.Errorf("verifying the access token of provider %s: %w", u.Name, err)
			}
		}
		if err := id.Claims(&all); err != nil {
			return s, fmt.Errorf("reading the id token of provider %s: %w", u.Name, err)
		}
		s.Subject, s.SID = id.Subject, all.text("sid")
	}
	// A refresh need not bring an id token, and some providers tell groups at the
	// userinfo endpoint alone.
	if _, there := all[u.GroupsClaim]; (raw == "" || !there && len(u.Groups) > 0) && p.UserInfoEndpoint() != "" {
		info, err := p.UserInfo(u.context(ctx), oauth2.StaticTokenSource(t))
		if err != nil {
			return s, fmt.Errorf("asking provider %s about somebody: %w: %w", u.Name, errProviderAway, err)
		}
		if s.Subject != "" && info.Subject != s.Subject {
			return s, fmt.Errorf("provider %s tells about somebody else", u.Name)
		}
		more := claims{}
		if err := info.Claims(&more); err != nil {
			return s, fmt.Errorf("reading what provider %s tells: %w", u.Name, err)
		}
		for name, v := range more {
			if _, there := all[name]; !there {
				all[name] = v
			}
		}
		s.Subject = info.Subject
	}
	if s.Subject == "" || subject != "" && s.Subject != subject {
		return s, fmt.Errorf("provider %s tells about somebody else", u.Name)
	}
	for _, value := range all.texts(u.GroupsClaim) {
		if group := u.Groups[value]; group != "" && !slices.Contains(s.Groups, group) {
			s.Groups = append(s.Groups, group)
		}
	}
	if verified, _ := all["email_verified"].(bool); verified {
		s.Email = all.text("email")
	}
	s.Display = all.text("name")
	for _, name := range []string{all.text(u.NameClaim), all.text("preferred_username"), s.Email, s.Display} {
		if s.Name == "" {
			s.Name = name
		}
	}
	return s, nil
}

// admits says whether somebody whom nobody has added may come in.
func (u *upstreamProvider) admits(s stranger) bool {
	if !u.CreateUsers {
		return false
	}
	if len(u.Domains) == 0 {
		return true
	}
	_, domain, ok := strings.Cut(s.Email, "@")
	return ok && slices.ContainsFunc(u.Domains, func(d string) bool { return strings.EqualFold(d, domain) })
}

// membership says for every group that this provider decides about whether
// somebody is in it.
func (u *upstreamProvider) membership(s stranger) map[string]bool {
	member := map[string]bool{}
	for _, group := range u.Groups {
		member[group] = slices.Contains(s.Groups, group)
	}
	return member
}
