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
	// Wrong passwords that are free, for one source and for a name as a whole.
	freeFromSource, freeForName = 5, 50
	// The longest waits.
	maxFromSource, maxForName = time.Minute, 4 * time.Second
	// The table of attempts: names that do not exist are in it too, so it is
	// bounded, and an hour's silence forgets.
	maxAttempts, forgetAfter = 16384, time.Hour
)

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

func guardKeys(name, from string) (source, all string) {
	name = strings.TrimSpace(name)
	if len(name) > 64 {
		name = name[:64] // no name is that long; keep the table small
	}
	return name + "\x00" + from, name
}

// admit says whether an attempt is looked at now, and counts it as a wrong one
// at once: a thousand guesses sent together are not admitted together.
func (g *guard) admit(name, from string) error {
	source, all := guardKeys(name, from)
	g.mu.Lock()
	defer g.mu.Unlock()
	now := g.now()
	for _, key := range []string{source, all} {
		if a, ok := g.attempts.Get(key); ok && now.Before(a.until) {
			return &BackoffError{RetryAfter: a.until.Sub(now)}
		}
	}
	g.count(source, freeFromSource, maxFromSource)
	g.count(all, freeForName, maxForName)
	return nil
}

func (g *guard) count(key string, free int, longest time.Duration) {
	a, _ := g.attempts.Get(key)
	a.wrong++
	if over := a.wrong - free; over >= 0 {
		a.until = g.now().Add(min(time.Second<<min(over, 6), longest))
	}
	g.attempts.Add(key, a)
}

// succeeded takes back what admit counted.
func (g *guard) succeeded(name, from string) {
	source, all := guardKeys(name, from)
	g.mu.Lock()
	defer g.mu.Unlock()
	g.attempts.Remove(source)
	if a, ok := g.attempts.Get(all); ok {
		a.wrong--
		a.until = time.Time{}
		g.attempts.Add(all, a)
	}
}
