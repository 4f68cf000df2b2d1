package parts

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
)

const issuer = "https://coordinator.test:8443/"

func hydraConfig(dir, database string) HydraConfig {
	return HydraConfig{
		Dir: dir, Issuer: issuer, Database: database,
		LoginURL: issuer + "login", ConsentURL: issuer + "consent", LogoutURL: issuer + "logout",
	}
}

// call asks the admin API; a status other than want ends the test.
func call(t *testing.T, h *RunningHydra, method, path string, body, answer any, want int) {
	t.Helper()
	if err := tryCall(t, h, method, path, body, answer, want); err != nil {
		t.Fatal(err)
	}
}

func tryCall(t *testing.T, h *RunningHydra, method, path string, body, answer any, want int) error {
	raw, err := json.Marshal(body)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(t.Context(), method, "http://admin/admin"+path, bytes.NewReader(raw))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	client := h.AdminClient()
	defer client.CloseIdleConnections()
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if resp.StatusCode != want {
		return fmt.Errorf("%s %s: %s, want %d\n%s", method, path, resp.Status, want, got)
	}
	if answer == nil {
		return nil
	}
	return json.Unmarshal(got, answer)
}

var testClient = map[string]any{
	"client_id": "cli", "token_endpoint_auth_method": "none", "scope": "openid offline_access",
	"grant_types": []string{"authorization_code", "refresh_token"}, "response_types": []string{"code"},
	"redirect_uris": []string{"http://127.0.0.1/callback"},
}

func TestHydraStartsAgainAfterAKill(t *testing.T) {
	t.Parallel()
	for _, database := range []string{"postgresql", "sqlite"} {
		t.Run(database, func(t *testing.T) {
			t.Parallel()
			dir := filepath.Join(t.TempDir(), "h")
			h, err := StartHydra(t.Context(), hydraConfig(dir, database))
			if err != nil {
				t.Fatal(err)
			}
			if h.Database != database {
				t.Errorf("it runs on %s", h.Database)
			}
			discovery(t, h)
			socket := strings.TrimPrefix(h.Admin, "unix:")
			if info, err := os.Stat(socket); err != nil || info.Mode().Perm() != 0o600 {
				t.Errorf("admin socket: %v, %v; want mode 0600", info, err)
			}
			for _, secret := range []string{"hydra.json", "hydra-dev.json"} {
				if info, err := os.Stat(filepath.Join(dir, secret)); err != nil || info.Mode().Perm() != 0o600 {
					t.Errorf("%s: %v, %v; want mode 0600", secret, info, err)
				}
			}
			call(t, h, http.MethodPost, "/clients", testClient, nil, http.StatusCreated)
			tokens := login(t, h, "alice")

			if err := syscall.Kill(h.PID(), syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
			<-h.Done()
			again, err := StartHydra(t.Context(), hydraConfig(dir, "auto"))
			if err != nil {
				t.Fatal(err)
			}
			defer again.Stop()
			if again.Public != h.Public || again.Database != database {
				t.Errorf("it came back as %s on %s, was %s", again.Public, again.Database, h.Public)
			}
			call(t, again, http.MethodGet, "/clients/cli", nil, nil, http.StatusOK)
			if !active(t, again, tokens.Access) {
				t.Error("the token of before is gone")
			}
			again.Stop()
			nothingIn(t, dir)
		})
	}
}

func TestDeathOfADatabaseOrHydraIsCleanedUp(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "h")
	for _, name := range []string{"postgresql", "hydra"} {
		h, err := StartHydra(t.Context(), hydraConfig(dir, "postgresql"))
		if err != nil {
			t.Fatalf("before the death of %s: %v", name, err)
		}
		if err := syscall.Kill(childOf(t, h.PID(), name), syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		<-h.Done()
		if err := h.Err(); err == nil || !strings.Contains(err.Error(), name+" ended: signal: killed") {
			t.Errorf("death of %s is explained as: %v", name, err)
		}
		nothingIn(t, dir)
	}
	h, err := StartHydra(t.Context(), hydraConfig(dir, "postgresql"))
	if err != nil {
		t.Fatal(err)
	}
	h.Stop()
}

// childOf finds the database or Hydra under a supervisor by its command line.
func childOf(t *testing.T, supervisor int, name string) int {
	t.Helper()
	mark := map[string]string{"postgresql": "postgres\x00-D", "hydra": "supervised-hydra"}[name]
	procs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range procs {
		stat, _ := os.ReadFile(p + "/stat")
		args, _ := os.ReadFile(p + "/cmdline")
		_, rest, ok := strings.Cut(string(stat), ") ")
		var state string
		var parent int
		if !ok || !strings.Contains(string(args), mark) {
			continue
		}
		if _, err := fmt.Sscan(rest, &state, &parent); err == nil && parent == supervisor {
			var pid int
			_, _ = fmt.Sscanf(p, "/proc/%d", &pid)
			return pid
		}
	}
	t.Fatalf("no %s under %d", name, supervisor)
	return 0
}

func TestNoHydraOutlivesAKilledTestProcess(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "h")
	cmd, supervisor := startVictim(t, "hydra", dir)
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	gone(t, "supervisor", supervisor)
	nothingIn(t, dir)
}

// SQLite fails this, which is why it is only a fallback.
func TestSixteenLoginsAtOnceOnPostgreSQL(t *testing.T) {
	t.Parallel()
	h, err := StartHydra(t.Context(), hydraConfig(filepath.Join(t.TempDir(), "h"), "postgresql"))
	if err != nil {
		t.Fatal(err)
	}
	defer h.Stop()
	call(t, h, http.MethodPost, "/clients", testClient, nil, http.StatusCreated)
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			if _, err := tryLogin(t, h, fmt.Sprintf("user-%d", i), true); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}

func TestHydraIsConfiguredAsPromised(t *testing.T) {
	t.Parallel()
	h, err := StartHydra(t.Context(), hydraConfig(filepath.Join(t.TempDir(), "h"), "auto"))
	if err != nil {
		t.Fatal(err)
	}
	defer h.Stop()
	call(t, h, http.MethodPost, "/clients", testClient, nil, http.StatusCreated)
	if tokens := login(t, h, "alice"); strings.Count(tokens.Access, ".") > 1 || !active(t, h, tokens.Access) {
		t.Errorf("access token %q is not an opaque one", tokens.Access)
	} else if tokens.Refresh == "" {
		t.Error("no refresh token for offline_access")
	}
	if _, err := tryLogin(t, h, "alice", false); err == nil || !strings.Contains(err.Error(), "code_challenge") {
		t.Errorf("a public client without PKCE: %v, want a refusal that names the challenge", err)
	}
}

func TestHydraRefusesAPlainIssuer(t *testing.T) {
	t.Parallel()
	c := hydraConfig(filepath.Join(t.TempDir(), "h"), "auto")
	c.Issuer = "http://coordinator.test/"
	if h, err := StartHydra(t.Context(), c); err == nil {
		h.Stop()
		t.Error("it started with an http issuer")
	} else if !strings.Contains(err.Error(), "issuer") {
		t.Errorf("refusal does not name the issuer: %v", err)
	}
}

func discovery(t *testing.T, h *RunningHydra) {
	t.Helper()
	resp, err := http.Get(h.Public + "/.well-known/openid-configuration")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var d struct {
		Issuer string `json:"issuer"`
		Token  string `json:"token_endpoint"`
	}
	if err := json.NewDecoder(resp.Body).Decode(&d); err != nil {
		t.Fatal(err)
	}
	if d.Issuer != issuer || d.Token != issuer+"oauth2/token" {
		t.Errorf("discovery says %+v", d)
	}
}

func active(t *testing.T, h *RunningHydra, token string) bool {
	t.Helper()
	client := h.AdminClient()
	defer client.CloseIdleConnections()
	resp, err := client.PostForm("http://admin/admin/oauth2/introspect", url.Values{"token": {token}})
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var answer struct{ Active bool }
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil {
		t.Fatal(err)
	}
	return answer.Active
}

type tokens struct {
	Access  string `json:"access_token"`
	Refresh string `json:"refresh_token"`
}

func login(t *testing.T, h *RunningHydra, subject string) tokens {
	t.Helper()
	got, err := tryLogin(t, h, subject, true)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// browser follows no redirect by itself and keeps secure cookies, as one behind the
// coordinator's TLS would.
type browser struct {
	public  string
	cookies map[string]string
}

// visit asks Hydra for a URL below the issuer and returns where it sends the browser.
func (b *browser) visit(address string) (*url.URL, error) {
	rest, ok := strings.CutPrefix(address, issuer)
	if !ok {
		return nil, fmt.Errorf("%s is not below the issuer", address)
	}
	req, err := http.NewRequest(http.MethodGet, b.public+"/"+rest, nil)
	if err != nil {
		return nil, err
	}
	for name, value := range b.cookies {
		req.AddCookie(&http.Cookie{Name: name, Value: value})
	}
	resp, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	resp.Body.Close()
	for _, c := range resp.Cookies() {
		if !c.Secure {
			return nil, fmt.Errorf("cookie %s is not secure", c.Name)
		}
		b.cookies[c.Name] = c.Value
	}
	to, err := resp.Location()
	if err != nil {
		return nil, fmt.Errorf("%s: %s: %w", address, resp.Status, err)
	}
	if e := to.Query().Get("error"); e != "" {
		return nil, errors.New(e + ": " + to.Query().Get("error_description"))
	}
	return to, nil
}

// tryLogin is a whole authorization code flow, with the login and consent apps played here.
func tryLogin(t *testing.T, h *RunningHydra, subject string, pkce bool) (tokens, error) {
	b := &browser{public: h.Public, cookies: map[string]string{}}
	verifier := strings.Repeat("verifier-", 6)
	digest := sha256.Sum256([]byte(verifier))
	q := url.Values{
		"client_id": {"cli"}, "response_type": {"code"}, "scope": {"openid offline_access"},
		"redirect_uri": {"http://127.0.0.1/callback"}, "state": {"state-state"},
	}
	if pkce {
		q.Set("code_challenge", base64.RawURLEncoding.EncodeToString(digest[:]))
		q.Set("code_challenge_method", "S256")
	}
	at, err := b.visit(issuer + "oauth2/auth?" + q.Encode())
	if err != nil {
		return tokens{}, err
	}
	for _, step := range []struct {
		name string
		body map[string]any
	}{
		{"login", map[string]any{"subject": subject}},
		{"consent", map[string]any{"grant_scope": []string{"openid", "offline_access"}}},
	} {
		challenge := at.Query().Get(step.name + "_challenge")
		var answer struct {
			To string `json:"redirect_to"`
		}
		path := fmt.Sprintf("/oauth2/auth/requests/%[1]s/accept?%[1]s_challenge=%[2]s", step.name, url.QueryEscape(challenge))
		if err := tryCall(t, h, http.MethodPut, path, step.body, &answer, http.StatusOK); err != nil {
			return tokens{}, err
		}
		if at, err = b.visit(answer.To); err != nil {
			return tokens{}, err
		}
	}
	form := url.Values{
		"grant_type": {"authorization_code"}, "code": {at.Query().Get("code")}, "client_id": {"cli"},
		"redirect_uri": {"http://127.0.0.1/callback"},
	}
	if pkce {
		form.Set("code_verifier", verifier)
	}
	resp, err := http.PostForm(h.Public+"/oauth2/token", form)
	if err != nil {
		return tokens{}, err
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		return tokens{}, err
	}
	if resp.StatusCode != http.StatusOK {
		return tokens{}, fmt.Errorf("token endpoint: %s\n%s", resp.Status, raw)
	}
	var got tokens
	return got, json.Unmarshal(raw, &got)
}
