package policy

import (
	"fmt"
	"slices"
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
	// Next is what the asker can do about a refusal, or empty.
	Next string
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
	s, refusal, next := p.admit(&a, at)
	if refusal != "" {
		d := p.refuse(refusal)
		d.Next = next
		return d
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

// What the asker can do about a refusal that precedes every rule.
const (
	nextAsk     = "ask whoever manages the project for a grant"
	nextSession = "'sallyport status' shows your session"
)

// admit holds what precedes every rule: who asks, and what nobody may do.
func (p *Policy) admit(a *Attributes, at time.Time) (s *subject, refusal, next string) {
	s = p.subjects[a.UserID]
	switch {
	case p.closed != "":
		return nil, "this cluster's policy cannot be used: " + p.closed, "tell whoever runs this cluster's agent"
	case a.UserID == "" || s == nil:
		return nil, "nothing here is granted to you, or no longer", nextAsk
	case a.Generation < s.Generation:
		return nil, "your sign-in was ended: run 'sallyport login'", nextSession
	case s.revokedDevices[a.DeviceID]:
		return nil, "this device was revoked: ask an administrator", nextSession
	case s.revokedSessions[a.SessionID]:
		return nil, "this session was ended: run 'sallyport login'", nextSession
	case !s.holds(at):
		return nil, "every grant you held here has expired", nextAsk
	case a.Verb == "":
		return nil, "the request has no verb", "no grant allows it"
	case neverAllowed(a.Verb):
		return nil, "no role admits the verb " + printable(a.Verb), "no grant allows it"
	}
	refusal, next = ours(*a)
	return s, refusal, next
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
		return p.missing(s, a, at), true
	}
	if allowed && a.MayCreate {
		if d, ok, refused := p.mayNotCreate(s, a, at); refused {
			return d, ok
		}
	}
	role := by.grant.role
	d := Decision{Allowed: allowed, Revision: p.Revision(), Grant: by.grant.Id, Role: role.name}
	number := role.find(a, by.deny)
	d.Rule = fmt.Sprintf("grant %s role %s rule %d", d.Grant, d.Role, number)
	if allowed {
		d.Reason = fmt.Sprintf("role %s in %s, by grant %s", d.Role, by.where(), d.Grant)
		return d, true
	}
	forbids := fmt.Sprintf("rule %d of role %s forbids", number, d.Role)
	d.Reason = fmt.Sprintf("%s it in %s, by grant %s", forbids, by.where(), d.Grant)
	switch named := len(role.rule(number).GetResourceNames()) > 0 && a.target() == ""; {
	case a.collection() && a.Namespace == "" && by.scope != wholeCluster:
		d.Reason = fmt.Sprintf("%s it in %s, by grant %s, and a list of all namespaces is not trimmed", forbids, by.where(), d.Grant)
		d.Next = "name a namespace with -n"
	case named && a.collection():
		d.Reason = fmt.Sprintf("%s some of them by name in %s, by grant %s, and a list is not trimmed", forbids, by.where(), d.Grant)
		d.Next = nameOne
	case named:
		d.Reason = fmt.Sprintf("%s some of them by name in %s, by grant %s, and the request names none", forbids, by.where(), d.Grant)
		if a.Verb == "create" {
			d.Next = "'kubectl apply --server-side' names what it creates"
		}
	}
	return d, true
}

// nameOne is how a list is narrowed to what a rule on names can decide.
const nameOne = "ask for one: --field-selector metadata.name=NAME"

// where says in which part of the cluster a line holds.
func (l *line) where() string {
	if ns, ok := strings.CutPrefix(l.scope, inNamespace); ok {
		return "namespace " + ns
	}
	if l.scope == wholeCluster {
		return "the whole cluster"
	}
	return l.scope
}

// mayNotCreate refuses an update that may create where only Kubernetes would let
// it: a rule with a pattern of names goes there without names.
func (p *Policy) mayNotCreate(s *subject, a *Attributes, at time.Time) (d Decision, remember, refused bool) {
	c := *a
	c.Verb, c.MayCreate = "create", false
	if !s.anyRule(at, func(g *grant, x rule) bool { return hasPattern(x.Rule) && g.within(&c) && x.coversAnyName(&c) }) {
		return d, true, false
	}
	switch allowed, _, err := p.engine.enforce(s, at, &c); {
	case err != nil:
		return p.refuse("the policy could not be evaluated: " + err.Error()), false, true
	case allowed:
		return d, true, false
	}
	d = p.missing(s, &c, at)
	d.Reason += ", as this would if it is not there"
	return d, true, true
}

// anyRule reports whether an allow rule of a live grant is as asked.
func (s *subject) anyRule(at time.Time, is func(*grant, rule) bool) bool {
	for _, g := range s.grants {
		if g.live(at) && slices.ContainsFunc(g.role.allow, func(x rule) bool { return is(g, x) }) {
			return true
		}
	}
	return false
}

// within reports whether what the grant allows holds where the request is.
func (g *grant) within(a *Attributes) bool {
	return slices.ContainsFunc(g.scopes(), func(scope string) bool { return withinScope(a, scope, false) })
}

func (p *Policy) refuse(reason string) Decision {
	return Decision{Reason: reason, Revision: p.Revision()}
}

// missing refuses for want of a grant, and says which would be needed.
func (p *Policy) missing(s *subject, a *Attributes, at time.Time) Decision {
	if !a.ResourceRequest {
		return p.refuse(fmt.Sprintf("no grant lets %s %s %s", s.Name, printable(a.Verb), printable(a.Path)))
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
	d := p.refuse(fmt.Sprintf("no grant lets %s %s %s %s", s.Name, printable(a.Verb), printable(what), where))
	switch some, namespaces := p.narrower(s, a, at); {
	case guarded(a.APIGroup, a.resource(), a.Verb):
		d.Reason += ": a role must name it, wildcards do not reach it"
	case some:
		d.Reason += ": what you hold reaches some of them by name, and a list is not trimmed"
		d.Next = nameOne
	case len(namespaces) > 0:
		d.Reason += ": what you hold is on namespaces, and a list of all of them is not trimmed"
		d.Next = "where it lives in namespaces, name one: -n " + namespaces[0]
	}
	if p.namespaces == nil && slices.ContainsFunc(s.grants, func(g *grant) bool { return g.unresolved && g.live(at) }) {
		d.Reason += "; grants on namespaces by label do not count, since the labels are not known here"
	}
	return d
}

// narrower looks for what a list could be narrowed to: names, or one of the
// namespaces.
func (p *Policy) narrower(s *subject, a *Attributes, at time.Time) (names bool, namespaces []string) {
	if !a.collection() || a.target() != "" {
		return false, nil
	}
	for _, g := range s.grants {
		if !g.live(at) {
			continue
		}
		for _, x := range g.role.allow {
			if !x.coversAnyName(a) {
				continue
			}
			names = names || len(x.ResourceNames) > 0 && g.within(a)
			if a.Namespace == "" && len(x.ResourceNames) == 0 {
				namespaces = append(namespaces, g.namespaces...)
			}
		}
	}
	slices.Sort(namespaces)
	return names, namespaces
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
