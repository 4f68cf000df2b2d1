package audit

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

// full is an event with every field set, so that a test sees a forgotten one.
func full() *Event {
	return &Event{
		Level: Level, AuditID: "7c9e6679-7425-40de-944b-e07fc1f90ae7", Stage: StageComplete,
		RequestURI: "/api/v1/namespaces/default/pods/web-0/exec?command=sh", Verb: "create",
		User:      User{"shivam", "usr-k3v5n2q7a4x6b2zt", []string{"aws-members"}},
		SourceIPs: []string{"100.64.0.7"}, UserAgent: "kubectl/v1.36.3",
		ObjectRef:                &ObjectRef{"pods", "default", "web-0", "", "v1", "exec"},
		ResponseStatus:           &Status{101, "Switching", "Switching Protocols"},
		RequestReceivedTimestamp: At(time.Date(2026, 3, 1, 9, 0, 0, 123456789, time.UTC)),
		StageTimestamp:           At(time.Date(2026, 3, 1, 9, 0, 2, 0, time.UTC)),
		Annotations:              map[string]string{"b": "2", "a": "1"},
		Ext: Ext{
			Kind: KindRequest, Cluster: "edge-1", Device: "dev-a", Session: "ses-a", CertSerial: "0a0b",
			Decision: Allow, Reason: "grant", Rule: "role edit rule 3", Grant: "grt-a", Role: "edit", PolicyRevision: 42,
			Account: "sp-shivam-1", TokenID: "JTI", Command: []string{"sh", "-c", "id"}, BytesIn: 1, BytesOut: 2, DurationMS: 1876.5,
			CloseReason: "client closed", Count: 3, Target: "cluster edge-1",
		},
	}
}

// TestRecordBytesStayTheSame holds the bytes of a record fixed: a change here is
// a change of the format, and what older agents wrote must still be read.
func TestRecordBytesStayTheSame(t *testing.T) {
	const golden = `{"level":"Metadata","auditID":"7c9e6679-7425-40de-944b-e07fc1f90ae7","stage":"ResponseComplete","requestURI":"/api/v1/namespaces/default/pods/web-0/exec?command=sh","verb":"create","user":{"username":"shivam","uid":"usr-k3v5n2q7a4x6b2zt","groups":["aws-members"]},"sourceIPs":["100.64.0.7"],"userAgent":"kubectl/v1.36.3","objectRef":{"resource":"pods","namespace":"default","name":"web-0","apiVersion":"v1","subresource":"exec"},"responseStatus":{"code":101,"reason":"Switching","message":"Switching Protocols"},"requestReceivedTimestamp":"2026-03-01T09:00:00.123456Z","stageTimestamp":"2026-03-01T09:00:02.000000Z","annotations":{"a":"1","b":"2"},"ext":{"kind":"request","cluster":"edge-1","device":"dev-a","session":"ses-a","certSerial":"0a0b","decision":"allow","reason":"grant","rule":"role edit rule 3","grant":"grt-a","role":"edit","policyRevision":42,"account":"sp-shivam-1","tokenID":"JTI","command":["sh","-c","id"],"bytesIn":1,"bytesOut":2,"durationMs":1876.5,"closeReason":"client closed","count":3,"target":"cluster edge-1"}}`
	b := Encode(full())
	if string(b) != golden {
		t.Fatalf("record\n%s\nwant\n%s", b, golden)
	}
	sum := sha256.Sum256(append([]byte{0}, golden...))
	if LeafHash(b) != Hash(sum) {
		t.Error("leaf is not SHA-256(0x00 ‖ record)")
	}
	e, err := Decode(b)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(e, full()) {
		t.Errorf("decoded %+v", e)
	}
}

func TestEveryFieldIsCopiedByEncode(t *testing.T) {
	// full sets every field of every struct; a field added later and forgotten
	// here or in edit shows up as a zero value.
	var walk func(path string, v reflect.Value)
	walk = func(path string, v reflect.Value) {
		switch v.Kind() {
		case reflect.Pointer:
			walk(path, v.Elem())
		case reflect.Struct:
			if v.Type() == reflect.TypeFor[Time]() {
				return
			}
			for i := range v.NumField() {
				walk(path+"."+v.Type().Field(i).Name, v.Field(i))
			}
		default:
			if v.IsZero() && path != ".ObjectRef.APIGroup" {
				t.Errorf("%s is not covered", path)
			}
		}
	}
	e, err := Decode(Encode(full()))
	if err != nil {
		t.Fatal(err)
	}
	walk("", reflect.ValueOf(full()))
	walk("", reflect.ValueOf(e))
}

func TestNoEventIsTooLongOrFailsToEncode(t *testing.T) {
	long := strings.Repeat("\x01", 64<<10)
	many := make([]string, 500)
	for i := range many {
		many[i] = long[:1000]
	}
	notes := map[string]string{}
	for i := range 200 {
		notes[fmt.Sprint(i, long[:500])] = long[:5000]
	}
	huge := &Event{
		Level: long, AuditID: long, Stage: Stage(long), RequestURI: long, Verb: long, User: User{long, long, many}, SourceIPs: many,
		UserAgent: long, ObjectRef: &ObjectRef{long, long, long, long, long, long}, ResponseStatus: &Status{math.MinInt32, long, long},
		RequestReceivedTimestamp: Time{time.Unix(math.MaxInt64/4, 0)}, Annotations: notes,
		Ext: Ext{
			long, long, long, long, long, Decision(long), long, long, long, long, math.MaxUint64, long, long, many,
			math.MinInt64, math.MaxInt64, math.Inf(1), long, math.MaxUint32, long,
		},
	}
	b := Encode(huge)
	if len(b) > MaxRecord {
		t.Errorf("record of %d bytes", len(b))
	}
	if _, err := Decode(b); err != nil {
		t.Errorf("the largest record cannot be read: %v", err)
	}
	if !bytes.Equal(b, Encode(huge)) {
		t.Error("encoded twice, different bytes")
	}
}

func TestCutFieldNamesTheWhole(t *testing.T) {
	e := full()
	e.UserAgent = strings.Repeat("é", 10_000)
	for range 500 {
		e.Ext.Command = append(e.Ext.Command, "argument")
	}
	got, err := Decode(Encode(e))
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256([]byte(e.UserAgent))
	if !strings.HasPrefix(got.UserAgent, "éé") || !strings.HasSuffix(got.UserAgent, "…[20000 bytes, sha256:"+hex.EncodeToString(sum[:])+"]") {
		t.Errorf("cut to %q", got.UserAgent)
	}
	if last := got.Ext.Command[len(got.Ext.Command)-1]; !strings.HasPrefix(last, "…[503 entries, sha256:") {
		t.Errorf("list ends in %q", last)
	}
	if got.AuditID != e.AuditID || got.RequestURI != e.RequestURI {
		t.Error("short fields were touched")
	}
}

func TestTokensNeverReachARecord(t *testing.T) {
	jwt := "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJzeXN0ZW0ifQ.c2lnbmF0dXJl"
	for _, in := range []string{
		jwt, "x=" + jwt + "&y", "Bearer abcdefghijklmnopqrstuvwxyz", "authorization: bearer%20ory_at_abcdefghijklmnop",
		"base64url.bearer.authorization.k8s.io.ZXlKaGJHY2lPaUpT",
	} {
		e := full()
		e.RequestURI, e.UserAgent, e.Ext.Reason, e.Annotations["x"] = in, in, in, in
		e.Ext.Command = []string{"curl", "-H", in}
		b := string(Encode(e))
		for _, secret := range []string{"eyJhbGci", "abcdefghijklmnop", "ZXlKaGJHY2lPaUpT"} {
			if strings.Contains(b, secret) {
				t.Errorf("%q left %q in the record", in, secret)
			}
		}
	}
	e := full()
	e.UserAgent = "the bearer of eyJ news"
	if got, _ := Decode(Encode(e)); got.UserAgent != e.UserAgent {
		t.Errorf("an innocent field became %q", got.UserAgent)
	}
}

func TestRecordsThatCouldBeReadInTwoWaysAreNone(t *testing.T) {
	for name, in := range map[string]string{
		"empty":          ``,
		"two values":     `{"level":"Metadata","auditID":"a","stage":"ResponseComplete","user":{},"ext":{"kind":"request"}} {}`,
		"name twice":     `{"level":"Metadata","auditID":"a","auditID":"b","stage":"ResponseComplete","user":{},"ext":{"kind":"request"}}`,
		"invalid UTF-8":  "{\"level\":\"Metadata\",\"auditID\":\"\xff\",\"stage\":\"ResponseComplete\",\"user\":{},\"ext\":{\"kind\":\"request\"}}",
		"other case":     `{"Level":"Metadata","AuditID":"a","Stage":"ResponseComplete","User":{},"Ext":{"Kind":"request"}}`,
		"no stage":       `{"level":"Metadata","auditID":"a","user":{},"ext":{"kind":"request"}}`,
		"no id":          `{"level":"Metadata","stage":"ResponseComplete","user":{},"ext":{"kind":"request"}}`,
		"loose time":     `{"level":"Metadata","auditID":"a","stage":"ResponseComplete","stageTimestamp":"2026-03-01T09:00:02Z","user":{},"ext":{"kind":"request"}}`,
		"longer than it": `{"level":"` + strings.Repeat("a", MaxRecord) + `"}`,
	} {
		if e, err := Decode([]byte(in)); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %+v, %v", name, e, err)
		}
	}
	if _, err := Decode([]byte(`{"level":"Metadata","auditID":"a","stage":"ResponseComplete","user":{},"ext":{"kind":"request","approval":"x"},"new":1}`)); err != nil {
		t.Errorf("a record with fields of a later version: %v", err)
	}
}

func TestTreeIsThatOfRFC6962(t *testing.T) {
	var tree Tree
	var stored []tlog.Hash
	reader := tlog.HashReaderFunc(func(idx []int64) ([]tlog.Hash, error) {
		out := make([]tlog.Hash, len(idx))
		for i, x := range idx {
			out[i] = stored[x]
		}
		return out, nil
	})
	for n := range int64(300) {
		want, err := tlog.TreeHash(n, reader)
		if n == 0 {
			want, err = sha256.Sum256(nil), nil
		}
		if err != nil || tree.Root() != want || tree.Size() != uint64(n) {
			t.Fatalf("size %d: root %s, want %s, %v", n, tree.Root(), want, err)
		}
		back, err := UnmarshalTree(tree.Marshal())
		if err != nil || back.Root() != want {
			t.Fatalf("size %d does not survive Marshal: %v", n, err)
		}
		rec := fmt.Appendf(nil, "record %d", n)
		hashes, err := tlog.StoredHashes(n, rec, reader)
		if err != nil {
			t.Fatal(err)
		}
		stored = append(stored, hashes...)
		before := tree.Clone()
		tree.Append(LeafHash(rec))
		if before.Root() != want {
			t.Fatal("a clone changed with its original")
		}
	}
	for _, bad := range [][]byte{nil, make([]byte, 7), tree.Marshal()[:40], append(tree.Marshal(), 0)} {
		if _, err := UnmarshalTree(bad); err == nil {
			t.Errorf("a tree of %d bytes was read", len(bad))
		}
	}
}

const origin = "mesh.example/agents/agt-aaaaaaaaaaaaaaaa/0"

func keys(t testing.TB, origin string) (*Signer, *Verifier, *Cosigner, *CosignerVerifier) {
	t.Helper()
	skey, vkey, err := NewKey("sallyport-agent")
	if err != nil {
		t.Fatal(err)
	}
	s, err := NewSigner(skey, origin)
	if err != nil {
		t.Fatal(err)
	}
	v, err := NewVerifier(vkey, origin)
	if err != nil {
		t.Fatal(err)
	}
	cskey, cvkey, err := NewKey("mesh.example/coordinator")
	if err != nil {
		t.Fatal(err)
	}
	c, err := NewCosigner(cskey)
	if err != nil {
		t.Fatal(err)
	}
	cv, err := NewCosignerVerifier(cvkey)
	if err != nil {
		t.Fatal(err)
	}
	return s, v, c, cv
}

func TestCheckpointIsASignedNoteUnderItsOrigin(t *testing.T) {
	s, v, c, cv := keys(t, origin)
	var tree Tree
	tree.Append(LeafHash([]byte("a")))
	signed, err := s.Sign(&tree)
	if err != nil {
		t.Fatal(err)
	}
	want := Checkpoint{origin, 1, tree.Root()}
	if cp, err := v.Open(signed); err != nil || cp != want {
		t.Fatalf("%+v, %v", cp, err)
	}
	if _, _, err := cv.Open(v, signed); !errors.Is(err, ErrCheckpoint) {
		t.Errorf("without a countersignature: %v", err)
	}
	before := time.Now().Truncate(time.Second)
	both, err := c.Cosign(v, signed)
	if err != nil {
		t.Fatal(err)
	}
	cp, at, err := cv.Open(v, both)
	if err != nil || cp != want || at.Before(before) || time.Since(at) > time.Minute {
		t.Fatalf("%+v at %s, %v", cp, at, err)
	}
	// The same bytes to a program that knows nothing of us.
	if !bytes.HasPrefix(both, []byte(origin+"\n1\n")) || bytes.Count(both, []byte("\n— ")) != 2 {
		t.Errorf("note:\n%s", both)
	}
}

func TestForeignCheckpointsAreRefused(t *testing.T) {
	skey, vkey, _ := NewKey("sallyport-agent")
	s, _ := NewSigner(skey, origin)
	v, _ := NewVerifier(vkey, origin)
	var tree Tree
	signed, _ := s.Sign(&tree)
	next, _ := NewSigner(skey, strings.TrimSuffix(origin, "0")+"1")
	ofNext, _ := next.Sign(&tree)
	stranger, _, c, cv := keys(t, origin)
	ofStranger, _ := stranger.Sign(&tree)
	raw, _ := renameSigner(skey, origin)
	plain, _ := note.NewSigner(raw)
	body := func(text string) []byte {
		b, err := note.Sign(&note.Note{Text: text}, plain)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	root := "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="
	for name, b := range map[string][]byte{
		"nothing":                   nil,
		"the next epoch's":          ofNext,
		"another key's":             ofStranger,
		"a changed size":            bytes.Replace(signed, []byte("\n0\n"), []byte("\n1\n"), 1),
		"another origin in it":      body("mesh.example/agents/other/0\n0\n" + root + "\n"),
		"a size with a zero before": body(origin + "\n00\n" + root + "\n"),
		"an extension line":         body(origin + "\n0\n" + root + "\nmore\n"),
		"a short root":              body(origin + "\n0\nAAAA\n"),
		"very long":                 append(append([]byte(nil), signed...), bytes.Repeat([]byte("— x AAAAAAAA\n"), 2000)...),
	} {
		if cp, err := v.Open(b); !errors.Is(err, ErrCheckpoint) {
			t.Errorf("%s: %+v, %v", name, cp, err)
		}
		if both, err := c.Cosign(v, b); err == nil {
			t.Errorf("%s was cosigned:\n%s", name, both)
		}
	}
	// A cosigner's signature alone is no checkpoint.
	both, err := c.Cosign(v, signed)
	if err != nil {
		t.Fatal(err)
	}
	lines := bytes.SplitAfter(both, []byte("\n"))
	only := bytes.Join(append(append([][]byte{}, lines[:4]...), lines[5:]...), nil)
	if _, _, err := cv.Open(v, only); !errors.Is(err, ErrCheckpoint) {
		t.Errorf("cosigned but not signed: %v", err)
	}
}

func TestKeyIsMadeOnceAndKeptPrivate(t *testing.T) {
	path := filepath.Join(t.TempDir(), "checkpoint.key")
	skey, vkey, err := LoadKey(path, "sallyport-agent")
	if err != nil {
		t.Fatal(err)
	}
	again, vagain, err := LoadKey(path, "other")
	if err != nil || again != skey || vagain != vkey {
		t.Errorf("a second key was made: %v", err)
	}
	if info, _ := os.Stat(path); info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v", info.Mode())
	}
	if err := os.WriteFile(path, []byte(strings.Replace(skey, "+A", "+B", 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := LoadKey(path, "x"); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("damaged key: %v", err)
	}
	if _, _, err := NewKey("with space"); err == nil {
		t.Error("a name with a space was taken")
	}
}

func TestOriginHasOneForm(t *testing.T) {
	for _, o := range []Origin{{"mesh.example", "agt-aaaaaaaaaaaaaaaa", 0}, {"mesh.example", "", 0}, {"a", "b", math.MaxUint32}} {
		if got, err := ParseOrigin(o.String()); err != nil || got != o {
			t.Errorf("%s: %+v, %v", o, got, err)
		}
	}
	for _, s := range []string{
		"", "a", "a/agents/b", "a/agents/b/", "a/agents/b/00", "a/agents/b/-1", "a/agents//0", "/agents/b/0", "a/agents/b/4294967296",
		"a/other/b/0", "a/agents/b+c/0", "a/agents/b c/0", "a/agents/b/0/", "a/coordinator/0\n", "é/coordinator/0", strings.Repeat("a", 300) + "/coordinator/0",
	} {
		if o, err := ParseOrigin(s); err == nil {
			t.Errorf("%q was read as %+v", s, o)
		}
	}
}

func FuzzDecode(f *testing.F) {
	f.Add(Encode(full()))
	f.Add([]byte(`{"level":"Metadata","auditID":"a","stage":"ResponseComplete","user":{},"ext":{"kind":"request"}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		e, err := Decode(b)
		if err != nil {
			return
		}
		// What was read can be written and means the same: one reading.
		again := Encode(e)
		back, err := Decode(again)
		if err != nil {
			t.Fatalf("cannot read back %s: %v", again, err)
		}
		if !bytes.Equal(Encode(back), again) {
			t.Fatalf("%s\nthen\n%s", again, Encode(back))
		}
	})
}

func FuzzEncode(f *testing.F) {
	f.Add("u", "n", uint64(1))
	f.Fuzz(func(t *testing.T, a, b string, n uint64) {
		r := rand.New(rand.NewPCG(n, 1))
		e := full()
		e.User.Username, e.ObjectRef.Name = a, b
		e.UserAgent = strings.Repeat(a, r.IntN(200))
		e.Ext.Command = strings.SplitN(strings.Repeat(b, r.IntN(200)), "a", 100)
		rec := Encode(e)
		if len(rec) > MaxRecord {
			t.Fatalf("%d bytes", len(rec))
		}
		if _, err := Decode(rec); err != nil {
			t.Fatalf("%s: %v", rec, err)
		}
	})
}

func FuzzCheckpoint(f *testing.F) {
	s, v, c, cv := keys(f, origin)
	var tree Tree
	signed, _ := s.Sign(&tree)
	both, _ := c.Cosign(v, signed)
	f.Add(signed)
	f.Add(both)
	f.Fuzz(func(t *testing.T, b []byte) {
		// Nobody has our key: whatever opens is what we signed.
		if cp, err := v.Open(b); err == nil && (cp.Size != 0 || cp.Root != tree.Root()) {
			t.Fatalf("forged %+v", cp)
		}
		cv.Open(v, b)
	})
}

func BenchmarkEncode(b *testing.B) {
	e := full()
	for b.Loop() {
		Encode(e)
	}
}

func BenchmarkDecode(b *testing.B) {
	rec := Encode(full())
	for b.Loop() {
		if _, err := Decode(rec); err != nil {
			b.Fatal(err)
		}
	}
}
