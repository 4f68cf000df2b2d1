package config

import (
	"strings"
	"testing"
)

// TestBadProvidersAreNamed holds that each mistake in a provider names its key.
func TestBadProvidersAreNamed(t *testing.T) {
	good := Provider{Name: "corp", Issuer: "https://login.example.com", ClientID: "sallyport"}
	for want, change := range map[string]func(*Provider){
		"login.providers[1].name":            func(p *Provider) { p.Name = "Corp/.." },
		"login.providers[other].issuer":      func(p *Provider) { p.Issuer = "http://login.example.com" },
		"login.providers[other].client_id":   func(p *Provider) { p.ClientID = "" },
		"login.providers[other].refresh":     func(p *Provider) { p.Refresh = "1s" },
		"login.providers[other].client_auth": func(p *Provider) { p.ClientAuth = "jwt" },
		"provider corp decides about this":   func(p *Provider) { p.Groups = map[string]string{"b": "aws-members"} },
		"another provider has it":            func(p *Provider) { p.Issuer = good.Issuer },
	} {
		first, second := good, good
		first.Groups = map[string]string{"a": "aws-members"}
		second.Name, second.Issuer = "other", "https://other.example.com"
		change(&second)
		c := Config{Login: Login{Providers: []Provider{first, second}}}
		if err := c.Complete(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
	c := Config{Login: Login{Providers: []Provider{good}}}
	if err := c.Complete(); err != nil {
		t.Fatal(err)
	}
	if p := c.Login.Providers[0]; p.Title != "corp" || p.GroupsClaim != "groups" || p.RefreshEvery().Minutes() != 5 || len(p.Scopes) != 3 {
		t.Errorf("%+v", p)
	}
}
