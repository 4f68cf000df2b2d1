package login

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/oauth2"
	"golang.org/x/sync/errgroup"

	"github.com/sallyport-mesh/sallyport/coordinator/coordinatortest"
	"github.com/sallyport-mesh/sallyport/coordinator/internal/directory"
	"github.com/sallyport-mesh/sallyport/coordinator/internal/store"
	"github.com/sallyport-mesh/sallyport/coordinator/internal/store/storetest"
	apiv1 "github.com/sallyport-mesh/sallyport/pkg/api/sallyport/v1"
	"github.com/sallyport-mesh/sallyport/pkg/audit"
	"github.com/sallyport-mesh/sallyport/test/parts"
	"github.com/sallyport-mesh/sallyport/test/upstream"
)

// front is the coordinator's TLS port for all tests of this package: its URL is
// Hydra's issuer and cannot change, the application behind it is the test's own.
var front frontend

type frontend struct {
	server  *httptest.Server
	url     string
	current atomic.Pointer[http.Handler]
	hydra   *parts.RunningHydra
	// upstream is the provider through which people log in too.
	upstream *upstream.Provider
}

func TestMain(m *testing.M) {
	code, err := withHydra(m.Run)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

// withHydra runs the real Hydra around the tests.
func withHydra(run func() int) (code int, err error) {
	return code, front.serve("127.0.0.1", func() { code = run() })
}

// serve runs the port, known by a host, and a real Hydra behind it while f runs.
func (f *frontend) serve(host string, run func()) error {
	f.server = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		(*f.current.Load()).ServeHTTP(w, r)
	}))
	defer f.server.Close()
	f.url = strings.Replace(f.server.URL, "127.0.0.1", host, 1)
	dir, err := os.MkdirTemp("", "login")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if err := os.Chmod(dir, 0o755); err != nil { // the database has a user of its own
		return err
	}
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	var group errgroup.Group // both take a few seconds to start
	group.Go(func() (err error) {
		f.hydra, err = parts.StartHydra(ctx, parts.HydraConfig{
			Dir: filepath.Join(dir, "hydra"), Issuer: f.url,
			LoginURL: f.url + "/login", ConsentURL: f.url + "/consent", LogoutURL: f.url + "/logout",
		})
		return err
	})
	if f == &front {
		group.Go(func() (err error) {
			f.upstream, err = upstream.Start(ctx, upstream.Config{
				Dir: filepath.Join(dir, "upstream"), Coordinator: f.url, Name: "corp",
				Transport: &http.Transport{TLSClientConfig: tlsConfig()},
			})
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	defer func() {
		stop()
		<-f.hydra.Done()
		if f.upstream != nil {
			_ = f.upstream.Stop() // it is over either way
		}
	}()
	run()
	return nil
}

// fixture is a coordinator's login application before the real Hydra, with a
// user.
type fixture struct {
	*App
	t     *testing.T
	dir   *directory.Directory
	store store.Store
	user  *apiv1.User

	ahead atomic.Int64 // nanoseconds that the application's clock is ahead

	mu      sync.Mutex
	records []*audit.Event
}

// forward moves the application's clock.
func (f *fixture) forward(d time.Duration) { f.ahead.Add(int64(d)) }

// aKey stands for a device's key where Hydra's token is not tied to one.
var aKey [32]byte

const password = "correct horse battery"

func newFixture(t *testing.T, change ...func(*Config)) *fixture {
	return newFixtureAt(t, &front, change...)
}

func newFixtureAt(t *testing.T, at *frontend, change ...func(*Config)) *fixture {
	t.Helper()
	f := &fixture{t: t, store: storetest.New(t)}
	var err error
	if f.dir, err = directory.Open(t.Context(), directory.Config{Store: f.store}); err != nil {
		t.Fatal(err)
	}
	if f.user, _, err = f.dir.CreateUser(t.Context(), directory.UserSpec{Name: "shivam", DisplayName: "Shivam", Password: password}); err != nil {
		t.Fatal(err)
	}
	cfg := Config{
		Directory: f.dir, Store: f.store, URL: at.url, Name: "example mesh",
		HydraAdmin: at.hydra.Admin, HydraPublic: at.hydra.Public,
		SealKey: make([]byte, 32),
		Now:     func() time.Time { return time.Now().Add(time.Duration(f.ahead.Load())) },
		Record: func(_ context.Context, e *audit.Event) error {
			f.mu.Lock()
			defer f.mu.Unlock()
			f.records = append(f.records, e)
			return nil
		},
	}
	for _, c := range change {
		c(&cfg)
	}
	if f.App, err = New(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	if err := f.EnsureClient(t.Context()); err != nil {
		t.Fatal(err)
	}
	proxy, err := f.PublicProxy()
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.Handle("/oauth2/", proxy)
	mux.Handle("/userinfo", proxy)
	mux.Handle("/.well-known/", proxy)
	mux.Handle("/", f.Handler())
	var h http.Handler = mux
	at.current.Store(&h)
	return f
}

// kinds lists what was put on record, with "!" before refusals.
func (f *fixture) kinds() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []string
	for _, e := range f.records {
		if e.Ext.Decision == audit.Deny {
			out = append(out, "!"+e.Ext.Kind)
		} else {
			out = append(out, e.Ext.Kind)
		}
	}
	return out
}

func (f *fixture) recorded(want ...string) {
	f.t.Helper()
	if got := f.kinds(); !slices.Equal(got, want) {
		f.t.Errorf("on record: %v, want %v", got, want)
	}
}

func tlsConfig() *tls.Config {
	pool := x509.NewCertPool()
	pool.AddCert(front.server.Certificate())
	return &tls.Config{RootCAs: pool}
}

func browser(t *testing.T) *coordinatortest.Browser {
	t.Helper()
	b, err := coordinatortest.NewBrowser(tlsConfig())
	if err != nil {
		t.Fatal(err)
	}
	b.StopAtLoopback()
	return b
}

// flow is what the terminal holds during a login.
type flow struct {
	oauth2.Config
	state, verifier string
	at              *frontend
}

func newFlow() *flow { return newFlowAt(&front) }

func newFlowAt(at *frontend) *flow {
	return &flow{
		at: at,
		Config: oauth2.Config{
			ClientID: ClientID, Scopes: Scopes, RedirectURL: "http://127.0.0.1:45678/callback",
			Endpoint: oauth2.Endpoint{AuthURL: at.url + "/oauth2/auth", TokenURL: at.url + "/oauth2/token", AuthStyle: oauth2.AuthStyleInParams},
		},
		state: oauth2.GenerateVerifier(), verifier: oauth2.GenerateVerifier(),
	}
}

func (f *flow) address() string {
	return f.AuthCodeURL(f.state, oauth2.S256ChallengeOption(f.verifier), oauth2.SetAuthURLParam("audience", f.at.url))
}

// exchange turns the redirect to the terminal into a token.
func (f *flow) exchange(ctx context.Context, to *url.URL) (*oauth2.Token, error) {
	if to == nil {
		return nil, fmt.Errorf("no redirect to the terminal")
	}
	q := to.Query()
	if e := q.Get("error"); e != "" {
		return nil, fmt.Errorf("%s: %s", e, q.Get("error_description"))
	}
	if q.Get("state") != f.state {
		return nil, fmt.Errorf("state %q", q.Get("state"))
	}
	ctx = context.WithValue(ctx, oauth2.HTTPClient, &http.Client{Transport: &http.Transport{TLSClientConfig: tlsConfig()}, Timeout: 30 * time.Second})
	return f.Exchange(ctx, q.Get("code"), oauth2.VerifierOption(f.verifier))
}

func must[T any](t *testing.T) func(v T, err error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// token logs in from the beginning to an access token.
func (f *fixture) token() string {
	f.t.Helper()
	fl := newFlow()
	page := must[*coordinatortest.Page](f.t)(browser(f.t).LogIn(f.t.Context(), fl.address(), "shivam", password))
	return must[*oauth2.Token](f.t)(fl.exchange(f.t.Context(), page.Location)).AccessToken
}

// raw sends a request as something that is not our browser.
func raw(t *testing.T, method, path string, body io.Reader, set func(*http.Request)) *http.Response {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, front.server.URL+path, body)
	if err != nil {
		t.Fatal(err)
	}
	if set != nil {
		set(req)
	}
	resp, err := (&http.Transport{TLSClientConfig: tlsConfig()}).RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { resp.Body.Close() })
	return resp
}
