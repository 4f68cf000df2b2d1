package clienttest

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// grant is an authorization code that waits to be exchanged.
type grant struct {
	challenge, nonce, redirect string
}

// issuerURL ends in a slash, as Hydra's does.
func (c *Coordinator) issuerURL() string { return c.server.URL + "/" }

// provide serves the OpenID provider. It is as strict as Hydra is.
func (c *Coordinator) provide(mux *http.ServeMux) {
	mux.HandleFunc("GET /.well-known/openid-configuration", func(w http.ResponseWriter, _ *http.Request) {
		reply(w, http.StatusOK, map[string]any{
			"issuer": c.issuerURL(), "authorization_endpoint": c.server.URL + "/oauth2/auth", "token_endpoint": c.server.URL + "/oauth2/token",
			"jwks_uri": c.server.URL + "/.well-known/jwks.json", "id_token_signing_alg_values_supported": []string{"ES256"},
		})
	})
	mux.HandleFunc("GET /.well-known/jwks.json", func(w http.ResponseWriter, _ *http.Request) {
		reply(w, http.StatusOK, jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: &c.signer.PublicKey, KeyID: "k", Algorithm: "ES256", Use: "sig"}}})
	})
	mux.HandleFunc("GET /oauth2/auth", c.authorize)
	mux.HandleFunc("POST /oauth2/token", c.token)
	mux.HandleFunc("POST /device/authorization", c.askForDevice)
	mux.HandleFunc("POST /device/token", c.answerDevice)
}

// authorize is the person's click: it sends the browser straight back.
func (c *Coordinator) authorize(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	redirect, err := url.Parse(q.Get("redirect_uri"))
	switch {
	case err != nil || redirect.Scheme != "http" || redirect.Hostname() != "127.0.0.1" || redirect.Path != "/callback":
		http.Error(w, "redirect_uri is not registered", http.StatusBadRequest)
		return
	case q.Get("client_id") != ClientID, q.Get("response_type") != "code", len(q.Get("state")) < 8, q.Get("nonce") == "",
		q.Get("code_challenge_method") != "S256", q.Get("code_challenge") == "", q.Get("audience") == "":
		http.Error(w, "request is not complete", http.StatusBadRequest)
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	answer := url.Values{"state": {q.Get("state")}}
	if c.b.Refuse != "" {
		answer.Set("error", c.b.Refuse)
		answer.Set("error_description", c.b.RefuseBecause)
	} else {
		code := rand.Text()
		c.codes[code] = grant{q.Get("code_challenge"), q.Get("nonce"), redirect.String()}
		answer.Set("code", code)
	}
	redirect.RawQuery = answer.Encode()
	http.Redirect(w, r, redirect.String(), http.StatusSeeOther)
}

func (c *Coordinator) token(w http.ResponseWriter, r *http.Request) {
	c.mu.Lock()
	defer c.mu.Unlock()
	code := r.PostFormValue("code")
	g, ok := c.codes[code]
	delete(c.codes, code)
	sum := sha256.Sum256([]byte(r.PostFormValue("code_verifier")))
	if !ok || g.redirect != r.PostFormValue("redirect_uri") || base64.RawURLEncoding.EncodeToString(sum[:]) != g.challenge {
		reply(w, http.StatusBadRequest, map[string]string{"error": "invalid_grant", "error_description": "The code does not fit"})
		return
	}
	nonce := g.nonce
	if c.b.Nonce != "" {
		nonce = c.b.Nonce
	}
	access := rand.Text()
	c.tokens[access] = true
	half := sha256.Sum256([]byte(access))
	id, err := c.idToken(map[string]any{
		"iss": c.issuerURL(), "sub": c.b.UserID, "aud": ClientID, "nonce": nonce,
		"exp": time.Now().Add(time.Minute).Unix(), "iat": time.Now().Unix(),
		"at_hash": base64.RawURLEncoding.EncodeToString(half[:16]),
	})
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	reply(w, http.StatusOK, map[string]any{"access_token": access, "token_type": "bearer", "expires_in": 60, "id_token": id})
}

// askForDevice is the device authorization endpoint of RFC 8628.
func (c *Coordinator) askForDevice(w http.ResponseWriter, r *http.Request) {
	if r.PostFormValue("client_id") != ClientID || len(r.PostFormValue("device_key")) != 64 || r.PostFormValue("device_name") == "" {
		reply(w, http.StatusBadRequest, map[string]string{"error": "invalid_request"})
		return
	}
	reply(w, http.StatusOK, map[string]any{
		"device_code": "code of " + r.PostFormValue("device_key"), "user_code": "BCDF-GHJK",
		"verification_uri": c.server.URL + "/device", "expires_in": 60, "interval": 1,
	})
}

// answerDevice is its token endpoint, with the person's answer in Behaviour.
func (c *Coordinator) answerDevice(w http.ResponseWriter, r *http.Request) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !strings.HasPrefix(r.PostFormValue("device_code"), "code of ") {
		reply(w, http.StatusBadRequest, map[string]string{"error": "invalid_grant"})
		return
	}
	if len(c.b.Code) == 0 {
		access := rand.Text()
		c.tokens[access] = true
		reply(w, http.StatusOK, map[string]any{"access_token": access, "token_type": "Bearer", "expires_in": 60})
		return
	}
	next := c.b.Code[0]
	c.b.Code = c.b.Code[1:]
	if next == "away" {
		http.Error(w, "a proxy's page", http.StatusBadGateway)
		return
	}
	reply(w, http.StatusBadRequest, map[string]string{"error": next})
}

func (c *Coordinator) idToken(claims map[string]any) (string, error) {
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: c.signer, KeyID: "k"}}, nil)
	if err != nil {
		return "", err
	}
	body, err := json.Marshal(claims)
	if err != nil {
		return "", err
	}
	signed, err := signer.Sign(body)
	if err != nil {
		return "", err
	}
	return signed.CompactSerialize()
}

func reply(w http.ResponseWriter, code int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(v) // a test's client went away
}

// Browse is what a person's browser does with the printed address. It returns the
// page that the person ends on.
func (c *Coordinator) Browse(ctx context.Context, address string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return "", err
	}
	resp, err := c.Client().Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return "", err
	}
	if !strings.HasPrefix(resp.Request.URL.Host, "127.0.0.1:") || resp.Request.URL.Path != "/callback" {
		return "", fmt.Errorf("ended on %s: %s", resp.Request.URL, body)
	}
	return string(body), nil
}
