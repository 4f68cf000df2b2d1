package pki

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"strings"
)

// Link is where a coordinator is and how to trust it the first time. As text it
// is the login URL: https://host:port, with #sha256:<pin> where the root is
// private.
type Link struct {
	// URL is https://host or https://host:port, with nothing behind it.
	URL string
	// Pin of the coordinator's root; empty for a public certificate.
	Pin string
}

// Host is the URL's host name, without the port, as PinnedTLS wants it.
func (l Link) Host() string {
	u, err := url.Parse(l.URL)
	if err != nil {
		return ""
	}
	return u.Hostname()
}

// String is the login URL.
func (l Link) String() string {
	if l.Pin == "" {
		return l.URL
	}
	return l.URL + "#sha256:" + l.Pin
}

// ParseLink reads a login URL as people paste it: surrounding space and one
// trailing slash are forgiven, nothing else is.
func ParseLink(s string) (Link, error) {
	s = strings.TrimSpace(s)
	base, fragment, pinned := strings.Cut(s, "#")
	l := Link{URL: strings.TrimSuffix(base, "/")}
	if pinned {
		var ok bool
		if l.Pin, ok = strings.CutPrefix(fragment, "sha256:"); !ok || !isPin(l.Pin) {
			return Link{}, errors.New("what follows # is not sha256:<64 hex digits>")
		}
	}
	if err := l.check(); err != nil {
		return Link{}, err
	}
	return l, nil
}

func (l Link) check() error {
	u, err := url.Parse(l.URL)
	switch {
	case err != nil || u.Hostname() == "" || u.Opaque != "":
		return fmt.Errorf("%q is not a coordinator's URL, like https://sallyport.example.com", l.URL)
	case u.Scheme != "https":
		return fmt.Errorf("%q does not begin with https://", l.URL)
	case u.User != nil || u.RawQuery != "" || u.ForceQuery || u.Fragment != "" || u.Path != "" || "https://"+u.Host != l.URL:
		return fmt.Errorf("%q has more than a host and a port", l.URL)
	case l.Pin != "" && !isPin(l.Pin):
		return errors.New("a pin is 64 lower-case hex digits")
	}
	return nil
}

const joinPrefix = "sjt_"

// JoinToken is what an agent needs to enrol once: the coordinator, how to trust
// it, and a secret that works a single time. Its text is
// "sjt_" + base64url({"u": URL, "p": pin, "s": secret}).
type JoinToken struct {
	Link
	Secret string
}

type joinJSON struct {
	URL    string `json:"u"`
	Pin    string `json:"p"`
	Secret string `json:"s"`
}

// String is the token's text. It is a secret: do not log it.
func (t JoinToken) String() string {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	// Three strings always encode.
	_ = enc.Encode(joinJSON{t.URL, t.Pin, t.Secret})
	return joinPrefix + base64.RawURLEncoding.EncodeToString(bytes.TrimSuffix(b.Bytes(), []byte("\n")))
}

// ErrJoinToken says that a text is no join token at all: cut off, or something
// else that was pasted.
var ErrJoinToken = errors.New("not a join token (they begin with sjt_)")

// ParseJoinToken reads a token's text. Only what String writes is taken, so one
// token has one text.
func ParseJoinToken(s string) (JoinToken, error) {
	body, ok := strings.CutPrefix(strings.TrimSpace(s), joinPrefix)
	if !ok || len(body) > 4096 {
		return JoinToken{}, ErrJoinToken
	}
	raw, err := base64.RawURLEncoding.Strict().DecodeString(body)
	if err != nil {
		return JoinToken{}, ErrJoinToken
	}
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.DisallowUnknownFields()
	var j joinJSON
	if err := dec.Decode(&j); err != nil {
		return JoinToken{}, ErrJoinToken
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return JoinToken{}, ErrJoinToken
	}
	t := JoinToken{Link{j.URL, j.Pin}, j.Secret}
	if err := t.check(); err != nil {
		return JoinToken{}, fmt.Errorf("join token: %w", err)
	}
	if t.Secret == "" || t.String() != joinPrefix+body {
		return JoinToken{}, ErrJoinToken
	}
	return t, nil
}
