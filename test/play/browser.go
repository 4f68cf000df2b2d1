package play

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"strings"

	"golang.org/x/net/html"
)

// submitLogin goes where a browser would: it opens the address that `sallyport
// login` printed, fills in the form, and follows where that leads, ending at
// the loopback page of the command that waits.
func submitLogin(ctx context.Context, address string, root *x509.Certificate, name, password string) error {
	jar, err := cookiejar.New(nil)
	if err != nil {
		return err
	}
	roots := x509.NewCertPool()
	roots.AddCert(root)
	client := &http.Client{Jar: jar, Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}}
	defer client.CloseIdleConnections()

	page, at, err := fetch(ctx, client, address, nil)
	if err != nil {
		return fmt.Errorf("opening the login page: %w", err)
	}
	// The login form, and the question whether this device is meant.
	for range 3 {
		if at.Hostname() == "127.0.0.1" && strings.HasPrefix(at.Path, "/callback") {
			return nil
		}
		fields, action := form(page)
		if action == nil {
			break
		}
		for field, kind := range fields.kinds {
			switch kind {
			case "password":
				fields.values.Set(field, password)
			case "text", "email", "":
				fields.values.Set(field, name)
			}
		}
		if page, at, err = fetch(ctx, client, at.ResolveReference(action).String(), fields.values); err != nil {
			return fmt.Errorf("sending the form: %w", err)
		}
	}
	if at.Hostname() == "127.0.0.1" && strings.HasPrefix(at.Path, "/callback") {
		return nil
	}
	return fmt.Errorf("login ended at %s%s: %s", at.Host, at.Path, text(page))
}

func fetch(ctx context.Context, client *http.Client, address string, values url.Values) (*html.Node, *url.URL, error) {
	method, body := http.MethodGet, io.Reader(nil)
	if values != nil {
		method, body = http.MethodPost, strings.NewReader(values.Encode())
	}
	req, err := http.NewRequestWithContext(ctx, method, address, body)
	if err != nil {
		return nil, nil, err
	}
	if values != nil {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		req.Header.Set("Origin", req.URL.Scheme+"://"+req.URL.Host)
	}
	res, err := client.Do(req)
	if err != nil {
		return nil, nil, err
	}
	defer res.Body.Close()
	page, err := html.Parse(io.LimitReader(res.Body, 1<<20))
	if err != nil {
		return nil, nil, err
	}
	if res.StatusCode >= 400 {
		return nil, nil, errors.New(res.Status + ": " + text(page))
	}
	return page, res.Request.URL, nil
}

type inputs struct {
	values url.Values
	kinds  map[string]string
}

// form reads the first form of a page: its fields and where it goes.
func form(page *html.Node) (inputs, *url.URL) {
	in := inputs{url.Values{}, map[string]string{}}
	var action *url.URL
	for n := range page.Descendants() {
		switch {
		case n.Type != html.ElementNode:
		case n.Data == "form" && action == nil:
			action, _ = url.Parse(attr(n, "action")) // nil says there is none
		case n.Data == "button" && attr(n, "name") != "" && !in.values.Has(attr(n, "name")):
			in.values.Set(attr(n, "name"), attr(n, "value")) // the first one says yes
		case n.Data == "input" && attr(n, "name") != "":
			in.kinds[attr(n, "name")] = attr(n, "type")
			in.values.Set(attr(n, "name"), attr(n, "value"))
		}
	}
	return in, action
}

func attr(n *html.Node, name string) string {
	for _, a := range n.Attr {
		if a.Key == name {
			return a.Val
		}
	}
	return ""
}

// text is what a person reads on a page.
func text(page *html.Node) string {
	var b strings.Builder
	for n := range page.Descendants() {
		if n.Type == html.TextNode && n.Parent != nil && n.Parent.Data != "style" && n.Parent.Data != "script" && n.Parent.Data != "title" {
			b.WriteString(n.Data + " ")
		}
	}
	return strings.Join(strings.Fields(b.String()), " ")
}
