package audit

import (
	"fmt"
	"time"
)

// Time is a moment to the microsecond in UTC, as Kubernetes' MicroTime.
type Time struct{ time.Time }

const timeLayout = "2006-01-02T15:04:05.000000Z"

// At makes a Time of t.
func At(t time.Time) Time { return Time{t.UTC().Truncate(time.Microsecond)} }

// Now is the present moment.
func Now() Time { return At(time.Now()) }

// MarshalJSON writes the moment with exactly six digits after the second.
func (t Time) MarshalJSON() ([]byte, error) {
	return []byte(`"` + t.UTC().Format(timeLayout) + `"`), nil
}

// UnmarshalJSON reads what MarshalJSON wrote, and nothing else.
func (t *Time) UnmarshalJSON(b []byte) error {
	v, err := time.Parse(`"`+timeLayout+`"`, string(b))
	if err != nil || len(b) != len(timeLayout)+2 {
		return fmt.Errorf("%.40q is no time like %s", b, timeLayout)
	}
	t.Time = v
	return nil
}

// wellFormed drops what RFC 3339 has no form for: years before 0 or past 9999.
func wellFormed(t Time) Time {
	if y := t.UTC().Year(); y < 1 || y > 9999 {
		return Time{}
	}
	return At(t.Time)
}
