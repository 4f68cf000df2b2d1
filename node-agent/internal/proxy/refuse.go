package proxy

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/sallyport-mesh/sallyport/pkg/policy"
)

// refusal is a no, with what its Status says. Status codes are chosen here and
// nowhere else.
type refusal struct {
	code    int
	reason  metav1.StatusReason
	message string // what is wrong, for the person who asked
	next    string // what to run next
	// retryAfter is how many seconds later it may work, 0 where it will not.
	retryAfter int
	// decision is the policy's, where it was the policy that refused.
	decision *policy.Decision
}

func (f *refusal) Error() string { return f.message }

const (
	nextStatus = "'sallyport status' shows what you hold here"
	nextLogin  = "'sallyport status' shows your session"
	nextAsk    = "ask whoever manages the project"
)

func badRequest(message string) *refusal {
	return &refusal{code: http.StatusBadRequest, reason: metav1.StatusReasonBadRequest, message: message}
}

func tooLong(message string) *refusal {
	return &refusal{code: http.StatusRequestURITooLong, reason: metav1.StatusReasonBadRequest, message: message}
}

func tooLarge(message string) *refusal {
	return &refusal{code: http.StatusRequestEntityTooLarge, reason: metav1.StatusReasonRequestEntityTooLarge, message: message}
}

func forbidden(message string) *refusal {
	return &refusal{code: http.StatusForbidden, reason: metav1.StatusReasonForbidden, message: message}
}

func impersonation() *refusal {
	return &refusal{
		code: http.StatusForbidden, reason: metav1.StatusReasonForbidden,
		message: "nobody acts as somebody else through Sallyport (--as, Impersonate-*)",
		next:    "to see what another person may do, an administrator runs 'sallyportctl why'",
	}
}

func unauthorized(message string) *refusal {
	return &refusal{code: http.StatusUnauthorized, reason: metav1.StatusReasonUnauthorized, message: message, next: nextLogin}
}

// denied is the policy's no. Its reason names what is missing and nothing that
// the person may not see.
func denied(d policy.Decision) *refusal {
	return &refusal{code: http.StatusForbidden, reason: metav1.StatusReasonForbidden, message: d.Reason, next: d.Next, decision: &d}
}

// unavailable is a no that has nothing to do with the person. It says nothing
// of trying again: client-go obeys a Retry-After by sending the same request up
// to ten times more, a write too, and whether that is right is the person's to say.
func unavailable(message string) *refusal {
	return &refusal{code: http.StatusServiceUnavailable, reason: metav1.StatusReasonServiceUnavailable, message: message}
}

// soon is an unavailable that is known to pass, of a request that reached nobody.
func soon(message string) *refusal {
	f := unavailable(message + "; try again in a moment")
	f.retryAfter = 1
	return f
}

func tooMany(message string) *refusal {
	return &refusal{code: http.StatusTooManyRequests, reason: metav1.StatusReasonTooManyRequests, message: message, retryAfter: 1}
}

func badGateway(message string) *refusal {
	return &refusal{code: http.StatusBadGateway, reason: metav1.StatusReasonInternalError, message: message}
}

func internal() *refusal {
	return &refusal{code: http.StatusInternalServerError, reason: metav1.StatusReasonInternalError, message: "the agent failed while handling this request"}
}

// clientGone is told to nobody; 499 is what access logs have come to call it.
func clientGone() *refusal {
	return &refusal{code: 499, reason: "ClientGone", message: "the client went away before the apiserver answered"}
}

// status is what kubectl prints: which cluster, what was asked, why not, the
// request's id and what to run next.
func (x *exchange) status(bad *refusal) *metav1.Status {
	message := "sallyport: " + x.what() + ": " + bad.message
	if next := x.next(bad); next != "" {
		message += "; " + next
	}
	s := &metav1.Status{
		TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"},
		Status:   metav1.StatusFailure,
		Message:  message + " [request " + x.id + "]",
		Reason:   bad.reason,
		Code:     int32(bad.code),
		Details:  &metav1.StatusDetails{RetryAfterSeconds: int32(bad.retryAfter)},
	}
	if q := x.reading; q != nil && q.attrs.ResourceRequest {
		s.Details.Name, s.Details.Group, s.Details.Kind = q.attrs.Name, q.attrs.APIGroup, q.attrs.Resource
	}
	return s
}

// next is what to run next. Where only a grant helps, it is what whoever can
// give one would run, ready to be passed on.
func (x *exchange) next(bad *refusal) string {
	if bad.decision == nil || bad.next != "" {
		return bad.next
	}
	if x.reading == nil || !x.reading.attrs.ResourceRequest || x.subject.Name == "" {
		return nextStatus + "; " + nextAsk + " for a grant"
	}
	a := x.reading.attrs
	words := []string{"sallyportctl", "why", x.subject.Name, a.Verb, a.Resource}
	if a.Subresource != "" {
		words[4] += "/" + a.Subresource
	}
	for _, flag := range [][2]string{{"--api-group", a.APIGroup}, {"-n", a.Namespace}, {"--name", a.Name}, {"--cluster", x.p.cfg.ClusterName}} {
		if flag[1] != "" {
			words = append(words, flag[0], flag[1])
		}
	}
	for _, w := range words {
		if strings.Trim(w, plainWord) != "" {
			return nextStatus + "; " + nextAsk + " for a grant"
		}
	}
	return nextAsk + ", who sees more with: " + strings.Join(words, " ")
}

// plainWord is what a shell takes as it is; names hold little else.
const plainWord = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.:/@"

// what says in a few words what was asked for.
func (x *exchange) what() string {
	cluster, fate := "cluster "+x.p.cfg.ClusterName, "refused"
	if x.answered {
		fate = "ended"
	}
	if x.reading == nil {
		return "request to " + cluster + " " + fate
	}
	a := x.reading.attrs
	if !a.ResourceRequest {
		return fmt.Sprintf("%s %s on %s %s", a.Verb, a.Path, cluster, fate)
	}
	what := a.Resource
	if a.APIGroup != "" {
		what += "." + a.APIGroup
	}
	if a.Subresource != "" {
		what += "/" + a.Subresource
	}
	if a.Name != "" {
		what += fmt.Sprintf(" %q", a.Name)
	}
	if a.Namespace != "" && a.Resource != "namespaces" {
		what += " in namespace " + a.Namespace
	}
	return fmt.Sprintf("%s %s on %s %s", a.Verb, what, cluster, fate)
}

// refuse answers with a Status, if an answer has not begun already, and keeps
// what it said for the record. The HTTP/1.1 connection of an upgrade is closed
// after it: what the client sent behind its upgrade is no request.
func (x *exchange) refuse(bad *refusal) {
	x.refusal = bad
	if x.answered {
		return
	}
	body, err := json.Marshal(x.status(bad))
	if err != nil { // strings and numbers: cannot be
		body = nil
	}
	x.answered = true
	x.code = bad.code
	h := x.w.Header()
	clear(h)
	h.Set("Content-Type", "application/json")
	h.Set("Content-Length", strconv.Itoa(len(body)))
	h.Set("Cache-Control", "no-cache, private")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Audit-Id", x.id)
	if bad.retryAfter > 0 {
		h.Set("Retry-After", strconv.Itoa(bad.retryAfter))
	}
	if x.proto == 1 && (x.upgrades || x.entry.ended() != nil) {
		h.Set("Connection", "close")
	}
	// A client that does not read must not hold the request.
	x.writeDeadline(time.Now().Add(refusalTimeout))
	x.w.WriteHeader(bad.code)
	n, _ := x.w.Write(body)
	x.out.Add(int64(n))
	x.rc.Flush()
	x.writeDeadline(time.Time{})
}

// writeDeadline bounds writing to the client, unless ending the request has
// done so already.
func (x *exchange) writeDeadline(t time.Time) {
	if x.entry == nil {
		x.rc.SetWriteDeadline(t)
		return
	}
	x.entry.mu.Lock()
	defer x.entry.mu.Unlock()
	if x.entry.why == nil {
		x.entry.setWriteDeadline(t)
	}
}

// refusalTimeout is how long a client may take to read a refusal.
const refusalTimeout = 5 * time.Second
