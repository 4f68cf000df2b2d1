package proxy

import (
	"context"
	"io"
	"net/http"
	"runtime/debug"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"github.com/sallyport-mesh/sallyport/pkg/audit"
	"github.com/sallyport-mesh/sallyport/pkg/policy"
)

// exchange is one request on its way through the steps. Each step fills in its
// part; none is read before.
type exchange struct {
	p        *Proxy
	w        http.ResponseWriter
	rc       *http.ResponseController
	ctx      context.Context // ends with the client, and when the request is cut
	cancel   context.CancelCauseFunc
	id       string // Audit-ID
	received time.Time
	proto    int    // major version of HTTP towards the client
	uri      string // as sent; for records of what could not be parsed
	agent    string // User-Agent
	upgrades bool   // an upgrade was asked for, understood or not
	size     int64  // Content-Length, -1 where it is unknown

	conn       *connection      // identify
	reading    *reading         // parse
	entry      *entry           // parse
	policy     *policy.Policy   // decide
	subject    policy.Subject   // decide
	decision   *policy.Decision // decide
	event      *audit.Event     // intent
	credential Credential       // mint

	body     io.ReadCloser // forward; counts what it gives
	answered bool          // the answer has begun
	hijacked bool
	abort    bool // the answer ended before its end: the client must see that
	code     int
	in, out  atomic.Int64
	ending   string   // why a stream ended
	refusal  *refusal // what was refused, and why
}

func (p *Proxy) newExchange(w http.ResponseWriter, r *http.Request) *exchange {
	ctx, cancel := context.WithCancelCause(r.Context())
	x := &exchange{
		p: p, w: w, rc: http.NewResponseController(w), ctx: ctx, cancel: cancel,
		id: uuid.NewString(), received: time.Now(), proto: r.ProtoMajor,
		uri: r.RequestURI, agent: r.UserAgent(), size: r.ContentLength,
		upgrades: len(r.Header["Upgrade"]) > 0,
	}
	x.body = http.NoBody
	if r.Body != nil && r.Body != http.NoBody {
		x.body = &countingBody{ReadCloser: r.Body, n: &x.in}
	}
	return x
}

// parse is step 3. From here on a revocation finds the request.
func (x *exchange) parse(r *http.Request) *refusal {
	q, bad := parse(r)
	if bad != nil {
		return bad
	}
	user := x.conn.user
	q.attrs.UserID, q.attrs.DeviceID, q.attrs.SessionID, q.attrs.Generation = user.UserID, user.DeviceID, user.SessionID, user.Generation
	x.reading = q
	x.entry, bad = x.p.requests.add(x.conn, q, x.cancel, x.rc)
	return bad
}

// recovered turns a panic of a step into a refusal.
func (x *exchange) recovered(bad **refusal) {
	if v := recover(); v != nil {
		x.p.log.Error("a step of the request path panicked", "request", x.id, "panic", v, "stack", string(debug.Stack()))
		*bad = internal()
	}
}

// close ends the exchange whatever happened, and records how.
func (x *exchange) close() {
	if v := recover(); v != nil {
		// Only writing a refusal can still panic.
		x.p.log.Error("refusing a request panicked", "request", x.id, "panic", v, "stack", string(debug.Stack()))
		x.abort = true
	}
	x.cancel(nil)
	x.entry.finish()
	x.recordOutcome()
	x.p.requests.remove(x.entry) // after the record: see Drain
	if x.abort && !x.hijacked {
		panic(http.ErrAbortHandler) // net/http resets the stream or closes the connection
	}
}

// countingBody counts the bytes that a body gave.
type countingBody struct {
	io.ReadCloser
	n *atomic.Int64
}

func (b *countingBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.n.Add(int64(n))
	return n, err
}
