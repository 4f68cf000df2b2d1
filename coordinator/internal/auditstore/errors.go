package auditstore

import (
	"context"
	"errors"
	"fmt"

	"connectrpc.com/connect"

	apiv1 "github.com/sallyport-mesh/sallyport/pkg/api/sallyport/v1"
)

var (
	// ErrInvalid: the request is none that an agent of ours sends: too large, a
	// checkpoint that its key did not sign, sizes that do not fit together.
	ErrInvalid = errors.New("not a valid append")
	// ErrNotYourLog: the log belongs to another agent, another key or another
	// epoch than the caller's.
	ErrNotYourLog = errors.New("not this agent's log")
	// ErrBusy: too much under way; the same request can be sent again later.
	ErrBusy = errors.New("too many appends at once")
	// ErrDiskFull: no room; nothing is taken in until there is.
	ErrDiskFull = errors.New("no room for the audit store")
	// ErrFailed: a commit failed and the process must end.
	ErrFailed = errors.New("the audit store failed")
	// ErrClosed: Close was called.
	ErrClosed = errors.New("the audit store is closed")
	// ErrRollback: the own log is shorter than its own signed checkpoint.
	ErrRollback = errors.New("the audit store was rolled back: its own log is shorter than its signed checkpoint")
	// ErrCorrupt: what is on disk is not what was written.
	ErrCorrupt = errors.New("the audit store is damaged")
)

// Reason says how an agent's log and its copy here differ.
type Reason string

const (
	// Behind: the records begin after where the copy here ends. The agent goes on
	// from there.
	Behind Reason = "behind"
	// Ahead: the copy here is longer than what the agent shows, which agrees with
	// it as far as can be told. From an agent that is sure to have no more, that is
	// a rollback.
	Ahead Reason = "ahead"
	// Forked: a record, or the whole tree, differs from what is here and had been
	// countersigned. Never an accident of the network.
	Forked Reason = "forked"
	// Altered: the new records do not hash to the root that the agent signed.
	Altered Reason = "altered"
)

// ConflictError says that an append does not continue the log that is here.
type ConflictError struct {
	Origin string
	Size   uint64 // of the copy here
	Reason Reason
	Detail string
}

func (e *ConflictError) Error() string {
	return fmt.Sprintf("%s: %s: %d records here, %s", e.Origin, e.Reason, e.Size, e.Detail)
}

// Status is err as agents are to see it: the one place where codes are chosen. A
// conflict is failed_precondition with an AppendConflict, whose reason begins
// with the Reason.
func Status(err error) error {
	var conflict *ConflictError
	var status *connect.Error
	switch {
	case err == nil:
		return nil
	case errors.As(err, &status):
		return err
	case errors.Is(err, context.Canceled):
		return connect.NewError(connect.CodeCanceled, err)
	case errors.Is(err, context.DeadlineExceeded):
		return connect.NewError(connect.CodeDeadlineExceeded, err)
	case errors.As(err, &conflict):
		out := connect.NewError(connect.CodeFailedPrecondition, err)
		detail, derr := connect.NewErrorDetail(&apiv1.AppendConflict{
			Size: conflict.Size, Reason: string(conflict.Reason) + ": " + conflict.Detail,
		})
		if derr == nil {
			out.AddDetail(detail)
		}
		return out
	case errors.Is(err, ErrInvalid):
		return connect.NewError(connect.CodeInvalidArgument, err)
	case errors.Is(err, ErrNotYourLog):
		return connect.NewError(connect.CodePermissionDenied, err)
	case errors.Is(err, ErrBusy), errors.Is(err, ErrDiskFull):
		return connect.NewError(connect.CodeResourceExhausted, err)
	case errors.Is(err, ErrFailed), errors.Is(err, ErrClosed):
		return connect.NewError(connect.CodeUnavailable, err)
	}
	return connect.NewError(connect.CodeInternal, errors.New("storing audit records failed"))
}
