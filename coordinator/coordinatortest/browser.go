// Package coordinatortest is what tests need to stand before a coordinator as a
// person with a browser does.
package coordinatortest

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"strings"

	"golang.org/x/net/html"
)

// Browser follows redirects, keeps cookies and fills in forms. It has no
// scripts, which the coordinator's pages do not need.
type Browser struct {
	client *http.Client
}

// NewBrowser makes a browser without cookies that trusts what cfg says.
func NewBrowser(cfg *tls.Config) (*Browser, error) {
	jar, err := cookiejar.New(nil)
	if err != nil {
		return nil, err
	}
	return &Browser{&http.Client{
		Jar:       jar,
		Transport: &http.Transport{TLSClientConfig: cfg, ForceAttemptHTTP2: true},
		CheckRedirect: func(r *http.Request, via []*http.Request) error {
			if len(via) > 20 { // as browsers do
				return errors.New("too many redirects")
			}
			return nil
		},
	}}, nil
}

// StopAt makes the browser show a redirect to an address that stop picks as a
// page instead of following it.
func (b *Browser) StopAt(stop func(*url.URL) bool) {
	b.client.CheckRedirect = func(r *http.Request, _ []*http.Request) error {
		if stop(r.URL) {
			return http.ErrUseLastResponse
		}
		return nil
	}
}

// StopAtLoopback makes the browser show a redirect to a terminal's listener
// (http on a loopback address) as a page instead of following it.
func (b *Browser) StopAtLoopback() {
	b.StopAt(func(u *url.URL) bool { return u.Scheme == "http" && net.ParseIP(u.Hostname()).IsLoopback() })
}

// Page is what the browser shows.
type Page struct {
	URL      *url.URL
	Status   int
	Header   http.Header
	Title    string
	Text     string   // all of it, white space folded
	Location *url.URL // of a redirect that was not followed
	Form     *Form    // the first one; nil if there is none
}

// Form is a form with the values it came with.
type Form struct {
	Action *url.URL
	Values url.Values
}

// Open goes to an address.
func (b *Browser) Open(ctx context.Context, address string) (*Page, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return nil, err
	}
	return b.do(req)
}

// Submit sends a form with some values set.
func (b *Browser) Submit(ctx context.Context, f *Form, set map[string]string) (*Page, error) {
	if f == nil {
		return nil, errors.New("the page has no form")
	}
	values := maps.Clone(f.Values)
	for k, v := range set {
		values.Set(k, v)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, f.Action.String(), strings.NewReader(values.Encode()))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.Header.Set("Sec-Fetch-Site", "same-origin")
	req.Header.Set("Origin", f.Action.Scheme+"://"+f.Action.Host)
	return b.do(req)
}

// LogIn opens the address that a login prints, logs in with a name and a
// password, and allows the device. The redirect to the terminal is followed, so
// that the login there goes on; the page that it answers with is returned.
func (b *Browser) LogIn(ctx context.Context, address, name, password string) (*Page, error) {
	page, err := b.Open(ctx, address)
	if err != nil {
		return nil, err
	}
	if page, err = b.Submit(ctx, page.Form, map[string]string{"username": name, "password": password}); err != nil {
		return nil, err
	}
	if page.Form == nil || page.Form.Values.Get("consent_challenge") == "" {
		return page, fmt.Errorf("logging in as %s: %s (%d)", name, page.Text, page.Status)
	}
	return b.Submit(ctx, page.Form, map[string]string{"decision": "allow"})
}

func (b *Browser) do(req *http.Request) (*Page, error) {
	req.Header.Set("Accept", "text/html")
	req.Header.Set("User-Agent", "coordinatortest")
	resp, err := b.client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	p := &Page{URL: resp.Request.URL, Status: resp.StatusCode, Header: resp.Header}
	if p.Location, err = resp.Location(); err != nil && !errors.Is(err, http.ErrNoLocation) {
		return nil, fmt.Errorf("reading redirect: %w", err)
	}
	root, err := html.Parse(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return nil, fmt.Errorf("reading page: %w", err)
	}
	var text strings.Builder
	for n := range root.Descendants() {
		p.read(n, &text)
	}
	p.Text = strings.Join(strings.Fields(text.String()), " ")
	return p, nil
}

func (p *Page) read(n *html.Node, text *strings.Builder) {
	if n.Type == html.TextNode {
		if n.Parent.Data == "title" {
			p.Title = n.Data
		} else {
			text.WriteString(n.Data + " ")
		}
		return
	}
	switch n.Data {
	case "form":
		if p.Form == nil {
			p.Form = &Form{Action: p.URL.ResolveReference(parse(attr(n, "action"))), Values: url.Values{}}
		}
	case "input":
		if p.Form != nil {
			p.Form.Values.Set(attr(n, "name"), attr(n, "value"))
		}
	}
}

func parse(s string) *url.URL {
	u, err := url.Parse(s)
	if err != nil {
		return &url.URL{}
	}
	return u
}

func attr(n *html.Node, name string) string {
	for _, a := range n.Attr {
		if a.Key == name {
			return a.Val
		}
	}
	return ""
}

// Cookies are what the browser would send to an address.
func (b *Browser) Cookies(address string) []*http.Cookie {
	return b.client.Jar.Cookies(parse(address))
}

// SetCookie puts a cookie into the browser, as if the address had set it.
func (b *Browser) SetCookie(address string, c *http.Cookie) {
	b.client.Jar.SetCookies(parse(address), []*http.Cookie{c})
}
