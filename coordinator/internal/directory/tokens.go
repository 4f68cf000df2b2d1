package directory

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base32"
	"encoding/hex"
	"strings"
)

var tokenEncoding = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

// newSecret makes a one-time token of 256 random bits behind a prefix that says
// what it is. Its hash needs no salt: nobody guesses 256 bits.
func newSecret(prefix string) string {
	var b [32]byte
	rand.Read(b[:]) // never fails (crypto/rand, Go 1.24)
	return prefix + "-" + tokenEncoding.EncodeToString(b[:])
}

// tokenHash is what is stored of a token. Surrounding white space comes from
// pasting and is no part of it.
func tokenHash(token string) string {
	sum := sha256.Sum256([]byte(strings.TrimSpace(token)))
	return hex.EncodeToString(sum[:])
}
