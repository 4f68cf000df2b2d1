package directory

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/alexedwards/argon2id"
	"github.com/hashicorp/golang-lru/v2/expirable"
	"golang.org/x/sync/semaphore"
)

// hashing is RFC 9106's second choice cut to what OWASP names as its minimum:
// 19 MiB, two passes, one lane, 62 ms here.
var hashing = &argon2id.Params{Memory: 19 * 1024, Iterations: 2, Parallelism: 1, SaltLength: 16, KeyLength: 32}

// guard keeps password checks bounded: in memory, by hashing a few at a time;
// in number, by backing off. Nobody is locked out: a source that guesses wrong
// waits up to a minute between attempts, and a name that is guessed at from
// everywhere is looked at every few seconds at most.
type guard struct {
	now   func() time.Time
	slots *semaphore.Weighted
	dummy string // a hash of nothing, compared against where there is none

	mu       sync.Mutex
	attempts *expirable.LRU[string, attempts]
}

type attempts struct {
	wrong int
	until time.Time
}

const (
	// The table of attempts: names that do not exist are in it too, so it is
	// bounded, and an hour's silence forgets.
	maxAttempts, forgetAfter = 16384, time.Hour
	// What guesses are counted by: how many are free, and the longest wait.
	freeHere, maxHere     = 5, time.Minute      // at one name from one source
	freeName, maxName     = 50, 4 * time.Second // at one name from everywhere
	freeSource, maxSource = 60, 8 * time.Second // at all names from one source
)

// bucket is one way to count guesses.
type bucket struct {
	key  string
	free int
	max  time.Duration
}

func buckets(name, from string) [3]bucket {
	name = strings.TrimSpace(name)
	if len(name) > 64 {
		name = name[:64] // no name is that long; keep the table small
	}
	return [3]bucket{
		{name + "\x00" + from, freeHere, maxHere},
		{name, freeName, maxName},
		{"\x00" + from, freeSource, maxSource},
	}
}

func newGuard(concurrent int, now func() time.Time) (*guard, error) {
	dummy, err := argon2id.CreateHash(newSecret("none"), hashing)
	if err != nil {
		return nil, fmt.Errorf("hashing: %w", err)
	}
	return &guard{
		now:      now,
		slots:    semaphore.NewWeighted(int64(concurrent)),
		dummy:    dummy,
		attempts: expirable.NewLRU[string, attempts](maxAttempts, nil, forgetAfter),
	}, nil
}

func (g *guard) hash(ctx context.Context, password string) (string, error) {
	if err := g.slots.Acquire(ctx, 1); err != nil {
		return "", err
	}
	defer g.slots.Release(1)
	h, err := argon2id.CreateHash(password, hashing)
	if err != nil {
		return "", fmt.Errorf("hashing password: %w", err)
	}
	return h, nil
}

// compare does the same work whether there is a hash or not.
func (g *guard) compare(ctx context.Context, password, hash string) (bool, error) {
	if len(password) > maxPassword {
		password = password[:maxPassword+1] // longer than any that was set
	}
	there := hash != ""
	if !there {
		hash = g.dummy
	}
	if err := g.slots.Acquire(ctx, 1); err != nil {
		return false, err
	}
	defer g.slots.Release(1)
	ok, err := argon2id.ComparePasswordAndHash(password, hash)
	if err != nil {
		return false, fmt.Errorf("comparing password: %w", err)
	}
	return ok && there, nil
}

// admit says whether an attempt is looked at now, and counts it as a wrong one
// at once: a thousand guesses sent together are not admitted together.
func (g *guard) admit(name, from string) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	now := g.now()
	for _, b := range buckets(name, from) {
		if a, ok := g.attempts.Get(b.key); ok && now.Before(a.until) {
			return &BackoffError{RetryAfter: a.until.Sub(now)}
		}
	}
	for _, b := range buckets(name, from) {
		a, _ := g.attempts.Get(b.key)
		a.wrong++
		if over := a.wrong - b.free; over >= 0 {
			a.until = now.Add(min(time.Second<<min(over, 6), b.max))
		}
		g.attempts.Add(b.key, a)
	}
	return nil
}

// succeeded takes back what admit counted: all of it for this name from this
// source, one attempt elsewhere.
func (g *guard) succeeded(name, from string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for i, b := range buckets(name, from) {
		a, ok := g.attempts.Get(b.key)
		switch {
		case i == 0:
			g.attempts.Remove(b.key)
		case ok:
			a.wrong, a.until = a.wrong-1, time.Time{}
			g.attempts.Add(b.key, a)
		}
	}
}
