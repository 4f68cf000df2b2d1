package audit

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	stdjson "encoding/json"
	"errors"
	"fmt"
	"regexp"
	"sort"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/go-json-experiment/json"
)

// MaxRecord is the most bytes of one record. Encode keeps to it and nothing
// longer is ever taken in.
const MaxRecord = 16 << 10

// cutSteps are the bounds that are tried in turn until a record fits: the most
// bytes of one string, the most entries of one list or map. The last fits always.
var cutSteps = []struct{ text, list int }{{4096, 64}, {1024, 32}, {256, 16}, {64, 4}, {16, 2}}

// Encode is the record of e: compact JSON with the fields in the order of Event,
// at most MaxRecord bytes. The same event gives the same bytes. It cannot fail:
// bytes that are not UTF-8 become U+FFFD, and where a record would be too long
// its long fields are cut, each ending in its length and the SHA-256 of the
// whole. What looks like a token is taken out.
func Encode(e *Event) []byte {
	b := marshal(edit(e, redact, keepList))
	for _, step := range cutSteps {
		if len(b) <= MaxRecord {
			return b
		}
		b = marshal(edit(e,
			func(s string) string { return cutText(redact(s), step.text) },
			func(l []string) ([]string, string) { return cutList(l, step.list) }))
	}
	return b
}

func marshal(e *Event) []byte {
	var buf bytes.Buffer
	enc := stdjson.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(e); err != nil {
		// Strings, integers and one float that edit has made finite: there is
		// nothing here that JSON cannot say.
		panic("audit: encoding an event: " + err.Error())
	}
	return bytes.TrimSuffix(buf.Bytes(), []byte("\n"))
}

// edit copies e with text applied to every string and list to every list.
func edit(e *Event, text func(string) string, list func([]string) ([]string, string)) *Event {
	texts := func(in []string) []string {
		if len(in) == 0 {
			return nil
		}
		in, rest := list(in)
		out := make([]string, len(in), len(in)+1)
		for i, s := range in {
			out[i] = text(s)
		}
		if rest != "" {
			out = append(out, rest)
		}
		return out
	}
	c := *e
	c.Level = Level
	c.AuditID, c.RequestURI, c.Verb, c.UserAgent = text(e.AuditID), text(e.RequestURI), text(e.Verb), text(e.UserAgent)
	c.Stage = Stage(text(string(e.Stage)))
	c.User = User{text(e.User.Username), text(e.User.UID), texts(e.User.Groups)}
	c.SourceIPs = texts(e.SourceIPs)
	if o := e.ObjectRef; o != nil {
		c.ObjectRef = &ObjectRef{text(o.Resource), text(o.Namespace), text(o.Name), text(o.APIGroup), text(o.APIVersion), text(o.Subresource)}
	}
	if s := e.ResponseStatus; s != nil {
		c.ResponseStatus = &Status{s.Code, text(s.Reason), text(s.Message)}
	}
	c.RequestReceivedTimestamp, c.StageTimestamp = wellFormed(e.RequestReceivedTimestamp), wellFormed(e.StageTimestamp)
	c.Annotations = editMap(e.Annotations, text, list)
	x := &c.Ext
	for _, s := range []*string{
		&x.Kind, &x.Cluster, &x.Device, &x.Session, &x.CertSerial, &x.Reason, &x.Rule, &x.Grant, &x.Role,
		&x.Account, &x.TokenID, &x.CloseReason, &x.Target,
	} {
		*s = text(*s)
	}
	x.Decision = Decision(text(string(x.Decision)))
	x.Command = texts(x.Command)
	if !(x.DurationMS >= 0 && x.DurationMS < 1e15) { // NaN too
		x.DurationMS = 0
	}
	return &c
}

func editMap(m map[string]string, text func(string) string, list func([]string) ([]string, string)) map[string]string {
	if len(m) == 0 {
		return nil
	}
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	keys, rest := list(keys)
	out := make(map[string]string, len(keys)+1)
	if rest != "" {
		out[rest] = ""
	}
	for _, k := range keys {
		out[text(k)] = text(m[k])
	}
	return out
}

// cutText keeps the beginning of a string that is longer than limit and says how
// long it was and what its SHA-256 is.
func cutText(s string, limit int) string {
	if len(s) <= limit {
		return s
	}
	end := limit
	for end > 0 && !utf8.RuneStart(s[end]) {
		end--
	}
	sum := sha256.Sum256([]byte(s))
	return s[:end] + "…[" + strconv.Itoa(len(s)) + " bytes, sha256:" + hex.EncodeToString(sum[:]) + "]"
}

func keepList(l []string) ([]string, string) { return l, "" }

// cutList keeps the first entries and says of the whole list how many there were
// and what the SHA-256 is, over each followed by a zero byte.
func cutList(l []string, limit int) (kept []string, rest string) {
	if len(l) <= limit {
		return l, ""
	}
	h := sha256.New()
	for _, s := range l {
		h.Write([]byte(s))
		h.Write([]byte{0})
	}
	return l[:limit], "…[" + strconv.Itoa(len(l)) + " entries, sha256:" + hex.EncodeToString(h.Sum(nil)) + "]"
}

// token is what must not be in a record whoever filled it in: a JSON web token
// and the two ways in which Kubernetes takes a bearer token.
var token = regexp.MustCompile(`eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}(\.[A-Za-z0-9_-]*)?` +
	`|(?i:bearer)(?: |\+|%20)+[A-Za-z0-9._~+/-]{16,}=*` +
	`|(?i:bearer\.authorization\.k8s\.io\.)[A-Za-z0-9_-]{8,}`)

func redact(s string) string {
	if !strings.Contains(s, "eyJ") && !containsFold(s, "bearer") {
		return s
	}
	return token.ReplaceAllString(s, "[token taken out]")
}

// containsFold is strings.Contains for a lower-case needle, without a copy.
func containsFold(s, lower string) bool {
	for i := 0; i+len(lower) <= len(s); i++ {
		if s[i]|0x20 == lower[0] && strings.EqualFold(s[i:i+len(lower)], lower) {
			return true
		}
	}
	return false
}

// ErrMalformed says that bytes are not a record.
var ErrMalformed = errors.New("not an audit record")

// Decode reads a record. It is for showing and indexing: what is proved is
// proved over the bytes. Unknown fields are let be, so that older readers can
// read newer records; two readings are not: names match exactly, no name comes
// twice, the bytes are UTF-8.
func Decode(b []byte) (*Event, error) {
	if len(b) > MaxRecord {
		return nil, fmt.Errorf("%w: %d bytes, at most %d", ErrMalformed, len(b), MaxRecord)
	}
	var e Event
	if err := json.Unmarshal(b, &e); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	switch {
	case e.Level == "" || e.AuditID == "" || e.Ext.Kind == "":
		return nil, fmt.Errorf("%w: level, auditID or ext.kind is missing", ErrMalformed)
	case e.Stage == "":
		return nil, fmt.Errorf("%w: stage is missing", ErrMalformed)
	}
	return &e, nil
}
