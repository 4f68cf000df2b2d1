package pki

import (
	"strings"
	"testing"
)

var somePin = strings.Repeat("0a", 32)

func TestLoginURLRoundTrips(t *testing.T) {
	for _, l := range []Link{{"https://c.example.com", ""}, {"https://127.0.0.1:8443", somePin}, {"https://[::1]:8443", somePin}} {
		got, err := ParseLink(" " + l.String() + "\n")
		if err != nil || got != l {
			t.Errorf("%v: got %v, %v", l, got, err)
		}
	}
	if l, err := ParseLink("https://h:1/#sha256:" + somePin); err != nil || l.URL != "https://h:1" || l.Host() != "h" {
		t.Errorf("%v %v", l, err)
	}
}

func TestLoginURLRefusesWhatIsMoreThanOne(t *testing.T) {
	for _, s := range []string{
		"", "h", "http://h", "https://", "https://:80", "https://u@h", "https://h/x", "https://h?", "https://h?a=b", "https://h#", "https://h#x",
		"https://h#sha256:", "https://h#sha256:" + strings.ToUpper(somePin), "https://h#sha256:" + somePin + "#", "HTTPS://h", "https:h", "https://h//",
	} {
		if l, err := ParseLink(s); err == nil {
			t.Errorf("%q was read as %+v", s, l)
		}
	}
}

func TestJoinTokenRoundTrips(t *testing.T) {
	for _, tok := range []JoinToken{{Link{"https://h:1", somePin}, "s3cret"}, {Link{"https://h", ""}, "<&>"}} {
		got, err := ParseJoinToken(tok.String() + "\n")
		if err != nil || got != tok {
			t.Errorf("%+v: got %+v, %v", tok, got, err)
		}
	}
}

func FuzzParseJoinToken(f *testing.F) {
	f.Add(JoinToken{Link{"https://h:1", somePin}, "s3cret"}.String())
	f.Add("sjt_e30")
	f.Add("")
	f.Fuzz(func(t *testing.T, s string) {
		tok, err := ParseJoinToken(s)
		if err != nil {
			return
		}
		if tok.String() != strings.TrimSpace(s) {
			t.Errorf("%q is a second text for %+v", s, tok)
		}
	})
}

func FuzzParseLink(f *testing.F) {
	f.Add("https://h:1#sha256:" + somePin)
	f.Add("https://[::1%25eth0]:1/")
	f.Fuzz(func(t *testing.T, s string) {
		l, err := ParseLink(s)
		if err != nil {
			return
		}
		if again, err := ParseLink(l.String()); err != nil || again != l || l.Host() == "" {
			t.Errorf("%q gave %+v, which reads as %+v, %v", s, l, again, err)
		}
	})
}
