package identity

import (
	"crypto/rand"
	"encoding/base32"
	"fmt"
	"regexp"
	"strings"
)

// Kind is the prefix that an id carries.
type Kind string

// The kinds of ids. An id is its kind, a dash and 16 characters of base32
// (80 random bits), for example "usr-k3v5n2q7a4x6b2zt".
const (
	User     Kind = "usr"
	Group    Kind = "grp"
	Project  Kind = "prj"
	Cluster  Kind = "cls"
	Grant    Kind = "grt"
	Device   Kind = "dev"
	Session  Kind = "ses"
	AgentID  Kind = "agt"
	JoinKind Kind = "jtk"
)

var encoding = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

// NewID makes an id. It never repeats one.
func NewID(k Kind) string {
	var b [10]byte
	rand.Read(b[:]) // never fails (crypto/rand, Go 1.24)
	return string(k) + "-" + encoding.EncodeToString(b[:])
}

var idPattern = regexp.MustCompile(`^[a-z]{3}-[a-z2-7]{16}$`)

// IsID reports whether s is an id of kind k.
func IsID(k Kind, s string) bool {
	return strings.HasPrefix(s, string(k)+"-") && idPattern.MatchString(s)
}

var namePattern = regexp.MustCompile(`^[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?$`)

// CheckName says what is wrong with a name for a user, group or project.
func CheckName(s string) error {
	if !namePattern.MatchString(s) {
		return fmt.Errorf("%q is not a name: use 1 to 63 of a-z, 0-9, '.', '_' and '-', beginning and ending with a letter or digit", s)
	}
	if idPattern.MatchString(s) {
		return fmt.Errorf("%q looks like an id: choose another name", s)
	}
	return nil
}

var labelPattern = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?$`)

// CheckClusterName says what is wrong with a cluster's name, which is a DNS
// label too, with room for a replica's suffix.
func CheckClusterName(s string) error {
	if !labelPattern.MatchString(s) {
		return fmt.Errorf("%q is not a cluster name: use 1 to 40 of a-z, 0-9 and '-', beginning and ending with a letter or digit", s)
	}
	if idPattern.MatchString(s) {
		return fmt.Errorf("%q looks like an id: choose another name", s)
	}
	return nil
}
