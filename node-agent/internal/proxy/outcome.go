package proxy

import (
	"time"

	"github.com/sallyport-mesh/sallyport/pkg/audit"
)

// Step 8, record outcome: how it ended. The intent is on disk already, so this
// one may wait for the next batch.

func (x *exchange) recordOutcome() {
	var e audit.Event
	if x.event != nil {
		e = *x.event
	} else {
		e = *x.newEvent(audit.StageComplete)
	}
	e.Stage = audit.StageComplete
	e.StageTimestamp = audit.At(time.Now())
	e.Ext.Account, e.Ext.TokenID = x.credential.Account, x.credential.ID
	e.Ext.BytesIn, e.Ext.BytesOut = x.in.Load(), x.out.Load()
	e.Ext.DurationMS = float64(time.Since(x.received).Microseconds()) / 1000
	e.Ext.CloseReason = x.ending
	e.ResponseStatus = &audit.Status{Code: int32(x.code)}
	if f := x.refusal; f != nil {
		e.ResponseStatus.Reason = string(f.reason)
		e.ResponseStatus.Message = f.message
		if x.event == nil {
			e.Ext.Decision = audit.Deny // nothing went upstream, whoever said no
			if e.Ext.Reason == "" || x.decision.Allowed {
				e.Ext.Reason = f.message
			}
		}
	}
	x.p.cfg.Log.Outcome(&e)
}
