package auditstore

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"math"
	"strings"
	"time"
)

// Keys in Badger. Numbers are big-endian, so that byte order is their order. A
// log is a 4-byte number in keys; a position is 8 bytes.
//
//	l/<origin>                    meta of a log, JSON
//	h/<log>                       tree of a log (audit.Tree)
//	p/<log><size>                 tree at that size (length, 4 bytes) and the checkpoint signed over it
//	r/<log><seq>                  record: the bytes that were hashed
//	a/<log><audit id>             position of the request's first record
//	o/<log><seq of intent>        position of its outcome
//	n/<arrival>                   log, first position, number: what a commit brought, in order of arrival
//	e/<log><time>                 evidence of a fork or rollback, JSON
//	i/…                           indexes, see below
//	U/<username> 0 <uid>          uids that came with a name
//	V/<resource term>             combinations of resource, subresource and verb
//
// Only the first record of a request is indexed: t by time, l by log, u by user, d
// by device, v by resource and verb. An index key ends in the time of the request
// inverted, so that forward is newest first, the log and the position.
const (
	metaKeys       = "l/"
	headKeys       = "h/"
	checkpointKeys = "p/"
	recordKeys     = "r/"
	auditIDKeys    = "a/"
	outcomeKeys    = "o/"
	arrivalKeys    = "n/"
	evidenceKeys   = "e/"
	nameKeys       = "U/"
	resourceKeys   = "V/"

	byTime     = "i/t/"
	byLog      = "i/l/"
	byUser     = "i/u/"
	byDevice   = "i/d/"
	byResource = "i/v/"
)

func logKey(prefix string, log uint32) []byte {
	return binary.BigEndian.AppendUint32(append(make([]byte, 0, 24), prefix...), log)
}

func seqKey(prefix string, log uint32, seq uint64) []byte {
	return binary.BigEndian.AppendUint64(logKey(prefix, log), seq)
}

func auditIDKey(log uint32, id string) []byte {
	return append(logKey(auditIDKeys, log), term(id)...)
}

func arrivalKey(n uint64) []byte {
	return binary.BigEndian.AppendUint64([]byte(arrivalKeys), n)
}

// position is the end of every index key.
type position struct {
	at  int64 // Unix microseconds, 0 or more
	log uint32
	seq uint64
}

const positionSize = 8 + 4 + 8

func (p position) append(b []byte) []byte {
	b = binary.BigEndian.AppendUint64(b, invert(p.at))
	b = binary.BigEndian.AppendUint32(b, p.log)
	return binary.BigEndian.AppendUint64(b, p.seq)
}

func positionOf(key []byte) position {
	b := key[len(key)-positionSize:]
	return position{
		int64(math.MaxUint64 - binary.BigEndian.Uint64(b)), binary.BigEndian.Uint32(b[8:]), binary.BigEndian.Uint64(b[12:]),
	}
}

func invert(at int64) uint64 { return math.MaxUint64 - uint64(max(at, 0)) }

func micros(t time.Time) int64 { return max(t.UnixMicro(), 0) }

// term makes a string fit for a key: without the separator, and short whoever
// chose it.
func term(s string) string {
	if len(s) > 64 || strings.IndexByte(s, 0) >= 0 {
		sum := sha256.Sum256([]byte(s))
		return "#" + hex.EncodeToString(sum[:16])
	}
	return s
}

// terms joins the parts of an index's value; each ends in a zero byte, so that no
// value is the beginning of another.
func terms(parts ...string) string {
	var b strings.Builder
	for _, p := range parts {
		b.WriteString(term(p))
		b.WriteByte(0)
	}
	return b.String()
}
