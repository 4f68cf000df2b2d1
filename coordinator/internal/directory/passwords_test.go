package directory

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/sallyport-mesh/sallyport/coordinator/internal/store"
	apiv1 "github.com/sallyport-mesh/sallyport/pkg/api/sallyport/v1"
)

func TestPasswordRoundTrip(t *testing.T) {
	f := open(t)
	ctx := t.Context()
	u := ok[*apiv1.User](t)(f.CreateUser(ctx, UserSpec{Name: "shivam", Password: "correct horse"}))
	got, err := f.VerifyPassword(ctx, "shivam", "correct horse", "192.0.2.1")
	if err != nil || got.Id != u.Id || !got.HasPassword {
		t.Fatalf("%v, %v", got, err)
	}
	f.user("nopassword")
	for _, c := range [][2]string{{"shivam", "wrong"}, {"shivam", ""}, {"nobody", "correct horse"}, {"nopassword", ""}, {"", ""}} {
		if u, err := f.VerifyPassword(ctx, c[0], c[1], "192.0.2.1"); err != ErrWrongPassword {
			t.Errorf("%v: %v, %v", c, u, err)
		}
	}
	if got.AuthGeneration != 1 {
		t.Errorf("the first password raised the generation to %d", got.AuthGeneration)
	}
	ses := f.session(u, f.device(u, 1))
	got = ok[*apiv1.User](t)(f.SetPassword(ctx, "shivam", "another horse"))
	if got.AuthGeneration != 2 || !f.Snapshot().Sessions[ses.Id].Revoked {
		t.Errorf("a new password left generation %d and the old session", got.AuthGeneration)
	}
	if _, err := f.VerifyPassword(ctx, "shivam", "correct horse", "192.0.2.2"); err != ErrWrongPassword {
		t.Errorf("the old password: %v", err)
	}
	ok[*apiv1.User](t)(f.SuspendUser(ctx, "shivam", ""))
	if _, err := f.VerifyPassword(ctx, "shivam", "another horse", "192.0.2.2"); err != ErrSuspended {
		t.Errorf("suspended: %v", err)
	}
	if _, err := f.VerifyPassword(ctx, "shivam", "wrong", "192.0.2.2"); err != ErrWrongPassword {
		t.Errorf("suspended, to one who does not know the password: %v", err)
	}
	for _, bad := range []string{"short", "shivam1", "shivam12", string(make([]byte, 300))} {
		if _, _, err := f.SetPassword(ctx, "shivam", bad); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
}

// TestUnknownNamesCostTheSame compares the work for a wrong password with that
// for an unknown name, in processor time, which other processes do not change.
func TestUnknownNamesCostTheSame(t *testing.T) {
	f := open(t)
	ok[*apiv1.User](t)(f.CreateUser(t.Context(), UserSpec{Name: "shivam", Password: "correct horse"}))
	spent := func() time.Duration {
		var r syscall.Rusage
		if err := syscall.Getrusage(syscall.RUSAGE_SELF, &r); err != nil {
			t.Fatal(err)
		}
		return time.Duration(r.Utime.Nano() + r.Stime.Nano())
	}
	measure := func(name string) time.Duration {
		best := time.Hour
		for i := range 5 {
			start := spent()
			if _, err := f.VerifyPassword(t.Context(), name, "wrong", fmt.Sprint(i)); err != ErrWrongPassword {
				t.Fatal(err)
			}
			best = min(best, spent()-start)
		}
		return best
	}
	known, unknown := measure("shivam"), measure("nobody")
	if known > 3*unknown/2 || unknown > 3*known/2 {
		t.Errorf("a known name takes %v, an unknown one %v", known, unknown)
	}
}

// TestSprayingNamesFromOneSourceIsSlowedDown tries one password at many names.
func TestSprayingNamesFromOneSourceIsSlowedDown(t *testing.T) {
	f := open(t)
	for i := range freeSource {
		if err := f.Directory.guard.attempts.Admit(buckets(fmt.Sprint("user", i), "198.51.100.7")...); err != nil {
			t.Fatalf("attempt %d: %v", i, err)
		}
	}
	_, err := f.VerifyPassword(t.Context(), "another", "guess", "198.51.100.7")
	if e, ok := errors.AsType[*BackoffError](err); !ok || e.RetryAfter > maxSource {
		t.Errorf("one more: %v", err)
	}
	if _, err := f.VerifyPassword(t.Context(), "another", "guess", "192.0.2.1"); err != ErrWrongPassword {
		t.Errorf("from elsewhere: %v", err)
	}
}

// TestGuessingBacksOffWithoutLockout sends guesses one after the other and all
// at once; the owner, elsewhere, gets in.
func TestGuessingBacksOffWithoutLockout(t *testing.T) {
	f := open(t)
	ctx := t.Context()
	ok[*apiv1.User](t)(f.CreateUser(ctx, UserSpec{Name: "shivam", Password: "correct horse"}))
	for _, name := range []string{"shivam", "nobody"} { // no difference shows
		var looked atomic.Int32
		var group sync.WaitGroup
		for range 100 {
			group.Go(func() {
				_, err := f.VerifyPassword(ctx, name, "guess", "198.51.100.7")
				if err == ErrWrongPassword {
					looked.Add(1)
				} else if e, ok := errors.AsType[*BackoffError](err); !ok || e.RetryAfter <= 0 {
					t.Error(err)
				}
			})
		}
		group.Wait()
		if looked.Load() != freeHere {
			t.Errorf("%d guesses at %s were looked at, want %d", looked.Load(), name, freeHere)
		}
	}
	if _, err := f.VerifyPassword(ctx, "shivam", "correct horse", "198.51.100.7"); err == nil {
		t.Error("a source that backs off was let in early")
	}
	if _, err := f.VerifyPassword(ctx, "shivam", "correct horse", "192.0.2.1"); err != nil {
		t.Errorf("the owner, elsewhere: %v", err)
	}
	f.clock.Advance(2 * maxHere)
	if _, err := f.VerifyPassword(ctx, "shivam", "correct horse", "198.51.100.7"); err != nil {
		t.Errorf("after the wait: %v", err)
	}
	// Guessed at from everywhere, the name slows down, for seconds only.
	for i := range freeName + 5 {
		f.Directory.guard.attempts.Admit(buckets("shivam", fmt.Sprint(i))...) //nolint:errcheck // the last ones are refused
	}
	_, err := f.VerifyPassword(ctx, "shivam", "correct horse", "192.0.2.1")
	if e, ok := errors.AsType[*BackoffError](err); !ok || e.RetryAfter > maxName {
		t.Errorf("guessed at from everywhere: %v", err)
	}
	f.clock.Advance(maxName)
	if _, err := f.VerifyPassword(ctx, "shivam", "correct horse", "192.0.2.1"); err != nil {
		t.Errorf("seconds later: %v", err)
	}
}

func TestWelcomeLinkSetsAPasswordOnce(t *testing.T) {
	f := open(t)
	ctx := t.Context()
	u := f.user("shivam")
	first := ok[Welcome](t)(f.CreateWelcome(ctx, "shivam", 0))
	w := ok[Welcome](t)(f.CreateWelcome(ctx, "shivam", 0))
	if _, err := f.CheckWelcome(ctx, first.Secret); problem(err) != TokenUnknown {
		t.Errorf("a link that was replaced: %v", err)
	}
	if got, err := f.CheckWelcome(ctx, w.Secret); err != nil || got.Id != u.Id {
		t.Errorf("%v, %v", got, err)
	}
	if _, _, err := f.RedeemWelcome(ctx, w.Secret, "short"); err == nil {
		t.Error("a short password was taken")
	}
	ok[*apiv1.User](t)(f.RedeemWelcome(ctx, w.Secret, "correct horse"))
	if _, _, err := f.RedeemWelcome(ctx, w.Secret, "another horse"); problem(err) != TokenUsed {
		t.Errorf("twice: %v", err)
	}
	if _, err := f.VerifyPassword(ctx, "shivam", "correct horse", ""); err != nil {
		t.Error(err)
	}
	late := ok[Welcome](t)(f.CreateWelcome(ctx, "shivam", time.Minute))
	f.clock.Advance(time.Minute)
	if _, _, err := f.RedeemWelcome(ctx, late.Secret, "another horse"); problem(err) != TokenExpired {
		t.Errorf("late: %v", err)
	}
}

// slowReads says when a reading is done.
type slowReads struct {
	store.Store
	read chan struct{}
}

func (s slowReads) View(ctx context.Context, f func(store.Reader) error) error {
	err := s.Store.View(ctx, f)
	s.read <- struct{}{}
	return err
}

// A password that was right when it was read is worth nothing once everything it
// was good for has ended, as by a change of it.
func TestPasswordIsJudgedByTheNewestGeneration(t *testing.T) {
	f := open(t)
	ctx := t.Context()
	ok[*apiv1.User](t)(f.CreateUser(ctx, UserSpec{Name: "shivam", Password: "correct horse battery"}))
	read, slots := make(chan struct{}), semaphore.NewWeighted(1)
	f.Directory.store, f.guard.slots = slowReads{f.store, read}, slots
	if err := slots.Acquire(ctx, 1); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() {
		_, err := f.VerifyPassword(ctx, "shivam", "correct horse battery", "198.51.100.7")
		done <- err
	}()
	<-read // it has the hash, and waits to compare
	ok[*apiv1.User](t)(f.EndSessions(ctx, "shivam"))
	slots.Release(1)
	if err := <-done; !errors.Is(err, ErrWrongPassword) {
		t.Errorf("an old word under a new generation: %v", err)
	}
}

// A name that is none cannot be made to count for somebody else's address.
func TestGuessesCountForWhoMakesThem(t *testing.T) {
	f := open(t)
	ok[*apiv1.User](t)(f.CreateUser(t.Context(), UserSpec{Name: "shivam", Password: "correct horse battery"}))
	for range 200 {
		f.VerifyPassword(t.Context(), "\x00198.51.100.7", "x", "203.0.113.9") //nolint:errcheck // wrong, all of them
	}
	if _, err := f.VerifyPassword(t.Context(), "shivam", "correct horse battery", "198.51.100.7"); err != nil {
		t.Errorf("a stranger elsewhere made the owner wait: %v", err)
	}
}
