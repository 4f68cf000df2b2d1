package uplink

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"time"

	"connectrpc.com/connect"

	"github.com/sallyport-mesh/sallyport/node-agent/internal/auditlog"
	apiv1 "github.com/sallyport-mesh/sallyport/pkg/api/sallyport/v1"
	"github.com/sallyport-mesh/sallyport/pkg/api/sallyport/v1/apiv1connect"
	"github.com/sallyport-mesh/sallyport/pkg/audit"
)

// Log is what Ship needs of an *auditlog.Log.
type Log interface {
	Origin() string
	Size() uint64
	Acked() uint64
	// Changed is closed when Size grows; take it before Size.
	Changed() <-chan struct{}
	Read(from uint64, maxBytes int) ([][]byte, error)
	Checkpoint(size uint64) ([]byte, error)
	Acknowledge(countersigned []byte) error
	// Refuse ends access: every later intent fails with reason.
	Refuse(reason error)
}

// ShipConfig is what Ship needs.
type ShipConfig struct {
	Client apiv1connect.AgentServiceClient
	Log    Log
	// Linger is how long a record may wait for others to share its call. Default
	// 50 ms.
	Linger time.Duration
	// MinBackoff and MaxBackoff bound the wait between tries, which is random
	// below a bound that doubles. Defaults 200 ms and 30 s.
	MinBackoff, MaxBackoff time.Duration
	// Logger may be nil.
	Logger *slog.Logger
}

// DivergedError says that the coordinator holds another history of this log than
// this log. No retry can mend that; an administrator has to look.
type DivergedError struct {
	Origin      string
	Here, There uint64 // sizes
	Reason      string
}

func (e *DivergedError) Error() string {
	return fmt.Sprintf("audit log %s and its copy at the coordinator differ (%d records here, %d there): %s", e.Origin, e.Here, e.There, e.Reason)
}

// callTimeout bounds one Append: a megabyte over a bad link.
const callTimeout = time.Minute

// Ship sends the log to the coordinator for as long as ctx lives, and returns
// nil then. It returns a *DivergedError after making the log refuse: records
// that can never be acknowledged must not go on being made. Everything else is
// tried again.
func Ship(ctx context.Context, cfg ShipConfig) error {
	if cfg.Linger == 0 {
		cfg.Linger = 50 * time.Millisecond
	}
	if cfg.MinBackoff == 0 {
		cfg.MinBackoff = 200 * time.Millisecond
	}
	if cfg.MaxBackoff == 0 {
		cfg.MaxBackoff = 30 * time.Second
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	s := &shipper{ShipConfig: cfg, ask: true, next: cfg.Log.Size()}
	for ctx.Err() == nil {
		err := s.step(ctx)
		var diverged *DivergedError
		switch {
		case err == nil:
		case ctx.Err() != nil:
		case errors.As(err, &diverged):
			cfg.Logger.Error("audit log diverged from the coordinator's copy", "origin", diverged.Origin,
				"here", diverged.Here, "there", diverged.There, "reason", diverged.Reason)
			cfg.Log.Refuse(diverged)
			return diverged
		default:
			s.failures++
			wait := s.backoff()
			cfg.Logger.Warn("shipping audit records failed, trying again", "origin", cfg.Log.Origin(), "error", err, "in", wait)
			sleep(ctx, wait)
		}
	}
	return nil
}

type shipper struct {
	ShipConfig
	// next is where the coordinator's copy ends, as far as is known.
	next uint64
	// ask sends even if there is nothing to send: at the start, with all that
	// there is and no records, to learn how far the coordinator is; and after it
	// said so, for a countersignature that was lost on its way.
	ask      bool
	failures int
}

// step waits for something to send, sends it and takes the answer.
func (s *shipper) step(ctx context.Context) error {
	if !s.ask {
		changed := s.Log.Changed()
		if s.Log.Size() <= s.next {
			select {
			case <-changed:
			case <-ctx.Done():
				return nil
			}
			sleep(ctx, s.Linger)
		}
	}
	records, err := s.Log.Read(s.next, audit.MaxAppendBytes)
	if err != nil {
		if errors.Is(err, auditlog.ErrTrimmed) {
			s.Logger.Error("coordinator asks for audit records that it acknowledged and that are gone here",
				"origin", s.Log.Origin(), "from", s.next)
			s.ask, s.next = true, s.Log.Size()
		}
		return err
	}
	records = records[:min(len(records), audit.MaxAppendRecords)]
	checkpoint, err := s.Log.Checkpoint(s.next + uint64(len(records)))
	if err != nil {
		return err
	}
	callCtx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	res, err := s.Client.Append(callCtx, connect.NewRequest(&apiv1.AppendRequest{
		Log: s.Log.Origin(), FirstSeq: s.next, Records: records, Checkpoint: checkpoint,
	}))
	if err != nil {
		return s.refused(err)
	}
	if err := s.Log.Acknowledge(res.Msg.GetCountersigned()); err != nil {
		if errors.Is(err, auditlog.ErrNotOurTree) {
			return &DivergedError{s.Log.Origin(), s.Log.Size(), s.next, "it countersigned another tree"}
		}
		return err
	}
	s.ask, s.next, s.failures = false, s.next+uint64(len(records)), 0
	return nil
}

// refused reads what the coordinator has against a batch.
func (s *shipper) refused(err error) error {
	conflict := conflictOf(err)
	if conflict == nil {
		return fmt.Errorf("sending audit records: %w", err)
	}
	here, there := s.Log.Size(), conflict.GetSize()
	switch {
	case there > here:
		return &DivergedError{s.Log.Origin(), here, there, "this log was rolled back: " + conflict.GetReason()}
	case !s.resumable(conflict.GetReason()):
		return &DivergedError{s.Log.Origin(), here, there, conflict.GetReason()}
	case s.ask && there == s.next:
		return fmt.Errorf("sending audit records: the coordinator asks for what was just sent: %w", err)
	}
	if acked := s.Log.Acked(); there < acked {
		s.Logger.Error("coordinator lost audit records that it had acknowledged; sending them again",
			"origin", s.Log.Origin(), "acknowledged", acked, "there", there)
	}
	s.ask, s.next = true, there
	return nil
}

// resumable reports whether the coordinator only says where to go on. Every other
// reason, one of a later version too, means that the histories differ.
func (s *shipper) resumable(reason string) bool {
	for _, r := range []string{"behind:", "ahead:"} {
		if len(reason) >= len(r) && reason[:len(r)] == r {
			return true
		}
	}
	return false
}

func conflictOf(err error) *apiv1.AppendConflict {
	var ce *connect.Error
	if !errors.As(err, &ce) || ce.Code() != connect.CodeFailedPrecondition {
		return nil
	}
	for _, d := range ce.Details() {
		if v, err := d.Value(); err == nil {
			if c, ok := v.(*apiv1.AppendConflict); ok {
				return c
			}
		}
	}
	return nil
}

// backoff is random between nothing and a bound that doubles, so that agents
// that lost one coordinator together do not come back together.
func (s *shipper) backoff() time.Duration {
	bound := s.MaxBackoff
	if shift := s.failures - 1; shift < 20 {
		bound = min(bound, s.MinBackoff<<shift)
	}
	return bound/4 + rand.N(bound-bound/4+1)
}
