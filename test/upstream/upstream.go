// Package upstream is an OpenID provider for tests of logins through one: a real
// Ory Hydra with an issuer, clients, tokens and logouts of its own, and a login
// application in this process that lets in whom the test names.
package upstream

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/big"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strconv"
	"sync"
	"time"

	"github.com/sallyport-mesh/sallyport/test/parts"
)

// Client is what the provider knows the coordinator by.
const (
	ClientID     = "coordinator"
	ClientSecret = "a secret between the two"
)

// Config of a provider.
type Config struct {
	// Dir holds its Hydra.
	Dir string
	// Coordinator is the coordinator's own URL, Name what it calls the provider.
	Coordinator, Name string
	// Transport reaches the coordinator, for logouts.
	Transport http.RoundTripper
}

// Provider is one at work, at https://localhost: another host than the
// coordinator's 127.0.0.1, whose cookies would be its own.
type Provider struct {
	Issuer string
	Root   *x509.Certificate
	Hydra  *parts.RunningHydra

	cfg    Config
	server *http.Server

	mu      sync.Mutex
	who     string // who is let in
	people  map[string]Person
	refused map[string]bool
	sids    map[string]string
	tokens  []string // logout tokens that were sent
	refresh int      // how often somebody was asked about
}

// Person is what the provider says of somebody.
type Person map[string]any

// Start starts a provider. It ends with ctx, and Stop waits for it.
func Start(ctx context.Context, cfg Config) (*Provider, error) {
	p := &Provider{cfg: cfg, people: map[string]Person{}, refused: map[string]bool{}, sids: map[string]string{}}
	ln, err := new(net.ListenConfig).Listen(ctx, "tcp4", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	_, port, err := net.SplitHostPort(ln.Addr().String())
	if err != nil {
		return nil, err
	}
	cert, err := p.certificate()
	if err != nil {
		return nil, err
	}
	p.Issuer = "https://localhost:" + port
	p.Hydra, err = parts.StartHydra(ctx, parts.HydraConfig{
		Dir: cfg.Dir, Issuer: p.Issuer, LoginURL: p.Issuer + "/app/login", ConsentURL: p.Issuer + "/app/consent",
		LogoutURL: p.Issuer + "/app/logout", RefreshHook: "http://" + ln.Addr().String() + "/app/refresh",
	})
	if err != nil {
		return nil, errors.Join(err, ln.Close())
	}
	target, err := url.Parse(p.Hydra.Public)
	if err != nil {
		return nil, err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /app/login", p.login)
	mux.HandleFunc("GET /app/consent", p.consent)
	mux.HandleFunc("POST /app/refresh", p.refreshed)
	mux.HandleFunc("POST /app/logout-relay", p.relay)
	mux.Handle("/", &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		r.SetURL(target)
		r.Out.Host = "localhost:" + port
		r.Out.Header.Set("X-Forwarded-Proto", "https")
	}})
	p.server = &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	// Hydra's own calls come in plain HTTP: it trusts no root of ours.
	go func() { _ = p.server.Serve(&either{ln, &tls.Config{Certificates: []tls.Certificate{cert}}}) }()
	return p, p.register(ctx, "http://"+ln.Addr().String()+"/app/logout-relay")
}

// Stop ends the provider; ctx of Start has to be over.
func (p *Provider) Stop() error {
	err := p.server.Close()
	<-p.Hydra.Done()
	return err
}

// RootPEM is what has to be trusted to reach the provider.
func (p *Provider) RootPEM() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: p.Root.Raw})
}

// Say sets what the provider says of a subject, and lets it in from now on.
func (p *Provider) Say(subject string, claims Person) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.who, p.people[subject] = subject, maps.Clone(claims)
	delete(p.refused, subject)
}

// Refuse makes the provider refuse to refresh a subject's tokens.
func (p *Provider) Refuse(subject string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.refused[subject] = true
}

// Asked is how often the coordinator has refreshed.
func (p *Provider) Asked() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.refresh
}

// LogOut ends a subject's session here, of which the provider then tells the
// coordinator by its back channel. It answers with the logout token that was
// sent.
func (p *Provider) LogOut(ctx context.Context, subject string) (token string, err error) {
	p.mu.Lock()
	sid, before := p.sids[subject], len(p.tokens)
	p.mu.Unlock()
	if err := p.admin(ctx, http.MethodDelete, "/admin/oauth2/auth/sessions/login?sid="+url.QueryEscape(sid), nil, nil); err != nil {
		return "", err
	}
	for { // Hydra sends it after it has answered
		p.mu.Lock()
		sent := p.tokens[before:]
		p.mu.Unlock()
		if len(sent) > 0 {
			return sent[0], nil
		}
		select {
		case <-time.After(10 * time.Millisecond):
		case <-ctx.Done():
			return "", fmt.Errorf("waiting for the logout token: %w", ctx.Err())
		}
	}
}

func (p *Provider) register(ctx context.Context, relay string) error {
	return p.admin(ctx, http.MethodPost, "/admin/clients", map[string]any{
		"client_id": ClientID, "client_secret": ClientSecret, "token_endpoint_auth_method": "client_secret_basic",
		"grant_types": []string{"authorization_code", "refresh_token"}, "response_types": []string{"code"},
		"scope": "openid profile email offline_access", "redirect_uris": []string{p.cfg.Coordinator + "/login/provider/" + p.cfg.Name + "/callback"},
		"backchannel_logout_uri": relay,
	}, nil)
}

// admin calls Hydra's admin API.
func (p *Provider) admin(ctx context.Context, method, path string, in, out any) error {
	body, err := json.Marshal(in)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://admin"+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := p.Hydra.AdminClient().Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if resp.StatusCode >= 300 {
		return fmt.Errorf("%s %s: %s: %s", method, path, resp.Status, raw)
	}
	if out == nil {
		return nil
	}
	return json.Unmarshal(raw, out)
}

// login lets in whom Say named, without a page.
func (p *Provider) login(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	who := p.who
	p.mu.Unlock()
	var to struct {
		Next string `json:"redirect_to"`
	}
	err := p.admin(r.Context(), http.MethodPut, "/admin/oauth2/auth/requests/login/accept?login_challenge="+url.QueryEscape(r.URL.Query().Get("login_challenge")),
		map[string]any{"subject": who, "remember": true, "remember_for": 3600}, &to)
	p.next(w, r, to.Next, err)
}

func (p *Provider) consent(w http.ResponseWriter, r *http.Request) {
	challenge := url.QueryEscape(r.URL.Query().Get("consent_challenge"))
	var req struct {
		Subject string   `json:"subject"`
		SID     string   `json:"login_session_id"`
		Scope   []string `json:"requested_scope"`
	}
	if err := p.admin(r.Context(), http.MethodGet, "/admin/oauth2/auth/requests/consent?consent_challenge="+challenge, nil, &req); err != nil {
		p.next(w, r, "", err)
		return
	}
	p.mu.Lock()
	p.sids[req.Subject] = req.SID
	says := p.people[req.Subject]
	p.mu.Unlock()
	var to struct {
		Next string `json:"redirect_to"`
	}
	err := p.admin(r.Context(), http.MethodPut, "/admin/oauth2/auth/requests/consent/accept?consent_challenge="+challenge,
		map[string]any{"grant_scope": req.Scope, "session": map[string]any{"id_token": says}}, &to)
	p.next(w, r, to.Next, err)
}

func (p *Provider) next(w http.ResponseWriter, r *http.Request, to string, err error) {
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	http.Redirect(w, r, to, http.StatusSeeOther)
}

// refreshed is Hydra's hook: it says anew what the person's token says.
func (p *Provider) refreshed(w http.ResponseWriter, r *http.Request) {
	var asked struct {
		Subject string `json:"subject"`
	}
	if err := json.NewDecoder(r.Body).Decode(&asked); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.refresh++
	if p.refused[asked.Subject] {
		w.WriteHeader(http.StatusForbidden)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(map[string]any{"session": map[string]any{"id_token": p.people[asked.Subject]}}) // Hydra went away
}

// relay carries a logout token to the coordinator, whose root Hydra does not
// trust.
func (p *Provider) relay(w http.ResponseWriter, r *http.Request) {
	token := r.PostFormValue("logout_token")
	status, err := p.Send(r.Context(), token)
	p.mu.Lock()
	p.tokens = append(p.tokens, token)
	p.mu.Unlock()
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	w.WriteHeader(status)
}

// Send posts a logout token to the coordinator.
func (p *Provider) Send(ctx context.Context, token string) (status int, err error) {
	form := url.Values{"logout_token": {token}}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, p.cfg.Coordinator+"/login/provider/"+p.cfg.Name+"/logout", bytes.NewBufferString(form.Encode()))
	if err != nil {
		return 0, err
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	resp, err := (&http.Client{Transport: p.cfg.Transport, Timeout: 30 * time.Second}).Do(req)
	if err != nil {
		return 0, err
	}
	return resp.StatusCode, resp.Body.Close()
}

func (p *Provider) certificate() (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: "a provider " + strconv.Itoa(int(time.Now().UnixNano()))},
		NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(24 * time.Hour), DNSNames: []string{"localhost"},
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return tls.Certificate{}, err
	}
	p.Root, err = x509.ParseCertificate(der)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, err
}
