package login

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"github.com/go-webauthn/webauthn/webauthn"
	hydra "github.com/ory/hydra-client-go/v2"

	"github.com/sallyport-mesh/sallyport/coordinator/internal/backoff"
	"github.com/sallyport-mesh/sallyport/coordinator/internal/caller"
	"github.com/sallyport-mesh/sallyport/coordinator/internal/directory"
	"github.com/sallyport-mesh/sallyport/coordinator/internal/store"
	apiv1 "github.com/sallyport-mesh/sallyport/pkg/api/sallyport/v1"
	"github.com/sallyport-mesh/sallyport/pkg/audit"
)

// Config says what the application needs.
type Config struct {
	Directory *directory.Directory
	Store     store.Store
	// URL is the coordinator's own, https://host[:port]: the issuer, the place
	// of these pages, and the audience of access tokens.
	URL string
	// Link is URL as people type it, with the pin where there is one. Empty
	// means URL.
	Link string
	// Name of this coordinator, as people know it. Empty means the URL's host.
	Name string
	// HydraAdmin is Hydra's admin API: http://host:port, or unix:/path.
	HydraAdmin string
	// HydraPublic is Hydra's public API, which PublicProxy serves: an http or
	// https URL.
	HydraPublic string
	// SealKey seals what is kept of second factors and of upstream providers: 32
	// bytes that are not in the store. Whoever has the store alone has neither.
	SealKey []byte
	// RequireSecondFactor makes everyone with a password set one up at the next
	// login.
	RequireSecondFactor bool
	// Providers are upstream OpenID providers through which people log in too.
	Providers []Provider
	// Record puts an act on record, durably. Required.
	Record func(ctx context.Context, e *audit.Event) error
	// Now is the clock; nil means time.Now.
	Now func() time.Time
	// Log; nil means slog.Default().
	Log *slog.Logger
}

// ClientID is the OAuth client that the sallyport command is.
const ClientID = "sallyport"

// scope is what an access token must carry to enrol a device.
const scope = "sallyport"

// Scopes is what a client asks for. There is no offline_access: no token is
// kept on a device.
var Scopes = []string{"openid", scope}

// App is the application.
type App struct {
	cfg   Config
	url   *url.URL
	admin *hydra.APIClient
	key   []byte // of cookies and form tokens
	pages *pages

	vault     *sealer                      // of what the store keeps for us
	cookies   *sealer                      // of what a browser keeps for us
	inner     *http.Client                 // to Hydra's public API, as the proxy speaks to it
	upstreams map[string]*upstreamProvider // by name
	guesses   *backoff.Limiter             // at codes, by people who are half logged in at least
	strangers *backoff.Limiter             // what anybody may ask, apart so that it crowds out nothing
	paces     *paces                       // of devices that wait

	passkeys *webauthn.WebAuthn // nil where there can be none
}

// keyRecord holds the key in the store: a restart ends no login on its way.
const keyRecord = "loginkey"

// New makes the application. It does not call Hydra, which may start later.
func New(ctx context.Context, cfg Config) (*App, error) {
	if cfg.Directory == nil || cfg.Store == nil || cfg.Record == nil {
		return nil, errors.New("login: directory, store and record are required")
	}
	u, err := url.Parse(cfg.URL)
	if err != nil || u.Scheme != "https" || u.Host == "" || strings.Trim(u.Path, "/") != "" {
		return nil, fmt.Errorf("login: %q is not https://host[:port]", cfg.URL)
	}
	u.Path = ""
	if cfg.Link == "" {
		cfg.Link = u.String()
	}
	if cfg.Name == "" {
		cfg.Name = u.Hostname()
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	a := &App{cfg: cfg, url: u}
	if a.admin, err = adminClient(cfg.HydraAdmin); err != nil {
		return nil, err
	}
	if a.pages, err = newPages(cfg.Name); err != nil {
		return nil, err
	}
	if a.passkeys, err = newRelyingParty(u, cfg.Name); err != nil {
		return nil, fmt.Errorf("login: %w", err)
	}
	if a.vault, err = newSealer(cfg.SealKey); err != nil {
		return nil, fmt.Errorf("login: %w", err)
	}
	stored, err := loadKey(ctx, cfg.Store)
	if err != nil {
		return nil, fmt.Errorf("login: reading key: %w", err)
	}
	// Of both, so that whoever reads the store alone cannot make cookies.
	a.key = cfg.SealKey
	a.key = a.mac([]byte("login"), stored)
	if a.cookies, err = newSealer(a.mac([]byte("cookies"))); err != nil {
		return nil, fmt.Errorf("login: %w", err)
	}
	a.upstreams = make(map[string]*upstreamProvider)
	for _, p := range cfg.Providers {
		a.upstreams[p.Name] = a.newUpstream(p)
	}
	a.inner, a.guesses, a.paces = a.innerClient(), backoff.New(cfg.Now), newPaces()
	a.strangers = backoff.New(cfg.Now)
	return a, nil
}

func loadKey(ctx context.Context, s store.Store) ([]byte, error) {
	var key []byte
	_, err := s.Update(ctx, func(tx store.Txn) error {
		it, err := tx.Get(keyRecord)
		if err != nil {
			return err
		}
		if it != nil && len(it.Value) == 32 {
			key = it.Value
			return nil
		}
		key = make([]byte, 32)
		rand.Read(key) // never fails (crypto/rand, Go 1.24)
		tx.Put(keyRecord, key)
		return nil
	})
	return key, err
}

// Audience is what access tokens are for. It is an https URL because Hydra holds
// all URNs for the same.
func (a *App) Audience() string { return a.url.String() }

// WelcomeURL is where a user with this one-time token chooses his password.
func (a *App) WelcomeURL(token string) string { return a.url.String() + "/welcome/" + token }

// Paths are what Handler serves.
var Paths = []string{"/login", "/login/", "/consent", "/logout", "/error", "/welcome/", "/device", "/device/", "/account", "/account/", "/assets/"}

// Handler serves the pages, and the endpoints of the device grant.
func (a *App) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /login", a.showLogin)
	mux.HandleFunc("POST /login", a.postLogin)
	mux.HandleFunc("GET "+providerPath+"{provider}", a.goUpstream)
	mux.HandleFunc("GET "+providerPath+"{provider}/callback", a.returnUpstream)
	mux.HandleFunc("POST "+providerPath+"{provider}/logout", a.backChannel)
	mux.HandleFunc("GET /account/link/{provider}", a.visiting(a.goLink))
	mux.HandleFunc("POST /login/second", a.postSecond)
	mux.HandleFunc("GET /account/password", a.visiting(a.showPassword))
	mux.HandleFunc("POST /account/password", a.visiting(a.postPassword))
	mux.HandleFunc("GET /account/second-factor", a.visiting(a.showFactor))
	mux.HandleFunc("POST /account/second-factor", a.visiting(a.postFactor))
	mux.HandleFunc("POST /login/passkey", a.postPasskeyLogin)
	mux.HandleFunc("GET /account/passkeys", a.visiting(a.showPasskeys))
	mux.HandleFunc("POST /account/passkeys", a.visiting(a.postPasskeys))
	mux.HandleFunc("GET /consent", a.showConsent)
	mux.HandleFunc("POST /consent", a.postConsent)
	mux.HandleFunc("GET /logout", a.showLogout)
	mux.HandleFunc("POST /logout", a.postLogout)
	mux.HandleFunc("GET /error", a.showError)
	mux.HandleFunc("GET /device", a.visiting(a.showDevice))
	mux.HandleFunc("POST /device", a.visiting(a.postDevice))
	mux.HandleFunc("POST /device/decision", a.visiting(a.decideDevicePage))
	mux.HandleFunc("POST "+DeviceAuthorizationPath, a.authorizeDevice)
	mux.HandleFunc("POST "+DeviceTokenPath, a.deviceToken)
	mux.HandleFunc("GET /account", a.visiting(a.showAccount))
	mux.HandleFunc("GET "+visitCallback, a.arrive)
	mux.HandleFunc("POST /account/leave", a.visiting(a.leave))
	mux.HandleFunc("GET /welcome/{token}", a.showWelcome)
	mux.HandleFunc("POST /welcome/{token}", a.postWelcome)
	for _, path := range []string{"assets/sallyport.css", "assets/mark.svg", passkeyScript} {
		mux.HandleFunc("GET /"+path, asset(path))
	}
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		a.problem(w, r, http.StatusNotFound, problem{Title: "There is no such page", Text: "Nothing is kept at this address."})
	})
	// A form of another site is refused before it is read; the token in each
	// form is the second lock.
	other := http.NewCrossOriginProtection()
	other.SetDenyHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		a.problem(w, r, http.StatusForbidden, problem{Title: "This form came from another site", Text: "Nothing was changed.", Again: true})
	}))
	return headers(other.Handler(limitBody(mux)))
}

// maxForm is far more than any form here needs.
const maxForm = 16 << 10

func limitBody(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.Body = http.MaxBytesReader(w, r.Body, maxForm)
		next.ServeHTTP(w, r)
	})
}

// source is where a request comes from, as far as guessing passwords goes: the
// address, or an IPv6 network, of which anyone has more addresses than we can
// count.
func source(r *http.Request) string {
	ap, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return r.RemoteAddr
	}
	addr := ap.Addr().Unmap()
	if addr.Is6() && !addr.IsLoopback() {
		if p, err := addr.WithZone("").Prefix(64); err == nil {
			return p.String()
		}
	}
	return addr.String()
}

// record puts an act of a person on record. What is refused is recorded too.
func (a *App) record(r *http.Request, kind, target string, u *apiv1.User, refused error) error {
	c := caller.Caller{User: u, Addr: r.RemoteAddr}
	e := c.Event(kind, target, a.cfg.Now())
	e.UserAgent = cut(r.UserAgent(), 256)
	if refused != nil {
		e.Ext.Decision, e.Ext.Reason = audit.Deny, refused.Error()
	}
	if err := a.cfg.Record(r.Context(), e); err != nil {
		return fmt.Errorf("putting the login on record: %w", err)
	}
	return nil
}

func cut(s string, n int) string {
	if len(s) > n {
		s = s[:n]
	}
	return strings.ToValidUTF8(s, "")
}
