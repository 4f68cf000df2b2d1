package adminapi

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"

	"connectrpc.com/connect"

	"github.com/sallyport-mesh/sallyport/coordinator/internal/caller"
	"github.com/sallyport-mesh/sallyport/coordinator/internal/directory"
	"github.com/sallyport-mesh/sallyport/pkg/apiclient"
)

// wire turns an error into a status for the caller. This is the one place where
// codes are chosen; what is not known here is internal and says nothing more.
func wire(err error) error {
	if err == nil {
		return nil
	}
	if _, ok := errors.AsType[*connect.Error](err); ok {
		return err
	}
	code := connect.CodeInternal
	switch {
	case isA[*directory.NotFoundError](err):
		code = connect.CodeNotFound
	case isA[*directory.ExistsError](err):
		code = connect.CodeAlreadyExists
	case isA[*directory.InvalidError](err):
		code = connect.CodeInvalidArgument
	case isA[*directory.RefusedError](err):
		code = connect.CodeFailedPrecondition
	case errors.Is(err, context.Canceled):
		code = connect.CodeCanceled
	case errors.Is(err, context.DeadlineExceeded):
		code = connect.CodeDeadlineExceeded
	}
	return hinted(connect.NewError(code, err), directory.Hint(err))
}

func hinted(err *connect.Error, hint string) error {
	if hint != "" {
		err.Meta().Set(apiclient.HintHeader, hint)
	}
	return err
}

func isA[E error](err error) bool {
	_, ok := errors.AsType[E](err)
	return ok
}

func unauthenticated(c *caller.Caller) error {
	reason := c.Refused
	if reason == nil {
		reason = errors.New("this call takes a user's certificate")
	}
	return hinted(connect.NewError(connect.CodeUnauthenticated, reason), "log in: sallyport login URL")
}

func refused(c *caller.Caller, obj, action string) error {
	who := "the local socket"
	if c.User != nil {
		who = c.User.Name
	}
	return hinted(connect.NewError(connect.CodePermissionDenied, fmt.Errorf("%s may not %s %s here", who, action, obj)),
		"see your admin roles: sallyportctl whoami")
}

func newActID() string { return rand.Text() }
