package proxy

import (
	"github.com/sallyport-mesh/sallyport/pkg/policy"
)

// Step 4, decide: the policy must say yes, and be young enough to be asked.

func (x *exchange) decide() *refusal {
	pol := x.p.cfg.Policies.Current()
	if pol == nil {
		return soon("this cluster's agent holds no policy yet")
	}
	if bad := x.p.checkFresh(x.reading.attrs, x.reading.streams); bad != nil {
		return bad
	}
	d := pol.Decide(x.reading.attrs)
	x.policy, x.decision = pol, &d
	subject, known := pol.Subject(x.reading.attrs.UserID)
	x.subject = subject
	if !d.Allowed || !known {
		d.Allowed = false
		return denied(d)
	}
	return nil
}

// checkFresh holds a request against the staleness budget of its class. What
// streams counts as exec: it would outlive the moment at which it was decided.
func (p *Proxy) checkFresh(a policy.Attributes, streams bool) *refusal {
	class := a.Class()
	if streams {
		class = policy.Exec
	}
	if err := p.cfg.Policies.Fresh(class); err != nil {
		return unavailable("the policy is too old to decide this (" + class.String() + "): " + err.Error() +
			"; this agent cannot reach its coordinator")
	}
	return nil
}

// begin is called right before the first upstream byte: the policy may have
// changed while the request waited for the log or its account.
func (x *exchange) begin() *refusal {
	pol := x.p.cfg.Policies.Current()
	if pol != x.policy {
		if bad := x.p.checkEntry(pol, x.entry); bad != nil {
			return bad
		}
	}
	if bad := x.p.checkFresh(x.reading.attrs, x.reading.streams); bad != nil {
		return bad
	}
	if bad := x.entry.begin(); bad != nil {
		return bad
	}
	if x.ctx.Err() != nil {
		return clientGone()
	}
	return nil
}
