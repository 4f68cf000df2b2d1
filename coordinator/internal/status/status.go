// Package status is the one place where an error becomes a status on the wire.
package status

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"connectrpc.com/connect"
	"github.com/google/uuid"

	"github.com/sallyport-mesh/sallyport/coordinator/internal/ca"
	"github.com/sallyport-mesh/sallyport/coordinator/internal/caller"
	"github.com/sallyport-mesh/sallyport/coordinator/internal/directory"
	"github.com/sallyport-mesh/sallyport/coordinator/internal/login"
	"github.com/sallyport-mesh/sallyport/pkg/apiclient"
)

// Of turns an error into a status for the caller, with the hint that the error
// carries. What is not known here is internal.
func Of(err error) error {
	if err == nil || isA[*connect.Error](err) {
		return err
	}
	code := connect.CodeInternal
	switch {
	case isA[*directory.NotFoundError](err):
		code = connect.CodeNotFound
	case isA[*directory.ExistsError](err):
		code = connect.CodeAlreadyExists
	case isA[*directory.InvalidError](err), isA[*ca.RequestError](err):
		code = connect.CodeInvalidArgument
	case isA[*directory.RefusedError](err), isA[*directory.TokenError](err):
		code = connect.CodePermissionDenied
	case isA[*directory.BackoffError](err):
		code = connect.CodeResourceExhausted
	case errors.Is(err, login.ErrUnavailable):
		code = connect.CodeUnavailable
	case errors.Is(err, context.Canceled):
		code = connect.CodeCanceled
	case errors.Is(err, context.DeadlineExceeded):
		code = connect.CodeDeadlineExceeded
	}
	hint := directory.Hint(err)
	if code == connect.CodeInternal {
		// What broke inside is for the coordinator's log, not for whoever asked.
		id := uuid.NewString()
		slog.Error("a call failed inside", "id", id, "err", err)
		err = errors.New("something broke inside the coordinator")
		hint = "its log says what, under id=" + id
	}
	return Hinted(connect.NewError(code, err), hint)
}

// Hinted adds to a status what the person can do next, in ASCII.
func Hinted(err *connect.Error, hint string) error {
	if hint != "" {
		err.Meta().Set(apiclient.HintHeader, hint)
	}
	return err
}

// Unauthenticated says why a caller is nobody, or not of the kind that is asked
// for.
func Unauthenticated(c *caller.Caller, want string) error {
	reason := c.Refused
	if reason == nil {
		reason = fmt.Errorf("this call takes %s", want)
	}
	hint := directory.Hint(reason)
	if hint == "" {
		hint = "log in: sallyport login"
	}
	return Hinted(connect.NewError(connect.CodeUnauthenticated, reason), hint)
}

func isA[E error](err error) bool {
	_, ok := errors.AsType[E](err)
	return ok
}
