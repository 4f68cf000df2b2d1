package login

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"runtime"
	"strings"
	"time"

	"connectrpc.com/connect"
	"github.com/coreos/go-oidc/v3/oidc"
	"golang.org/x/oauth2"

	apiv1 "github.com/sallyport-mesh/sallyport/pkg/api/sallyport/v1"
	"github.com/sallyport-mesh/sallyport/pkg/apiclient"
	"github.com/sallyport-mesh/sallyport/pkg/pki"
	"github.com/sallyport-mesh/sallyport/pkg/process"
	"github.com/sallyport-mesh/sallyport/pkg/profile"
)

// Config of one login.
type Config struct {
	Home profile.Home
	Link pki.Link
	// Code logs in with a code that is approved in a browser elsewhere, instead of
	// with a browser on this machine.
	Code bool
	// Open shows a URL to the person, in a browser. Nil leaves it to the person.
	Open func(ctx context.Context, url string) error
	// Terminal is where the URL is printed, alone on a line.
	Terminal io.Writer
	// Timeout for the person, who may have to find a second factor.
	Timeout time.Duration
	// Version of this program, "0.1.0".
	Version string
}

// Run logs in and saves the session to the home.
func Run(ctx context.Context, cfg Config) (*profile.Profile, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, cfg.Timeout, errTooLate)
	defer cancel()
	f := &flow{Config: cfg}
	p, err := f.run(ctx)
	if errors.Is(context.Cause(ctx), errTooLate) && err != nil {
		return nil, process.Hint(fmt.Errorf("nobody finished the login within %v", cfg.Timeout),
			"sallyport login "+cfg.Link.String()+" --timeout 15m")
	}
	return p, err
}

var errTooLate = errors.New("timeout")

// flow is one login on its way.
type flow struct {
	Config
	client   *apiclient.Client
	discover *apiv1.DiscoverResponse
}

func (f *flow) run(ctx context.Context) (*profile.Profile, error) {
	var err error
	f.client, err = apiclient.New(apiclient.Config{Link: f.Link, Agent: "sallyport/" + f.Version})
	if err != nil {
		return nil, err
	}
	defer f.client.Close()
	// 1. Who is the coordinator?
	if err := f.meet(ctx); err != nil {
		return nil, err
	}
	// 2. Who is the person?
	if f.Code {
		return f.approved(ctx)
	}
	// The page in the browser waits for the outcome.
	page, err := listen(ctx)
	if err != nil {
		return nil, err
	}
	defer page.close()
	p, err := f.authenticate(ctx, page)
	if err != nil {
		page.failed(ctx, err)
		return nil, err
	}
	page.succeeded(ctx, p.Session.UserName, f.discover.GetName())
	return p, nil
}

// meet asks the coordinator what a client needs, and checks that it is one.
func (f *flow) meet(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	resp, err := f.client.Enroll().Discover(ctx, connect.NewRequest(&apiv1.DiscoverRequest{}))
	if err != nil {
		return apiclient.Explain(f.Link.URL, err)
	}
	d := resp.Msg
	if d.GetIssuer() == "" || d.GetClientId() == "" || d.GetTrustDomain() == "" || d.GetOverlayDomain() == "" {
		return fmt.Errorf("%s did not say how to log in", f.Link.URL)
	}
	if _, err := pki.ParseRoot([]byte(d.GetRootPem()), f.Link.Pin); err != nil {
		return fmt.Errorf("the root that %s names: %w", f.Link.URL, err)
	}
	if !f.here(d.GetIssuer()) {
		return fmt.Errorf("%s sends logins elsewhere, to %s", f.Link.URL, d.GetIssuer())
	}
	f.discover = d
	return nil
}

// here reports whether a URL is at the coordinator, the only place that was
// verified.
func (f *flow) here(raw string) bool {
	u, err := url.Parse(raw)
	return err == nil && u.User == nil && strings.EqualFold(u.Scheme+"://"+u.Host, f.Link.URL)
}

func (f *flow) authenticate(ctx context.Context, page *page) (*profile.Profile, error) {
	token, err := f.authorize(ctx, page)
	if err != nil {
		return nil, err
	}
	return f.enroll(ctx, token)
}

// authorize is the authorization code grant with PKCE. It returns an access
// token, after checking that the id token that came with it answers our request.
func (f *flow) authorize(ctx context.Context, page *page) (string, error) {
	httpCtx := oidc.ClientContext(ctx, &http.Client{
		Transport:     f.client.HTTP.Transport,
		CheckRedirect: f.client.HTTP.CheckRedirect,
		Timeout:       30 * time.Second,
	})
	provider, err := oidc.NewProvider(httpCtx, f.discover.GetIssuer())
	if err != nil {
		return "", fmt.Errorf("asking %s how to log in: %w", f.Link.URL, err)
	}
	endpoint := provider.Endpoint()
	if !f.here(endpoint.AuthURL) || !f.here(endpoint.TokenURL) {
		return "", fmt.Errorf("%s sends logins elsewhere", f.Link.URL)
	}
	o := oauth2.Config{
		ClientID:    f.discover.GetClientId(),
		Endpoint:    endpoint,
		RedirectURL: page.url,
		Scopes:      f.discover.GetScopes(),
	}
	verifier, nonce := oauth2.GenerateVerifier(), oauth2.GenerateVerifier()
	options := []oauth2.AuthCodeOption{oauth2.S256ChallengeOption(verifier), oidc.Nonce(nonce)}
	if aud := f.discover.GetAudience(); aud != "" {
		options = append(options, oauth2.SetAuthURLParam("audience", aud))
	}
	f.show(ctx, o.AuthCodeURL(page.state, options...))

	code, err := page.code(ctx)
	if err != nil {
		return "", err
	}
	token, err := o.Exchange(httpCtx, code, oauth2.VerifierOption(verifier))
	var refused *oauth2.RetrieveError
	if errors.As(err, &refused) && refused.ErrorCode != "" {
		return "", fmt.Errorf("the login was not accepted: %s", first(refused.ErrorDescription, refused.ErrorCode))
	}
	if err != nil {
		return "", apiclient.Explain(f.Link.URL, err)
	}
	raw, _ := token.Extra("id_token").(string)
	id, err := provider.Verifier(&oidc.Config{ClientID: o.ClientID}).Verify(httpCtx, raw)
	if err != nil {
		return "", fmt.Errorf("checking the login's answer: %w", err)
	}
	if id.Nonce != nonce {
		return "", errors.New("the login's answer belongs to another login")
	}
	if id.AccessTokenHash != "" {
		if err := id.VerifyAccessToken(token.AccessToken); err != nil {
			return "", fmt.Errorf("checking the login's answer: %w", err)
		}
	}
	return token.AccessToken, nil
}

// show prints the URL alone on a line, for people and for programs.
func (f *flow) show(ctx context.Context, url string) {
	name := first(f.discover.GetName(), f.Link.URL)
	if f.Open != nil {
		if err := f.Open(ctx, url); err == nil {
			fmt.Fprintf(f.Terminal, "Your browser should open to log in to %s. If it does not, go to:\n\n%s\n\n", name, url)
			return
		}
	}
	fmt.Fprintf(f.Terminal, "To log in to %s, open this in a browser on this machine:\n\n%s\n\n", name, url)
}

// enroll exchanges the access token for a session, checks it and saves it.
func (f *flow) enroll(ctx context.Context, accessToken string) (*profile.Profile, error) {
	key, err := f.Home.DeviceKey()
	if err != nil {
		return nil, err
	}
	csr, err := pki.NewCSR(key)
	if err != nil {
		return nil, err
	}
	resp, err := f.client.Enroll().EnrollDevice(ctx, connect.NewRequest(&apiv1.EnrollDeviceRequest{
		AccessToken:   accessToken,
		Csr:           csr,
		DeviceName:    hostname(),
		Os:            runtime.GOOS,
		ClientVersion: f.Version,
	}))
	if err != nil {
		return nil, apiclient.Explain(f.Link.URL, err)
	}
	p := profile.New(f.Link)
	p.Name = f.discover.GetName()
	p.RootPEM = f.discover.GetRootPem()
	p.TrustDomain = f.discover.GetTrustDomain()
	p.OverlayDomain = f.discover.GetOverlayDomain()
	if p.Session, err = check(resp.Msg, f.discover, key); err != nil {
		return nil, fmt.Errorf("%s issued a session that is not usable: %w", f.Link.URL, err)
	}
	if err := f.Home.Save(p); err != nil {
		return nil, err
	}
	return p, nil
}

func first(s ...string) string {
	for _, v := range s {
		if v != "" {
			return v
		}
	}
	return ""
}
