package proxy

import (
	"net/url"
	"strings"
	"unicode"
	"unicode/utf8"
)

// maxTarget is the longest request target in bytes: 8 KiB, which is what the
// longest label selectors and exec command lines in use need and what most
// servers take.
const maxTarget = 8 << 10

// target is a request target that has one reading. raw is what goes upstream,
// byte for byte; path is the decoded path that is decided.
type target struct {
	raw      string // path and query as sent
	path     string // decoded
	rawPath  string // as sent, without the query
	rawQuery string
	hasQuery bool // a '?' was sent, though perhaps nothing behind it
}

// parseTarget reads an origin-form target and refuses what anyone on the way
// could read differently: Kubernetes splits and trims the decoded path, where
// others match the encoded one, so a path must have only one spelling.
func parseTarget(raw string) (target, *refusal) {
	if len(raw) > maxTarget {
		return target{}, tooLong("the request target is longer than 8 KiB")
	}
	if raw == "" || raw[0] != '/' {
		return target{}, badRequest("only origin-form request targets (/path?query) are taken")
	}
	for i := 0; i < len(raw); i++ {
		// '#' never belongs to a target; the rest of this range must be percent-encoded.
		if c := raw[i]; c <= ' ' || c >= 0x7f || c == '#' {
			return target{}, badRequest("the request target holds a character that must be percent-encoded")
		}
	}
	t := target{raw: raw}
	t.rawPath, t.rawQuery, t.hasQuery = strings.Cut(raw, "?")
	path, bad := decodePath(t.rawPath)
	if bad != "" {
		return target{}, badRequest("the request path is not canonical: " + bad)
	}
	t.path = path
	if strings.Contains(t.rawQuery, ";") {
		return target{}, badRequest("the query holds a bare ';', which servers read in two ways")
	}
	return t, nil
}

// rawPathBytes may stand unencoded in a path: RFC 3986's pchar and '/', without ';'.
var rawPathBytes = func() (set [256]bool) {
	for _, c := range []byte("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._~!$&'()*+,=:@/") {
		set[c] = true
	}
	return set
}()

// decodePath decodes a path and says in words why it is not canonical.
func decodePath(raw string) (path, bad string) {
	encoded := false
	for i := 0; i < len(raw); i++ {
		c := raw[i]
		if c == ';' {
			return "", "it has parameters (';')"
		}
		if c == '%' {
			encoded = true
			continue
		}
		if !rawPathBytes[c] {
			return "", "it holds a character that must be percent-encoded"
		}
	}
	path = raw
	if encoded {
		if path, bad = unescapePath(raw); bad != "" {
			return "", bad
		}
	}
	// Every '/' of the decoded path is one of the raw path, since %2F was refused.
	if path == "/" {
		return path, ""
	}
	for i, segment := range strings.Split(path[1:], "/") {
		switch {
		case segment == "." || segment == "..":
			return "", "it has dot segments"
		case segment == "" && i == strings.Count(path, "/")-1:
			if !trailingSlashAllowed(path) {
				return "", "it ends in a slash"
			}
		case segment == "":
			return "", "it has empty segments ('//')"
		}
	}
	return path, ""
}

func unescapePath(raw string) (path, bad string) {
	path, err := url.PathUnescape(raw)
	if err != nil {
		return "", "its percent-encoding is broken"
	}
	if !utf8.ValidString(path) {
		return "", "it is not UTF-8"
	}
	for i := 0; i < len(raw); i++ {
		if raw[i] != '%' {
			continue
		}
		c := unhex(raw[i+1])<<4 | unhex(raw[i+2])
		i += 2
		switch {
		case c == '/' || c == '\\':
			return "", "it has encoded slashes"
		case c == '%' || c == ';' || c == '?' || c == '#':
			return "", "it has encoded delimiters"
		case c < 0x80 && (c == '-' || c == '.' || c == '_' || c == '~' ||
			'0' <= c && c <= '9' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'):
			return "", "it has needless percent-encoding"
		}
	}
	for _, r := range path {
		if !unicode.IsPrint(r) {
			return "", "it holds characters that cannot be printed"
		}
	}
	return path, ""
}

func unhex(c byte) byte {
	switch {
	case '0' <= c && c <= '9':
		return c - '0'
	case 'a' <= c && c <= 'f':
		return c - 'a' + 10
	}
	return c - 'A' + 10
}

// trailingSlashAllowed knows the discovery roots, which generated clients ask
// for with a slash at the end: /api/, /api/v1/, /apis/, /apis/g/, /apis/g/v1/,
// /version/ and the two OpenID documents. None of them names a resource.
func trailingSlashAllowed(path string) bool {
	switch path {
	case "/version/", "/.well-known/openid-configuration/", "/openid/v1/jwks/":
		return true
	}
	segments := strings.Count(path, "/") - 1
	switch {
	case strings.HasPrefix(path, "/api/"):
		return segments <= 2
	case strings.HasPrefix(path, "/apis/"):
		return segments <= 3
	}
	return false
}

// parseQuery reads the query as Kubernetes does, but where Go's URL.Query
// drops a pair that it cannot read, the request is refused.
func (t target) parseQuery() (url.Values, *refusal) {
	if t.rawQuery == "" {
		return nil, nil
	}
	q, err := url.ParseQuery(t.rawQuery)
	if err != nil {
		return nil, badRequest("the query cannot be read: its percent-encoding is broken")
	}
	for k, vs := range q {
		if !utf8.ValidString(k) {
			return nil, badRequest("the query is not UTF-8")
		}
		for _, v := range vs {
			if !utf8.ValidString(v) {
				return nil, badRequest("the query is not UTF-8")
			}
		}
	}
	return q, nil
}
