package policy

import (
	pathpkg "path"
	"strings"
	"testing"
)

func TestPatternsOfNames(t *testing.T) {
	for _, tc := range []struct {
		pattern, name string
		want          bool
	}{
		{"web", "web", true},
		{"web", "web-1", false},
		{"web-*", "web-1", true},
		{"web-*", "web-", true},
		{"web-*", "web", false},
		{"web-*", "a-web-1", false},
		{"*-db", "orders-db", true},
		{"*-db", "orders-db-1", false},
		{"a*b*c", "axxbxxc", true},
		{"a*b*c", "abc", true},
		{"a*b*c", "acb", false},
		{"a*a", "a", false},
		{"*a*b", "ab", true},
		{"*aab", "aaab", true},
		{"web-?", "web-1", false},
		{"web-[12]", "web-1", false},
		{"system:*", "system:node", true},
	} {
		if got := nameCovers(tc.pattern, tc.name); got != tc.want {
			t.Errorf("%q covers %q: %v", tc.pattern, tc.name, got)
		}
	}
}

// Against path.Match, whose asterisk is the same where there is no slash.
func FuzzPatternsOfNames(f *testing.F) {
	f.Add("web-*", "web-1")
	f.Add("*a*b*", "xxaybz")
	f.Add("**", "")
	f.Fuzz(func(t *testing.T, pattern, name string) {
		if strings.ContainsAny(pattern+name, `/\?[]`) || len(pattern) > 64 {
			return
		}
		want, err := pathpkg.Match(pattern, name)
		if err != nil {
			return // not a pattern of path.Match
		}
		if got := nameCovers(pattern, name); got != want {
			t.Errorf("%q covers %q: %v, path.Match says %v", pattern, name, got, want)
		}
	})
}
