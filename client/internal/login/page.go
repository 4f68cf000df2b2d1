package login

import (
	"context"
	"crypto/subtle"
	_ "embed"
	"errors"
	"fmt"
	"html/template"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/oauth2"

	"github.com/sallyport-mesh/sallyport/pkg/process"
)

// page is the loopback redirect: a listener for one request, and the answer that
// the person sees.
type page struct {
	url   string
	state string

	server  *http.Server
	claimed atomic.Bool     // a request with the right state has come
	answers chan url.Values // what that request said
	outcome chan view       // what to show to it
	shown   chan struct{}   // closed when it has been shown
}

// view is what the page says.
type view struct {
	Title, User, Coordinator, Problem string
}

//go:embed page.html
var pageHTML string

var pageTemplate = template.Must(template.New("page").Parse(pageHTML))

func listen(ctx context.Context) (*page, error) {
	var lc net.ListenConfig
	ln, err := lc.Listen(ctx, "tcp4", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("listening for the browser's answer: %w", err)
	}
	p := &page{
		url:     "http://" + ln.Addr().String() + "/callback",
		state:   oauth2.GenerateVerifier(),
		answers: make(chan url.Values, 1),
		outcome: make(chan view, 1),
		shown:   make(chan struct{}),
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /callback", p.callback)
	p.server = &http.Server{
		Handler:           sameHost(ln.Addr().String(), mux),
		ReadHeaderTimeout: 5 * time.Second,
		MaxHeaderBytes:    32 << 10,
	}
	go func() { _ = p.server.Serve(ln) }() // ends with close
	return p, nil
}

func (p *page) close() { _ = p.server.Close() }

// sameHost turns away what a web page elsewhere could send here through a name
// that it points at 127.0.0.1.
func sameHost(host string, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Host != host {
			http.Error(w, "not here", http.StatusMisdirectedRequest)
			return
		}
		h := w.Header()
		h.Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'")
		h.Set("Cache-Control", "no-store")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("X-Content-Type-Options", "nosniff")
		next.ServeHTTP(w, r)
	})
}

func (p *page) callback(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	if subtle.ConstantTimeCompare([]byte(q.Get("state")), []byte(p.state)) != 1 {
		w.WriteHeader(http.StatusBadRequest)
		render(w, view{Title: "This is not the login we are waiting for", Problem: "Go back to the terminal and open the address that is printed there."})
		return
	}
	if !p.claimed.CompareAndSwap(false, true) {
		w.WriteHeader(http.StatusBadRequest)
		render(w, view{Title: "This login was answered already", Problem: "Go back to the terminal."})
		return
	}
	p.answers <- q
	// The person should see what came of it, so this waits for the enrolment.
	select {
	case v := <-p.outcome:
		if v.Problem != "" {
			w.WriteHeader(http.StatusBadRequest)
		}
		render(w, v)
		_ = http.NewResponseController(w).Flush()
		close(p.shown)
	case <-r.Context().Done():
	}
}

// code waits for the browser.
func (p *page) code(ctx context.Context) (string, error) {
	select {
	case <-ctx.Done():
		return "", fmt.Errorf("waiting for the browser: %w", ctx.Err())
	case q := <-p.answers:
		return codeFrom(q)
	}
}

func codeFrom(q url.Values) (string, error) {
	if e := q.Get("error"); e != "" {
		why := first(q.Get("error_description"), e)
		if e == "access_denied" {
			return "", process.Hint(fmt.Errorf("the login was refused: %s", sentence(why)), "sallyport login, to try again")
		}
		return "", fmt.Errorf("the login failed: %s", sentence(why))
	}
	code := q["code"]
	if len(code) != 1 || code[0] == "" {
		return "", errors.New("the login's answer holds no code")
	}
	return code[0], nil
}

// sentence cuts what somebody else wrote to the length of a line.
func sentence(s string) string {
	s = strings.TrimSuffix(strings.TrimSpace(s), ".")
	if r := []rune(s); len(r) > 300 {
		s = string(r[:300]) + "…"
	}
	return s
}

func (p *page) succeeded(ctx context.Context, user, coordinator string) {
	p.finish(ctx, view{Title: "You are logged in", User: user, Coordinator: coordinator})
}

func (p *page) failed(ctx context.Context, err error) {
	p.finish(ctx, view{Title: "The login did not work", Problem: err.Error()})
}

// finish shows v to a browser that is waiting, and does not wait for one that is
// not there.
func (p *page) finish(ctx context.Context, v view) {
	if !p.claimed.Load() {
		return
	}
	p.outcome <- v
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
	defer cancel()
	select {
	case <-p.shown:
	case <-ctx.Done():
	}
	_ = p.server.Shutdown(ctx) // lets the answer reach the browser
}

func render(w http.ResponseWriter, v view) {
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	_ = pageTemplate.Execute(w, v) // the browser went away: nobody to tell
}
