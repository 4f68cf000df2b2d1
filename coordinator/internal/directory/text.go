package directory

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// printable reports whether s is one line of visible UTF-8, without the
// controls and direction marks that would let a name pose as another.
func printable(s string) bool {
	return utf8.ValidString(s) && !strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) })
}
