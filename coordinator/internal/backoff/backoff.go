// Package backoff slows down guessing without locking anybody out.
//
// An attempt is counted in several buckets at once: one is narrow and strict
// (this name from this address), others are wide and mild (this name from
// everywhere, everything from this address). So whoever hammers at another
// person's account waits longer and longer, while that person, elsewhere, waits
// seconds at most.
package backoff

import (
	"fmt"
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/expirable"
)

// Bucket is one way to count attempts.
type Bucket struct {
	Key string
	// Free is how many wrong attempts cost no wait; Max is the longest wait.
	Free int
	Max  time.Duration
}

// Error says that there were too many attempts and when the next one is looked
// at.
type Error struct{ RetryAfter time.Duration }

func (e *Error) Error() string {
	return fmt.Sprintf("too many attempts: try again in %s", e.RetryAfter.Round(time.Second))
}

// The table holds what strangers send, so it is bounded; an hour's silence
// forgets.
const maxEntries, forgetAfter = 16384, time.Hour

// Limiter counts. Its methods may be called concurrently.
type Limiter struct {
	now func() time.Time

	mu       sync.Mutex
	attempts *expirable.LRU[string, attempts]
}

type attempts struct {
	wrong int
	until time.Time
}

// New makes a limiter; a nil clock is time.Now.
func New(now func() time.Time) *Limiter {
	if now == nil {
		now = time.Now
	}
	return &Limiter{now: now, attempts: expirable.NewLRU[string, attempts](maxEntries, nil, forgetAfter)}
}

// Admit says whether an attempt is looked at now, and counts it as a wrong one
// at once: a thousand guesses sent together are not admitted together.
func (l *Limiter) Admit(buckets ...Bucket) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.now()
	for _, b := range buckets {
		if a, ok := l.attempts.Get(b.Key); ok && now.Before(a.until) {
			return &Error{RetryAfter: a.until.Sub(now)}
		}
	}
	for _, b := range buckets {
		a, _ := l.attempts.Get(b.Key)
		a.wrong++
		if over := a.wrong - b.Free; over >= 0 {
			a.until = now.Add(min(time.Second<<min(over, 20), b.Max))
		}
		l.attempts.Add(b.Key, a)
	}
	return nil
}

// Succeeded takes back what Admit counted: all of it in the first bucket, the
// narrowest, and one attempt in the others.
func (l *Limiter) Succeeded(buckets ...Bucket) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i, b := range buckets {
		a, ok := l.attempts.Get(b.Key)
		switch {
		case i == 0:
			l.attempts.Remove(b.Key)
		case ok:
			a.wrong, a.until = a.wrong-1, time.Time{}
			l.attempts.Add(b.Key, a)
		}
	}
}
