package ctl

import (
	"errors"

	"connectrpc.com/connect"

	"github.com/sallyport-mesh/sallyport/pkg/process"
	"github.com/sallyport-mesh/sallyport/pkg/profile"
)

// Exit codes that scripts can rely on, beside those of pkg/process (1 failed, 2
// misused, 130 interrupted). docs/sallyportctl.md explains them.
const (
	// exitUnconfirmed: the change is committed, but an agent has not confirmed it.
	exitUnconfirmed = 3
	exitNotFound    = 4
	// exitRefused: not logged in, no admin role that allows it, or the state of
	// things forbids it.
	exitRefused = 5
	// exitConflict: it exists already, or somebody changed it meanwhile.
	exitConflict = 6
	// exitUnreachable: nobody answered, or the coordinator cannot answer now.
	exitUnreachable = 7
)

// coded gives an error its exit code, where it does not carry one.
func coded(err error) error {
	if err == nil || process.ExitCode(err) != process.Failed {
		return err
	}
	if errors.Is(err, profile.ErrNotLoggedIn) {
		return process.WithExitCode(err, exitRefused)
	}
	var from *connect.Error
	if !errors.As(err, &from) {
		return err
	}
	code := process.Failed
	switch from.Code() {
	case connect.CodeNotFound:
		code = exitNotFound
	case connect.CodePermissionDenied, connect.CodeUnauthenticated:
		code = exitRefused
	case connect.CodeAlreadyExists, connect.CodeAborted, connect.CodeFailedPrecondition:
		code = exitConflict
	case connect.CodeInvalidArgument:
		code = process.Misused
	case connect.CodeUnavailable, connect.CodeDeadlineExceeded:
		code = exitUnreachable
	}
	return process.WithExitCode(err, code)
}
