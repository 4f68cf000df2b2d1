package login

import (
	"bytes"
	"encoding/base64"
	"strings"
	"testing"
)

// FuzzParseChallenge holds that no two texts that Hydra takes for one challenge
// are both taken here: used once is used for all of them.
func FuzzParseChallenge(f *testing.F) {
	long := base64.URLEncoding.EncodeToString([]byte(strings.Repeat("flow", 20)))
	f.Add(long, long+"\n")
	f.Add(long, long[:10]+"\r\n"+long[10:])
	f.Add(base64.URLEncoding.EncodeToString(bytes.Repeat([]byte{7}, 31)), "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBw=")
	f.Add("0123456789abcdef0123456789abcdef", "0123456789abcdef0123456789abcdeg")
	f.Fuzz(func(t *testing.T, a, b string) {
		x, errX := parseChallenge(loginStep, a)
		y, errY := parseChallenge(loginStep, b)
		if errX != nil || errY != nil || a == b {
			return
		}
		asHydra := func(s string) []byte { // as aead.Decrypt of Hydra 2.3.0 reads it
			raw, err := base64.URLEncoding.DecodeString(s)
			if err != nil {
				return []byte(s)
			}
			return raw
		}
		if bytes.Equal(asHydra(a), asHydra(b)) && x.key() != y.key() {
			t.Errorf("%q and %q are one challenge with two keys", a, b)
		}
		if x.key() == y.key() && !bytes.Equal(asHydra(a), asHydra(b)) {
			// Only padding may differ: both forms of base64 have one key.
			if strings.TrimRight(a, "=") != strings.TrimRight(b, "=") {
				t.Errorf("%q and %q share a key", a, b)
			}
		}
	})
}
