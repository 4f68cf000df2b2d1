package login

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	hydra "github.com/ory/hydra-client-go/v2"

	"github.com/sallyport-mesh/sallyport/coordinator/internal/directory"
	"github.com/sallyport-mesh/sallyport/coordinator/internal/store"
)

// adminTimeout bounds one call of Hydra's admin API.
const adminTimeout = 10 * time.Second

// adminClient talks to http://host:port, or to unix:/path.
func adminClient(admin string) (*hydra.APIClient, error) {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.Proxy = nil
	server := strings.TrimSuffix(admin, "/")
	if path, ok := strings.CutPrefix(admin, "unix:"); ok {
		transport.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", path)
		}
		server = "http://hydra-admin"
	} else if u, err := url.Parse(admin); err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return nil, fmt.Errorf("login: Hydra's admin API %q is neither http(s)://host:port nor unix:/path", admin)
	}
	cfg := hydra.NewConfiguration()
	cfg.Servers = hydra.ServerConfigurations{{URL: server}}
	cfg.HTTPClient = &http.Client{
		Transport: transport,
		Timeout:   adminTimeout,
		// A redirect from the admin API would be somebody else's word.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return hydra.NewAPIClient(cfg), nil
}

// What Hydra can say to a call of ours, as far as we tell it apart.
var (
	errHydraGone = errors.New("hydra knows no such request, or it ran out")
	errHydraAway = errors.New("hydra does not answer")
)

// hydraError turns an answer into one of the errors above. Bodies are not
// quoted: they can hold what a client sent.
func hydraError(doing string, resp *http.Response, err error) error {
	if err == nil {
		return nil
	}
	if resp == nil {
		if e, ok := errors.AsType[*url.Error](err); ok {
			err = e.Err // without the URL, which holds the challenge
		}
		return fmt.Errorf("%s: %w: %w", doing, errHydraAway, err)
	}
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, 64<<10)) // only so that the connection can be used again
	resp.Body.Close()
	switch resp.StatusCode {
	case http.StatusNotFound, http.StatusUnauthorized, http.StatusGone, http.StatusBadRequest, http.StatusConflict, http.StatusForbidden:
		return fmt.Errorf("%s: %w: status %d", doing, errHydraGone, resp.StatusCode)
	}
	return fmt.Errorf("%s: %w: status %d", doing, errHydraAway, resp.StatusCode)
}

// redirect sends the browser where Hydra said, if that is at this coordinator.
// Hydra's own next step always is: the issuer is our URL.
func (a *App) redirect(w http.ResponseWriter, r *http.Request, to string) {
	u, err := url.Parse(to)
	if err != nil || u.Scheme != a.url.Scheme || !strings.EqualFold(u.Host, a.url.Host) || u.User != nil {
		a.cfg.Log.Error("hydra's next step is not at this coordinator: its urls.self.issuer must be the public URL", "want", a.url.String())
		a.problem(w, r, http.StatusInternalServerError, problem{Title: "The login is not set up right", Text: "The login service names another address as its own. An administrator finds the details in the coordinator's log."})
		return
	}
	w.Header().Set("Location", u.String())
	w.WriteHeader(http.StatusSeeOther)
}

// EnsureClient registers the client that the sallyport command is: public, with
// PKCE, redirecting to a loopback port of its choice.
func (a *App) EnsureClient(ctx context.Context) error {
	return errors.Join(a.ensure(ctx, a.commandLine()), a.ensure(ctx, a.accountPages()))
}

func (a *App) commandLine() hydra.OAuth2Client {
	return hydra.OAuth2Client{
		ClientId:   new(ClientID),
		ClientName: new("Sallyport command line"),
		// A loopback redirect is good for every port (RFC 8252, section 7.3).
		RedirectUris:            []string{"http://127.0.0.1/callback", "http://[::1]/callback"},
		GrantTypes:              []string{"authorization_code"},
		ResponseTypes:           []string{"code"},
		Scope:                   new(strings.Join(Scopes, " ")),
		Audience:                []string{a.Audience()},
		TokenEndpointAuthMethod: new("none"),
		SubjectType:             new("public"),
		SkipConsent:             new(false),
		// Long enough to enrol a device with, and for nothing else.
		AuthorizationCodeGrantAccessTokenLifespan: new("5m0s"),
		AuthorizationCodeGrantIdTokenLifespan:     new("5m0s"),
	}
}

// accountPages is the client that our own pages are, for people who look after
// their account or approve a device.
func (a *App) accountPages() hydra.OAuth2Client {
	return hydra.OAuth2Client{
		ClientId:                new(PagesClientID),
		ClientName:              new("Sallyport account pages"),
		RedirectUris:            []string{a.pagesURL(visitCallback)},
		GrantTypes:              []string{"authorization_code"},
		ResponseTypes:           []string{"code"},
		Scope:                   new("openid"),
		TokenEndpointAuthMethod: new("none"),
		SubjectType:             new("public"),
		AuthorizationCodeGrantAccessTokenLifespan: new("1m0s"),
		AuthorizationCodeGrantIdTokenLifespan:     new("1m0s"),
	}
}

func (a *App) ensure(ctx context.Context, c hydra.OAuth2Client) error {
	_, resp, err := a.admin.OAuth2API.CreateOAuth2Client(ctx).OAuth2Client(c).Execute()
	if err == nil {
		return nil
	}
	if resp == nil || resp.StatusCode != http.StatusConflict {
		return hydraError("registering the client", resp, err)
	}
	_, resp, err = a.admin.OAuth2API.SetOAuth2Client(ctx, c.GetClientId()).OAuth2Client(c).Execute()
	return hydraError("updating the client", resp, err)
}

// errToken is the one answer to every access token that is no good.
var errToken = &directory.RefusedError{Reason: "this access token is not accepted here", Hint: "log in again: sallyport login"}

// ErrUnavailable says that Hydra could not be asked. It keeps to ourselves where
// Hydra is and what it said.
var ErrUnavailable = errors.New("the login service does not answer: try again in a moment")

// Introspect answers with the user whose token this is, for the device with this
// key (SHA-256 of its SubjectPublicKeyInfo). Hydra's token must be active, an
// access token, of our client, for us, with our scope; an approved device's must
// be for that very key. The user must be there, not suspended, and of the auth
// generation at which he logged in or approved.
func (a *App) Introspect(ctx context.Context, token string, key [32]byte) (userID string, err error) {
	if strings.HasPrefix(token, tokenMark) {
		err := a.cfg.Store.View(ctx, func(r store.Reader) (err error) {
			userID, err = a.introspectDevice(r, token, key)
			return err
		})
		return userID, err
	}
	if token == "" || len(token) > 4<<10 {
		return "", errToken
	}
	t, resp, err := a.admin.OAuth2API.IntrospectOAuth2Token(ctx).Token(token).Scope(scope).Execute()
	if err != nil {
		a.cfg.Log.Warn("a login cannot be finished", "error", hydraError("introspecting a token", resp, err))
		return "", ErrUnavailable
	}
	if !t.Active || t.GetClientId() != ClientID || t.GetTokenUse() != "access_token" ||
		!slices.Contains(t.Aud, a.Audience()) || !slices.Contains(strings.Fields(t.GetScope()), scope) ||
		t.GetExp() <= a.cfg.Now().Unix() {
		return "", errToken
	}
	u, ok := a.cfg.Directory.Snapshot().Users[t.GetSub()]
	if !ok || generation(t.Ext) != u.GetAuthGeneration() {
		return "", errToken
	}
	if u.GetSuspended() {
		return "", directory.ErrSuspended
	}
	return u.GetId(), nil
}

// Redeem is Introspect for the last time. An approved device's token is spent by
// it: of two that race one gets an answer. One of Hydra's runs out by itself.
func (a *App) Redeem(ctx context.Context, token string, key [32]byte) (userID string, err error) {
	if !strings.HasPrefix(token, tokenMark) {
		return a.Introspect(ctx, token, key)
	}
	_, err = a.cfg.Store.Update(ctx, func(tx store.Txn) (err error) {
		if userID, err = a.introspectDevice(tx, token, key); err == nil {
			tx.Delete(deviceTokenPrefix + hashed(token))
		}
		return err
	})
	return userID, err
}

// innerClient speaks to Hydra's public API as PublicProxy does: TLS ended here.
func (a *App) innerClient() *http.Client {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.Proxy = nil
	return &http.Client{
		Timeout: adminTimeout,
		Transport: roundTrip(func(r *http.Request) (*http.Response, error) {
			r = r.Clone(r.Context())
			r.Host = a.url.Host
			r.Header.Set("X-Forwarded-Proto", "https")
			r.Header.Set("X-Forwarded-Host", a.url.Host)
			return transport.RoundTrip(r)
		}),
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// The auth generation travels with a login: in Hydra's context from login to
// consent, and in the access token's session from there on. It is text, since
// JSON's numbers are not ours.
const generationKey = "auth_generation"

func withGeneration(n uint64) map[string]any {
	return map[string]any{generationKey: strconv.FormatUint(n, 10)}
}

// generation is 0, which no user has, where there is none.
func generation(v any) uint64 {
	m, _ := v.(map[string]any)
	s, _ := m[generationKey].(string)
	n, _ := strconv.ParseUint(s, 10, 64)
	return n
}
