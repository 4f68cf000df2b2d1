package proxy

import (
	"mime"
	"net/http"
	"net/url"
	"strings"
	"unicode/utf8"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"
	apirequest "k8s.io/apiserver/pkg/endpoints/request"

	"github.com/sallyport-mesh/sallyport/pkg/policy"
)

// reading is the one reading of a request: what is decided, recorded and
// forwarded all come from here, and nothing later looks at the request again.
type reading struct {
	target  target
	method  string
	attrs   policy.Attributes // without the subject
	verb    string            // Kubernetes' verb; attrs.Verb is create for every exec
	header  http.Header       // for upstream; ours are still missing
	upgrade string            // "", upgradeWebSocket or upgradeSPDY
	// streams is true where the answer may go on for as long as access does:
	// watches, followed logs, upgrades and whatever sits behind a proxy subresource.
	streams bool
	// proxied is true behind nodes, pods and services/proxy, where the answer is
	// not the apiserver's own.
	proxied bool
	review  review
	command []string // of an exec
}

// requestInfo is Kubernetes' reading, with the prefixes of every apiserver.
var requestInfo = apirequest.RequestInfoFactory{
	APIPrefixes:          sets.NewString("api", "apis"),
	GrouplessAPIPrefixes: sets.NewString("api"),
}

// parse reads a request. What can be read in two ways is refused.
func parse(r *http.Request) (*reading, *refusal) {
	switch r.Method {
	case http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete:
	default:
		return nil, badRequest("the method " + printable(r.Method) + " is not one of Kubernetes' API")
	}
	t, bad := parseTarget(r.RequestURI)
	if bad != nil {
		return nil, bad
	}
	if r.URL.Path != t.path || r.URL.RawQuery != t.rawQuery {
		return nil, badRequest("the request target can be read in two ways")
	}
	if bad := checkHeaders(r.Header); bad != nil {
		return nil, bad
	}
	upgrade, bad := parseUpgrade(r)
	if bad != nil {
		return nil, bad
	}
	query, bad := t.parseQuery()
	if bad != nil {
		return nil, bad
	}
	q := &reading{target: t, method: r.Method, upgrade: upgrade}
	if bad := q.resolve(query); bad != nil {
		return nil, bad
	}
	if bad := q.checkUpgrade(); bad != nil {
		return nil, bad
	}
	q.attrs.MayCreate = q.attrs.ResourceRequest && q.attrs.Subresource == "" && mayCreate(r)
	q.header = upstreamHeaders(r.Header)
	return q, nil
}

// resolve turns target and query into attributes, by Kubernetes' RequestInfo
// where that has one reading.
func (q *reading) resolve(query url.Values) *refusal {
	// Without the query: RequestInfo would log one that it cannot read, and go
	// on with a list of everything. What it takes from there is read below.
	info, err := requestInfo.NewRequestInfo(&http.Request{Method: q.method, URL: &url.URL{Path: q.target.path}})
	if err != nil {
		return badRequest("the path names no resource")
	}
	if !info.IsResourceRequest {
		q.verb = info.Verb
		q.attrs = policy.Attributes{Verb: info.Verb, Path: info.Path}
		return nil
	}

	viaPrefix, bad := specialVerb(q.method, info)
	if bad != nil {
		return bad
	}
	if bad := checkNames(info); bad != nil {
		return bad
	}
	q.verb = info.Verb
	q.attrs = policy.Attributes{
		ResourceRequest: true,
		APIGroup:        info.APIGroup,
		APIVersion:      info.APIVersion,
		Resource:        info.Resource,
		Subresource:     info.Subresource,
		Namespace:       info.Namespace,
		Name:            info.Name,
		Upgrade:         q.upgrade != "",
	}
	q.proxied = info.APIGroup == "" && info.Subresource == "proxy"
	if !q.proxied { // there, path and query are the backend's
		watch, bad := checkQuery(query)
		if bad != nil {
			return bad
		}
		if len(info.Parts) > 3 {
			return badRequest("the path goes on behind a subresource")
		}
		if !viaPrefix {
			if bad := q.readSelection(query); bad != nil {
				return bad
			}
		}
		if (watch == "true" && q.verb != "watch") || (watch == "false" && q.verb == "watch") {
			return badRequest("the query says of 'watch' what the rest of the request does not")
		}
	}

	q.attrs.Verb = q.verb
	if isExec(q.attrs) {
		// An exec is an exec by GET over a WebSocket too: whoever may only read
		// pods/* must not get one because RequestInfo calls a GET "get".
		q.attrs.Verb = "create"
		q.command = query["command"]
	}
	follow, _ := boolean(query, "follow") // checkQuery has refused what is odd
	q.streams = q.verb == "watch" || q.upgrade != "" || q.proxied ||
		(q.attrs.Subresource == "log" && follow == "true")
	q.review = reviewOf(q.attrs)
	return nil
}

// mayCreate reports whether Kubernetes makes the object where there is none: of a
// PUT, as some resources do, and of every patch but the three kinds that need
// something to change.
func mayCreate(r *http.Request) bool {
	switch r.Method {
	case http.MethodPut:
		return true
	case http.MethodPatch:
		media, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
		if err != nil || len(r.Header["Content-Type"]) != 1 {
			return true
		}
		switch types.PatchType(media) {
		case types.JSONPatchType, types.MergePatchType, types.StrategicMergePatchType:
			return false
		}
		return true
	}
	return false
}

// specialVerb handles the two old path prefixes: /watch/ is a watch, by GET
// alone; /proxy/ has been gone since Kubernetes 1.10.
func specialVerb(method string, info *apirequest.RequestInfo) (viaPrefix bool, bad *refusal) {
	rest := strings.TrimPrefix(info.Path, "/"+info.APIPrefix+"/")
	if info.APIGroup != "" {
		rest = strings.TrimPrefix(rest, info.APIGroup+"/")
	}
	rest = strings.TrimPrefix(rest, info.APIVersion+"/")
	switch prefix, _, _ := strings.Cut(rest, "/"); prefix {
	case "proxy":
		return false, badRequest("the path prefix /proxy/ is no longer part of Kubernetes' API")
	case "watch":
		if method != http.MethodGet {
			return false, badRequest("a watch begins with GET")
		}
		return true, nil
	}
	if info.Verb == "" {
		return false, badRequest("the method is not one of Kubernetes' API")
	}
	return false, nil
}

// checkNames holds path segments to the alphabets that Kubernetes gives them,
// so that a rule on "secrets" cannot be missed by a spelling.
func checkNames(info *apirequest.RequestInfo) *refusal {
	for _, s := range []string{info.APIGroup, info.APIVersion, info.Resource, info.Subresource, info.Namespace} {
		for i := 0; i < len(s); i++ {
			if c := s[i]; ('a' > c || c > 'z') && ('0' > c || c > '9') && c != '-' && c != '.' {
				return badRequest("groups, versions, resources, subresources and namespaces are made of a-z, 0-9, '-' and '.'")
			}
		}
	}
	return nil
}

// isExec knows the three subresources that run or reach into a container.
func isExec(a policy.Attributes) bool {
	if a.APIGroup != "" || a.Resource != "pods" {
		return false
	}
	return a.Subresource == "exec" || a.Subresource == "attach" || a.Subresource == "portforward"
}

// checkUpgrade lets upgrades happen where Kubernetes makes them and only there.
func (q *reading) checkUpgrade() *refusal {
	exec := isExec(q.attrs)
	switch {
	case q.upgrade != "" && !exec:
		return badRequest("only exec, attach and port-forward can be upgraded")
	case q.upgrade == "" && exec:
		return badRequest("exec, attach and port-forward need an upgrade to websocket or SPDY/3.1")
	case exec && (q.attrs.Name == "" || q.attrs.Namespace == ""):
		return badRequest("the path names no pod")
	}
	return nil
}

// printable makes a client's word fit for a message.
func printable(s string) string {
	if len(s) > 32 || !utf8.ValidString(s) {
		return "sent"
	}
	return strings.Map(func(r rune) rune {
		if r <= ' ' || r >= 0x7f {
			return '?'
		}
		return r
	}, s)
}
