package directory

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/alexedwards/argon2id"
	"golang.org/x/sync/semaphore"

	"github.com/sallyport-mesh/sallyport/coordinator/internal/backoff"
	"github.com/sallyport-mesh/sallyport/pkg/identity"
)

// hashing is RFC 9106's second choice cut to what OWASP names as its minimum:
// 19 MiB, two passes, one lane, 62 ms here.
var hashing = &argon2id.Params{Memory: 19 * 1024, Iterations: 2, Parallelism: 1, SaltLength: 16, KeyLength: 32}

// guard keeps password checks bounded: in memory, by hashing a few at a time;
// in number, by backing off. Nobody is locked out: a source that guesses wrong
// waits up to a minute between attempts, and a name that is guessed at from
// everywhere is looked at every few seconds at most.
type guard struct {
	slots    *semaphore.Weighted
	dummy    string // a hash of nothing, compared against where there is none
	attempts *backoff.Limiter
}

// What guesses are counted by: how many are free, and the longest wait.
const (
	freeHere, maxHere     = 5, time.Minute      // at one name from one source
	freeName, maxName     = 50, 4 * time.Second // at one name from everywhere
	freeSource, maxSource = 60, 8 * time.Second // at all names from one source
)

func buckets(name, from string) []backoff.Bucket {
	name = strings.TrimSpace(name)
	if identity.CheckName(name) != nil && !identity.IsID(identity.User, name) {
		// Nobody's name, and perhaps made to look like another key of the table.
		return []backoff.Bucket{{Key: "\x00" + from, Free: freeSource, Max: maxSource}}
	}
	return []backoff.Bucket{
		{Key: name + "\x00" + from, Free: freeHere, Max: maxHere},
		{Key: name, Free: freeName, Max: maxName},
		{Key: "\x00" + from, Free: freeSource, Max: maxSource},
	}
}

func newGuard(concurrent int, now func() time.Time) (*guard, error) {
	dummy, err := argon2id.CreateHash(newSecret("none"), hashing)
	if err != nil {
		return nil, fmt.Errorf("hashing: %w", err)
	}
	return &guard{
		slots:    semaphore.NewWeighted(int64(concurrent)),
		dummy:    dummy,
		attempts: backoff.New(now),
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
