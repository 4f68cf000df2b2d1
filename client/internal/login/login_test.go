package login

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"

	"github.com/sallyport-mesh/sallyport/client/internal/clienttest"
	"github.com/sallyport-mesh/sallyport/pkg/pki"
	"github.com/sallyport-mesh/sallyport/pkg/process"
	"github.com/sallyport-mesh/sallyport/pkg/profile"
)

// attempt logs in with a browser that goes where it is sent, and returns the page
// that the person ends on and what stood on the terminal.
type attempt struct {
	profile        *profile.Profile
	page, terminal string
	home           profile.Home
	err            error
}

func try(t *testing.T, c *clienttest.Coordinator, link pki.Link, change ...func(*Config)) attempt {
	t.Helper()
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	home, err := profile.Find(dir)
	if err != nil {
		t.Fatal(err)
	}
	a := attempt{home: home}
	var wg sync.WaitGroup
	var terminal bytes.Buffer
	cfg := Config{
		Home: home, Link: link, Terminal: &terminal, Timeout: 30 * time.Second, Version: "test",
		Open: func(ctx context.Context, address string) error {
			wg.Go(func() {
				if page, err := c.Browse(context.WithoutCancel(ctx), address); err != nil {
					t.Errorf("browsing: %v", err)
				} else {
					a.page = page
				}
			})
			return nil
		},
	}
	for _, f := range change {
		f(&cfg)
	}
	a.profile, a.err = Run(t.Context(), cfg)
	wg.Wait()
	a.terminal = terminal.String()
	return a
}

// leftNothing checks that a login that failed left the device as it was.
func (a attempt) leftNothing(t *testing.T) {
	t.Helper()
	if a.err == nil {
		t.Fatal("the login worked")
	}
	if _, err := a.home.Load(); !errors.Is(err, profile.ErrNotLoggedIn) {
		t.Errorf("it left a profile: %v", err)
	}
	if strings.ContainsAny(a.err.Error(), "\n") {
		t.Errorf("more than a line: %v", a.err)
	}
}

func TestLoginLeavesASessionAndNoToken(t *testing.T) {
	c := clienttest.Start(t)
	a := try(t, c, c.Link)
	if a.err != nil {
		t.Fatal(a.err)
	}
	if !strings.Contains(a.page, "You are logged in to <strong>Test coordinator</strong> as <strong>shivam</strong>") {
		t.Errorf("the page says %s", a.page)
	}
	var alone []string
	for line := range strings.Lines(a.terminal) {
		if strings.HasPrefix(line, "https://") {
			alone = append(alone, strings.TrimSpace(line))
		}
	}
	if len(alone) != 1 {
		t.Fatalf("the address is not alone on one line: %q", a.terminal)
	}
	if u, err := url.Parse(alone[0]); err != nil || u.Query().Get("code_challenge_method") != "S256" {
		t.Errorf("address %s", alone[0])
	}
	p, err := a.home.LoadSession(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if p.Session.UserName != "shivam" || p.Link() != c.Link || p.OverlayDomain != clienttest.OverlayDomain || p.Session.AuthKey == "" {
		t.Errorf("profile %+v", p)
	}
	if _, err := a.home.Certificate(p.Session); err != nil {
		t.Error(err)
	}
	entries, err := os.ReadDir(a.home.Dir())
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v", e.Name(), info.Mode())
		}
		data, err := os.ReadFile(a.home.Path(e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(data, []byte("access_token")) || bytes.Contains(data, []byte("id_token")) {
			t.Errorf("%s holds a token", e.Name())
		}
	}
	if len(entries) != 3 {
		t.Errorf("the home holds %v", entries)
	}
}

func TestSecondLoginKeepsTheDevice(t *testing.T) {
	c := clienttest.Start(t)
	first := try(t, c, c.Link)
	second := try(t, c, c.Link, func(cfg *Config) { cfg.Home = first.home })
	if first.err != nil || second.err != nil {
		t.Fatal(first.err, second.err)
	}
	if first.profile.Session.DeviceID != second.profile.Session.DeviceID || first.profile.Session.ID == second.profile.Session.ID {
		t.Errorf("first %+v, second %+v", first.profile.Session, second.profile.Session)
	}
}

func TestWrongPinNamesThePinThatWasSeen(t *testing.T) {
	c := clienttest.Start(t)
	wrong := pki.Link{URL: c.Link.URL, Pin: strings.Repeat("ab", 32)}
	a := try(t, c, wrong)
	a.leftNothing(t)
	if !strings.Contains(a.err.Error(), c.Link.Pin) || !errors.Is(a.err, pki.ErrPin) {
		t.Errorf("error %v", a.err)
	}
	if a.terminal != "" {
		t.Errorf("went on to %q", a.terminal)
	}
}

func TestPrivateRootWithoutPinIsNotTrusted(t *testing.T) {
	c := clienttest.Start(t)
	a := try(t, c, pki.Link{URL: c.Link.URL})
	a.leftNothing(t)
	if len(process.Hints(a.err)) == 0 || !strings.Contains(process.Hints(a.err)[0], "#sha256:") {
		t.Errorf("error %v, hints %v", a.err, process.Hints(a.err))
	}
}

func TestServersThatAreNoCoordinator(t *testing.T) {
	c := clienttest.Start(t)
	for name, handler := range map[string]http.HandlerFunc{
		"not found": http.NotFound,
		"a page":    func(w http.ResponseWriter, _ *http.Request) { w.Write([]byte("<h1>It works!</h1>")) },
		"redirect": func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "https://example.com/", http.StatusFound)
		},
		"forbidden": func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "no", http.StatusForbidden) },
		"json":      func(w http.ResponseWriter, _ *http.Request) { w.Write([]byte("{}")) },
	} {
		t.Run(name, func(t *testing.T) {
			a := try(t, c, c.Beside(t, handler))
			a.leftNothing(t)
			if a.terminal != "" || !strings.Contains(a.err.Error(), "coordinator") && !strings.Contains(a.err.Error(), "did not say how to log in") {
				t.Errorf("error %v, terminal %q", a.err, a.terminal)
			}
			t.Log(a.err)
		})
	}
}

func TestRefusalsAreOneClearLine(t *testing.T) {
	for name, test := range map[string]struct {
		b    func(*clienttest.Behaviour)
		want string
	}{
		"refused by the person": {func(b *clienttest.Behaviour) {
			b.Refuse, b.RefuseBecause = "access_denied", "The resource owner denied the request."
		}, "the login was refused: The resource owner denied the request"},
		"server error": {func(b *clienttest.Behaviour) { b.Refuse = "server_error" }, "the login failed: server_error"},
		"suspended": {func(b *clienttest.Behaviour) {
			b.EnrollError = connect.NewError(connect.CodePermissionDenied, errors.New("shivam is suspended"))
		}, "shivam is suspended"},
		"another login's nonce":  {func(b *clienttest.Behaviour) { b.Nonce = "another" }, "the login's answer belongs to another login"},
		"certificate of another": {func(b *clienttest.Behaviour) { b.OtherKey = true }, "the certificate is for another key"},
		"issuer elsewhere":       {func(b *clienttest.Behaviour) { b.Issuer = "https://evil.example/" }, "sends logins elsewhere"},
		"over already":           {func(b *clienttest.Behaviour) { b.Session = -time.Minute }, "expired"},
	} {
		t.Run(name, func(t *testing.T) {
			c := clienttest.Start(t)
			c.Set(test.b)
			a := try(t, c, c.Link)
			a.leftNothing(t)
			if !strings.Contains(a.err.Error(), test.want) {
				t.Errorf("error %v, want %q", a.err, test.want)
			}
			if a.terminal != "" && !strings.Contains(a.page, "The login did not work") {
				t.Errorf("the page says %q", a.page)
			}
		})
	}
}

func TestNobodyComes(t *testing.T) {
	c := clienttest.Start(t)
	a := try(t, c, c.Link, func(cfg *Config) {
		cfg.Timeout = 300 * time.Millisecond
		cfg.Open = nil
	})
	a.leftNothing(t)
	if !strings.Contains(a.err.Error(), "nobody finished the login within 300ms") {
		t.Errorf("error %v", a.err)
	}
	if !strings.Contains(a.terminal, "\nhttps://") {
		t.Errorf("the address is not on the terminal: %q", a.terminal)
	}
}

// Requests that are not the answer we wait for neither end the login nor learn
// anything.
func TestStrayRequestsDoNotDisturbALogin(t *testing.T) {
	c := clienttest.Start(t)
	a := try(t, c, c.Link, func(cfg *Config) {
		browse := cfg.Open
		cfg.Open = func(ctx context.Context, address string) error {
			u, err := url.Parse(address)
			if err != nil {
				return err
			}
			redirect, state := u.Query().Get("redirect_uri"), u.Query().Get("state")
			for _, stray := range []struct{ method, url, host string }{
				{http.MethodGet, redirect + "?code=stolen&state=guess", ""},
				{http.MethodGet, redirect + "?error=access_denied", ""},
				{http.MethodGet, strings.TrimSuffix(redirect, "/callback") + "/", ""},
				{http.MethodPost, redirect + "?code=x&state=" + state, ""},
				{http.MethodGet, redirect + "?code=x&state=" + state, "rebound.example"},
			} {
				req, err := http.NewRequestWithContext(ctx, stray.method, stray.url, nil)
				if err != nil {
					return err
				}
				if stray.host != "" {
					req.Host = stray.host
				}
				resp, err := http.DefaultClient.Do(req)
				if err != nil {
					return err
				}
				resp.Body.Close()
				if resp.StatusCode < 400 {
					t.Errorf("%s %s answered %s", stray.method, stray.url, resp.Status)
				}
			}
			return browse(ctx, address)
		}
	})
	if a.err != nil {
		t.Fatal(a.err)
	}
}

func TestPageShowsOthersWordsAsText(t *testing.T) {
	c := clienttest.Start(t)
	c.Set(func(b *clienttest.Behaviour) {
		b.Refuse, b.RefuseBecause = "access_denied", "<script>alert(1)</script>"
	})
	a := try(t, c, c.Link)
	if strings.Contains(a.page, "<script>") || !strings.Contains(a.page, "&lt;script&gt;") {
		t.Errorf("the page is %s", a.page)
	}
}
