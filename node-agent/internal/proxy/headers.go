package proxy

import (
	"net/http"
	"net/textproto"
	"slices"
	"strings"
)

// maxHeader bounds a request's header block: 32 KiB.
const maxHeader = 32 << 10

// bearerSubprotocol is how a browser smuggles a bearer token past a WebSocket
// API without headers; the apiserver takes it where the one in Authorization fails.
const bearerSubprotocol = "base64url.bearer.authorization.k8s.io."

// hopByHop are headers of one connection: RFC 9110 section 7.6.1, and what
// older clients send. The client's own Connection list is never consulted:
// it could name headers that we set (CVE-2021-31999, CVE-2022-23652).
var hopByHop = map[string]bool{
	"Connection": true, "Proxy-Connection": true, "Keep-Alive": true, "Te": true, "Trailer": true,
	"Transfer-Encoding": true, "Upgrade": true, "Http2-Settings": true,
	"Proxy-Authenticate": true, "Proxy-Authorization": true, "Proxy-Authentication-Info": true,
}

// dropped are end-to-end headers of which ours count, or that have been acted on already.
var dropped = map[string]bool{
	"Host": true, "Content-Length": true, "Expect": true, "Audit-Id": true,
	"Forwarded": true, "X-Real-Ip": true, "X-Client-Ip": true, "True-Client-Ip": true, "Via": true,
	// The apiserver would join a trace that the client chose.
	"Traceparent": true, "Tracestate": true, "Baggage": true,
}

// checkHeaders refuses what claims an identity, in any case, and with '_' for
// '-', which some servers take for the same.
func checkHeaders(h http.Header) *refusal {
	for name, values := range h {
		switch {
		case hasPrefixFold(name, "impersonate-"):
			return impersonation()
		case hasPrefixFold(name, "x-remote-"):
			return forbidden("the header " + name + " claims an identity, and only a client certificate is one here")
		case equalFold(name, "authorization"), equalFold(name, "proxy-authorization"):
			return forbidden("the header " + name + " claims an identity, and only a client certificate is one here: remove the token or password from this kubeconfig user")
		case hasPrefixFold(name, "x-sallyport-"):
			return forbidden("the header " + name + " is Sallyport's own")
		case equalFold(name, "x-http-method-override"), equalFold(name, "x-http-method"), equalFold(name, "x-method-override"):
			return badRequest("the header " + name + " would give the request a second method")
		case equalFold(name, "sec-websocket-protocol"):
			for _, protocol := range splitList(values) {
				if hasPrefixFold(protocol, bearerSubprotocol) {
					return forbidden("Sec-WebSocket-Protocol carries a bearer token, and only a client certificate is an identity here")
				}
			}
		}
	}
	return nil
}

// hasPrefixFold is strings.HasPrefix for a lower-case prefix, whatever the case
// of s and with its '_' taken for '-'.
func hasPrefixFold(s, prefix string) bool {
	if len(s) < len(prefix) {
		return false
	}
	for i := 0; i < len(prefix); i++ {
		c := s[i]
		if 'A' <= c && c <= 'Z' {
			c += 'a' - 'A'
		}
		if c == '_' {
			c = '-'
		}
		if c != prefix[i] {
			return false
		}
	}
	return true
}

func equalFold(s, lower string) bool { return len(s) == len(lower) && hasPrefixFold(s, lower) }

// upstreamHeaders is what of the client's headers goes on. It shares the
// values with h and never changes them.
func upstreamHeaders(h http.Header) http.Header {
	out := make(http.Header, len(h)+4)
	for name, values := range h {
		if hopByHop[name] || dropped[name] || strings.HasPrefix(name, "X-Forwarded-") {
			continue
		}
		out[name] = values
	}
	return out
}

// responseHeaders copies what of the apiserver's headers goes to the client.
func responseHeaders(to, from http.Header) {
	for name, values := range from {
		if hopByHop[name] || name == "Audit-Id" || name == "Alt-Svc" {
			continue
		}
		to[name] = values
	}
}

// The protocols that Kubernetes upgrades to.
const (
	upgradeWebSocket = "websocket"
	upgradeSPDY      = "SPDY/3.1"
)

// parseUpgrade returns the protocol that the request upgrades to, or "".
func parseUpgrade(r *http.Request) (string, *refusal) {
	wants := splitList(r.Header["Upgrade"])
	asked := slices.ContainsFunc(splitList(r.Header["Connection"]), func(token string) bool {
		return strings.EqualFold(token, "upgrade")
	})
	webSocket := slices.ContainsFunc([]string{"Sec-Websocket-Key", "Sec-Websocket-Version"}, func(name string) bool {
		return len(r.Header[name]) > 0
	})
	switch {
	case len(wants) == 0 && !asked && !webSocket && len(r.Header["Http2-Settings"]) == 0:
		return "", nil
	case len(wants) != 1 || !asked || len(r.Header["Upgrade"]) != 1 || r.ProtoMajor != 1 || r.ProtoMinor != 1 || len(r.Header["Http2-Settings"]) != 0:
		return "", badRequest("the upgrade is not one: it needs HTTP/1.1, 'Connection: Upgrade' and exactly one protocol in 'Upgrade'")
	case r.ContentLength != 0 || len(r.TransferEncoding) != 0:
		return "", badRequest("an upgrade cannot have a body")
	case strings.EqualFold(wants[0], upgradeWebSocket):
		if r.Method != http.MethodGet {
			return "", badRequest("a WebSocket begins with GET")
		}
		if len(r.Header["Sec-Websocket-Key"]) != 1 || len(r.Header["Sec-Websocket-Version"]) != 1 {
			return "", badRequest("the WebSocket handshake needs one key and one version")
		}
		return upgradeWebSocket, nil
	case strings.EqualFold(wants[0], upgradeSPDY) && !webSocket:
		return upgradeSPDY, nil
	}
	return "", badRequest("only the protocols websocket and SPDY/3.1 can be upgraded to")
}

// splitList reads a list header (RFC 9110 section 5.6.1), empty elements left out.
func splitList(values []string) []string {
	var out []string
	for _, v := range values {
		for part := range strings.SplitSeq(v, ",") {
			if part = textproto.TrimString(part); part != "" {
				out = append(out, part)
			}
		}
	}
	return out
}
