package directory

import (
	"errors"
	"fmt"
	"time"

	"github.com/sallyport-mesh/sallyport/coordinator/internal/backoff"
)

// NotFoundError says that nothing of a kind goes by a name or id.
type NotFoundError struct {
	Kind string // "user", "cluster", ...
	Ref  string
}

func (e *NotFoundError) Error() string { return fmt.Sprintf("no %s %q", e.Kind, e.Ref) }

// ExistsError says that a name is taken.
type ExistsError struct {
	Kind string
	Name string
}

func (e *ExistsError) Error() string { return fmt.Sprintf("%s %q exists already", e.Kind, e.Name) }

// InvalidError says which field of a request cannot be, and why.
type InvalidError struct {
	Field  string
	Reason string
	Hint   string // what to do next; may be empty
}

func (e *InvalidError) Error() string { return e.Field + ": " + e.Reason }

// RefusedError says that a well-formed request meets a state that forbids it:
// a suspended user, a revoked device, a project that still has clusters.
type RefusedError struct {
	Reason string
	Hint   string
}

func (e *RefusedError) Error() string { return e.Reason }

// TokenProblem is what is wrong with a one-time token.
type TokenProblem int

// The problems a one-time token can have.
const (
	TokenUnknown TokenProblem = iota + 1
	TokenExpired
	TokenUsed
)

// TokenError says why a one-time token was refused. It never holds the token.
type TokenError struct {
	Kind    string // "join token" or "welcome link"
	Problem TokenProblem
	At      time.Time // when it ran out or was used
}

func (e *TokenError) Error() string {
	switch e.Problem {
	case TokenExpired:
		return fmt.Sprintf("this %s ran out at %s", e.Kind, e.At.UTC().Format(time.RFC3339))
	case TokenUsed:
		return fmt.Sprintf("this %s was used already, at %s: it works once", e.Kind, e.At.UTC().Format(time.RFC3339))
	default:
		return fmt.Sprintf("this %s is not known here", e.Kind)
	}
}

// BackoffError says that there were too many wrong passwords and when the next
// attempt is looked at.
type BackoffError = backoff.Error

// ErrWrongPassword is the one answer to an unknown name, a user without a
// password, and a wrong password.
var ErrWrongPassword = errors.New("wrong name or password")

// ErrSuspended is for a user who is suspended everywhere. It is only said to
// somebody who has proved to be that user.
var ErrSuspended = &RefusedError{Reason: "this account is suspended", Hint: "ask an administrator to resume it"}

// Hint is the next step that an error of this package suggests, or "".
func Hint(err error) string {
	if e, ok := errors.AsType[*InvalidError](err); ok {
		return e.Hint
	}
	if e, ok := errors.AsType[*RefusedError](err); ok {
		return e.Hint
	}
	if e, ok := errors.AsType[*TokenError](err); ok {
		if e.Kind == joinTokenKind {
			return "ask for a new join token: sallyportctl cluster token CLUSTER"
		}
		return "ask an administrator for a new one"
	}
	if e, ok := errors.AsType[*NotFoundError](err); ok {
		return listed(e.Kind, "shows what there is")
	}
	if e, ok := errors.AsType[*ExistsError](err); ok {
		return listed(e.Kind, "shows the names that are taken")
	}
	return ""
}

// listed is the command that lists a kind of thing, and what it shows.
func listed(kind, shows string) string {
	switch kind {
	case "user", "group", "project", "cluster", "role", "grant", "device":
		return "sallyportctl " + kind + " list " + shows
	case joinTokenKind:
		return "sallyportctl token list " + shows
	case "session":
		return "sallyportctl session list --all " + shows
	case "request":
		return "sallyportctl audit search " + shows
	case "agent":
		return "sallyportctl cluster list " + shows
	}
	return ""
}
