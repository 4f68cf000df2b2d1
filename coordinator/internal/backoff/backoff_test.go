package backoff

import (
	"errors"
	"fmt"
	"testing"
	"time"
)

// TestOwnerIsNotLockedOut: somebody hammers at a name from his own address for an
// hour; the owner, elsewhere, waits seconds at most.
func TestOwnerIsNotLockedOut(t *testing.T) {
	now := time.Now()
	l := New(func() time.Time { return now })
	buckets := func(from string) []Bucket {
		return []Bucket{{"name " + from, 5, time.Minute}, {"name", 50, 4 * time.Second}}
	}
	looked := 0
	for range 3600 {
		if l.Admit(buckets("attacker")...) == nil {
			looked++
		}
		now = now.Add(time.Second)
	}
	if looked > 100 {
		t.Errorf("%d guesses were looked at in an hour", looked)
	}
	err := l.Admit(buckets("owner")...)
	if e, waits := errors.AsType[*Error](err); waits && e.RetryAfter > 4*time.Second {
		t.Errorf("the owner waits %v", e.RetryAfter)
	}
	now = now.Add(4 * time.Second)
	if err := l.Admit(buckets("owner")...); err != nil {
		t.Errorf("the owner is still refused: %v", err)
	}
	l.Succeeded(buckets("owner")...)
}

// TestCrowdIsNotAdmittedTogether: attempts count before they are looked at.
func TestCrowdIsNotAdmittedTogether(t *testing.T) {
	l := New(nil)
	admitted := 0
	for range 1000 {
		if l.Admit(Bucket{"one", 5, time.Minute}) == nil {
			admitted++
		}
	}
	if admitted != 5 {
		t.Errorf("%d were admitted at once", admitted)
	}
	for i := range 2 * maxEntries { // the table stays bounded
		if err := l.Admit(Bucket{fmt.Sprint(i), 5, time.Minute}); err != nil {
			t.Fatal(err)
		}
	}
	if n := l.attempts.Len(); n > maxEntries {
		t.Errorf("%d entries", n)
	}
}
