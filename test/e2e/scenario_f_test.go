package e2e

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sync/errgroup"

	"github.com/sallyport-mesh/sallyport/coordinator/coordinatortest"
	"github.com/sallyport-mesh/sallyport/test/play"
	"github.com/sallyport-mesh/sallyport/test/upstream"
)

// sso is a world whose people come from an upstream provider: a second, real
// Hydra with groups in a claim.
type sso struct {
	*play.World
	provider *upstream.Provider
}

func (s *sso) RoundTrip(r *http.Request) (*http.Response, error) {
	roots := x509.NewCertPool()
	roots.AddCert(s.Coordinator.Root)
	return (&http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}, DisableKeepAlives: true}).RoundTrip(r)
}

func newSSO(t *testing.T) *sso {
	t.Helper()
	dir, err := os.MkdirTemp("", "sp-corp-") // a short path: it holds a unix socket
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil { // the database has a user of its own
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	s := &sso{}
	t.Cleanup(func() {
		stop()
		if s.provider != nil {
			_ = s.provider.Stop() // it is over either way
		}
		os.RemoveAll(dir)
	})
	s.World = world(t, play.Config{Login: func(_ context.Context, coordinator string) (string, error) {
		var err error
		if s.provider, err = upstream.Start(ctx, upstream.Config{Dir: filepath.Join(dir, "hydra"), Coordinator: coordinator, Name: "corp", Transport: s}); err != nil {
			return "", err
		}
		secret, ca := filepath.Join(dir, "secret"), filepath.Join(dir, "ca.pem")
		return fmt.Sprintf(`login:
  providers:
  - name: corp
    title: Example Corp
    issuer: %s
    client_id: %s
    client_secret_file: %s
    ca_file: %s
    groups: {k8s-aws: aws-members}
    create_users: true
    refresh: 2s
`, s.provider.Issuer, upstream.ClientID, secret, ca), errors.Join(
				os.WriteFile(secret, []byte(upstream.ClientSecret+"\n"), 0o600), os.WriteFile(ca, s.provider.RootPEM(), 0o600))
	}})
	return s
}

// browser trusts the coordinator and the provider.
func (s *sso) browser() (*coordinatortest.Browser, error) {
	roots := x509.NewCertPool()
	roots.AddCert(s.Coordinator.Root)
	roots.AddCert(s.provider.Root)
	return coordinatortest.NewBrowser(&tls.Config{RootCAs: roots})
}

// through goes from the login page to the provider and back.
func (s *sso) through(ctx context.Context, b *coordinatortest.Browser, address string) (*coordinatortest.Page, error) {
	page, err := b.Open(ctx, address)
	if err != nil {
		return nil, err
	}
	if page.Form == nil || !strings.Contains(page.Text, "Log in with Example Corp") {
		return nil, fmt.Errorf("%s offers no provider: %s", page.URL, page.Text)
	}
	return b.Open(ctx, s.Coordinator.URL+"/login/provider/corp?"+url.Values{"login_challenge": {page.Form.Values.Get("login_challenge")}}.Encode())
}

// enter is a login in the person's own browser.
func (s *sso) enter(ctx context.Context, address, _ string) error {
	b, err := s.browser()
	if err != nil {
		return err
	}
	page, err := s.through(ctx, b, address)
	if err != nil {
		return err
	}
	if page.Form == nil || page.Form.Values.Get("consent_challenge") == "" {
		return fmt.Errorf("%s: %s", page.URL, page.Text)
	}
	if page, err = b.Submit(ctx, page.Form, map[string]string{"decision": "allow"}); err == nil && page.URL.Path != "/callback" {
		err = fmt.Errorf("ended at %s: %s", page.URL, page.Text)
	}
	return err
}

// approve is a login with a code, in a browser elsewhere.
func (s *sso) approve(ctx context.Context, address, code string) error {
	b, err := s.browser()
	if err != nil {
		return err
	}
	page, err := s.through(ctx, b, address)
	if err != nil {
		return err
	}
	if page, err = b.Submit(ctx, page.Form, map[string]string{"code": strings.ToLower(code)}); err != nil {
		return err
	}
	host, err := os.Hostname()
	if err != nil {
		return err
	}
	if !strings.Contains(page.Text, host) || !strings.Contains(page.Text, "127.0.0.1") {
		return fmt.Errorf("the page does not show the device: %s", page.Text)
	}
	page, err = b.Submit(ctx, page.Form, map[string]string{"decision": "approve"})
	if err == nil && !strings.Contains(page.Text, "approved") {
		err = errors.New(page.Text)
	}
	return err
}

// Scenario F: a user of an upstream provider gets the group from a claim. Taken
// out of it there, the access ends at the next refresh; logged out there, at
// once.
func TestScenarioFSSO(t *testing.T) {
	s := newSSO(t)
	ctx := t.Context()
	for _, args := range [][]string{
		{"project", "add", "aws"},
		{"group", "add", "aws-members"},
		{"grant", "add", "--role", "cluster-admin", "--group", "aws-members", "--project", "aws"},
	} {
		if _, err := s.Admin(ctx, "", args...); err != nil {
			t.Fatal(err)
		}
	}
	var clusters errgroup.Group
	for _, name := range []string{"edge-1", "edge-2"} {
		clusters.Go(func() error {
			c, err := s.StartCluster(ctx, name, "aws")
			if err != nil {
				return err
			}
			return errors.Join(s.Import(ctx, c), s.StartAgent(ctx, c))
		})
	}
	if err := clusters.Wait(); err != nil {
		t.Fatal(err)
	}

	// In through the provider: nobody here has added her.
	member := upstream.Person{"preferred_username": "nadia@corp.example", "name": "Nadia", "groups": []string{"k8s-aws", "everyone"}}
	s.provider.Say("00u-nadia", member)
	nadia := person(t, s.World, "nadia")
	if err := nadia.LoginBy(ctx, s.enter, "--print-url"); err != nil {
		t.Fatal(err)
	}
	if err := nadia.Up(ctx); err != nil {
		t.Fatal(err)
	}
	works := func() {
		t.Helper()
		eventually(t, "contexts", func() error { return sameContexts(t, nadia, "sallyport/edge-1", "sallyport/edge-2") })
		for _, cluster := range []string{"edge-1", "edge-2"} {
			if out := ok(t, nadia, "--context", "sallyport/"+cluster, "get", "pods").Stdout; !strings.Contains(out, "nginx-") {
				t.Errorf("get pods on %s:\n%s", cluster, out)
			}
		}
	}
	works()

	// Taken out of the group there: over at the next refresh, what runs too.
	watch := running(t, nadia, "watch", "", "--context", "sallyport/edge-1", "get", "pods", "-w")
	s.provider.Say("00u-nadia", upstream.Person{"preferred_username": "nadia@corp.example", "groups": []string{"everyone"}})
	ended(t, watch)
	eventually(t, "no contexts", func() error { return sameContexts(t, nadia) })
	eventually(t, "no accounts", func() error {
		if left := of(accounts(t, s.World, "edge-1"), "nadia"); len(left) > 0 {
			return fmt.Errorf("edge-1 holds %v", left)
		}
		return nil
	})

	// Back in: it comes back by itself.
	s.provider.Say("00u-nadia", member)
	works()

	// Logged out there: everything is over at once, before any refresh could be.
	watch = running(t, nadia, "watch-2", "", "--context", "sallyport/edge-1", "get", "pods", "-w")
	if _, err := s.provider.LogOut(ctx, "00u-nadia"); err != nil {
		t.Fatal(err)
	}
	ended(t, watch)
	refused(t, nadia, []string{"sallyport login"}, "--context", "sallyport/edge-1", "get", "pods")

	// A new login, this time with a code that she approves in a browser elsewhere,
	// through the provider as well.
	if err := nadia.LoginBy(ctx, s.approve, "--no-browser"); err != nil {
		t.Fatal(err)
	}
	works()
	r, err := s.Admin(ctx, "", "-o", "json", "audit", "search", "--log", "coordinator")
	if err != nil {
		t.Fatal(err)
	}
	for _, kind := range []string{"login.created", "login.groups", "login.ended", "login.device"} {
		if !strings.Contains(r.Stdout, kind) {
			t.Errorf("%s is not on record", kind)
		}
	}
}
