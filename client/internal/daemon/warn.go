package daemon

import (
	"fmt"
	"net/http"
	"time"

	"github.com/sallyport-mesh/sallyport/client/internal/localapi"
)

const (
	// soon is when a person should know that the session is about to end.
	soon = 30 * time.Minute
	// skewed is how far off a clock may be before somebody is told. Certificates
	// are good from five minutes before they were issued.
	skewed = time.Minute
)

// warnings is what a person should know although kubectl works, now or still.
func (s *state) warnings(now time.Time) []localapi.Warning {
	var all []localapi.Warning
	add := func(hint, format string, args ...any) {
		all = append(all, localapi.Warning{Text: fmt.Sprintf(format, args...), Hint: hint})
	}
	if s.ended == nil && s.profile.Session != nil {
		if left := s.profile.Session.Expires.Sub(now); left > 0 && left < soon {
			add("sallyport login", "the session ends in %s", roughly(left))
		}
	}
	switch off := s.skew.Round(time.Second); {
	case off >= skewed:
		add("set this machine's clock", "this machine's clock is %s behind the coordinator's", roughly(off))
	case off <= -skewed:
		add("set this machine's clock", "this machine's clock is %s ahead of the coordinator's", roughly(-off))
	}
	if s.watch != "" && s.ended == nil {
		text := "the coordinator is not heard"
		if !s.heard.IsZero() {
			text += " since " + s.heard.Local().Format("15:04")
		}
		add("what is open to you goes on working, and changes wait until it is back", "%s: %s", text, s.watch)
	}
	for _, w := range []string{s.overlay, s.context} {
		if w != "" && s.ended == nil {
			add("", "%s", w)
		}
	}
	return all
}

// roughly is a duration as people say it.
func roughly(d time.Duration) string {
	switch {
	case d < 90*time.Second:
		return fmt.Sprintf("%d seconds", int(d.Seconds()))
	case d < 90*time.Minute:
		return fmt.Sprintf("%d minutes", int(d.Round(time.Minute).Minutes()))
	}
	return fmt.Sprintf("%d hours", int(d.Round(time.Hour).Hours()))
}

// skew is how far the coordinator's clock is ahead of ours, by an answer that
// arrived just now; HTTP tells it to the second.
func skew(answer http.Header, now time.Time) time.Duration {
	theirs, err := http.ParseTime(answer.Get("Date"))
	if err != nil {
		return 0
	}
	return theirs.Sub(now)
}
