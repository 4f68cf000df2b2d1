package policy

import (
	"fmt"
	"strings"
	"time"
	"unicode"
)

// Decision is an answer and its reason.
type Decision struct {
	Allowed bool
	// Reason is for people: the grant that allowed, the rule that denied, what is
	// missing. It tells nothing about what the asker may not see.
	Reason string
	// Rule names the rule that decided, "grant grt-… role edit rule 3", or is
	// empty where none did.
	Rule        string
	Grant, Role string
	Revision    uint64
}

// Decide answers whether the request may go ahead now. An error inside is a
// refusal.
func (p *Policy) Decide(a Attributes) Decision {
	at := p.now()
	s, refusal := p.admit(&a, at)
	if refusal != "" {
		return p.refuse(refusal)
	}
	if a.selfReview() {
		return Decision{
			Allowed: true, Revision: p.Revision(), Rule: "self-review",
			Reason: "everyone with a grant here may ask about himself",
		}
	}
	k := s.key(&a)
	if d, ok := p.memo.get(k, at); ok {
		return d
	}
	asked := a // of its own, so that a remembered decision allocates nothing
	d, ok := p.decide(s, &asked, at)
	if ok {
		p.memo.put(k, d, at, s.until(at))
	}
	return d
}

// admit holds what precedes every rule: who asks, and what nobody may do.
func (p *Policy) admit(a *Attributes, at time.Time) (*subject, string) {
	s := p.subjects[a.UserID]
	switch {
	case p.closed != "":
		return nil, "this cluster's policy cannot be used: " + p.closed
	case a.UserID == "" || s == nil:
		return nil, "nothing here is granted to you, or no longer"
	case a.Generation < s.Generation:
		return nil, "your sign-in was ended: run 'sallyport login'"
	case s.revokedDevices[a.DeviceID]:
		return nil, "this device was revoked: ask an administrator"
	case s.revokedSessions[a.SessionID]:
		return nil, "this session was ended: run 'sallyport login'"
	case !s.holds(at):
		return nil, "every grant you held here has expired"
	case a.Verb == "":
		return nil, "the request has no verb"
	case neverAllowed(a.Verb):
		return nil, "no role admits the verb " + printable(a.Verb)
	}
	return s, ours(*a)
}

func (s *subject) holds(at time.Time) bool {
	for _, g := range s.grants {
		if g.live(at) {
			return true
		}
	}
	return false
}

// decide asks Casbin. It returns false where the answer must not be remembered.
func (p *Policy) decide(s *subject, a *Attributes, at time.Time) (Decision, bool) {
	allowed, by, err := p.engine.enforce(s, at, a)
	if err != nil {
		return p.refuse("the policy could not be evaluated: " + err.Error()), false
	}
	if by == nil {
		if a.discovery() {
			return Decision{
				Allowed: true, Revision: p.Revision(), Rule: "discovery",
				Reason: "everyone with a grant here may see what the cluster serves",
			}, true
		}
		return p.refuse(missing(s, a)), true
	}
	d := Decision{
		Allowed: allowed, Revision: p.Revision(), Grant: by.grant.Id, Role: by.grant.role.name,
		Rule: fmt.Sprintf("grant %s role %s rule %d", by.grant.Id, by.grant.role.name, by.grant.role.find(a, by.deny)),
	}
	where := "the whole cluster"
	if ns, ok := strings.CutPrefix(by.scope, inNamespace); ok {
		where = "namespace " + ns
	}
	if allowed {
		d.Reason = fmt.Sprintf("role %s in %s, by grant %s", d.Role, where, d.Grant)
	} else {
		d.Reason = fmt.Sprintf("role %s forbids it in %s, by grant %s", d.Role, where, d.Grant)
	}
	return d, true
}

func (p *Policy) refuse(reason string) Decision {
	return Decision{Reason: reason, Revision: p.Revision()}
}

// missing says which grant would be needed.
func missing(s *subject, a *Attributes) string {
	if !a.ResourceRequest {
		return fmt.Sprintf("no grant lets %s %s %s", s.Name, printable(a.Verb), printable(a.Path))
	}
	what := a.resource()
	if a.APIGroup != "" {
		// deployments.apps/scale, as kubectl says it
		what = a.Resource + "." + a.APIGroup
		if a.Subresource != "" {
			what += "/" + a.Subresource
		}
	}
	where := "at cluster scope"
	if a.Namespace != "" {
		where = "in namespace " + printable(a.Namespace)
	}
	msg := fmt.Sprintf("no grant lets %s %s %s %s", s.Name, printable(a.Verb), printable(what), where)
	if guarded(a.APIGroup, a.resource(), a.Verb) {
		msg += ": a role must name it, wildcards do not reach it"
	}
	return msg
}

// printable makes a client's bytes fit for a sentence.
func printable(s string) string {
	const longest = 200
	if len(s) > longest {
		s = s[:longest] + "…"
	}
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return unicode.ReplacementChar
		}
		return r
	}, strings.ToValidUTF8(s, string(unicode.ReplacementChar)))
}
