package policy

import (
	"fmt"
	"time"

	"github.com/casbin/casbin/v2"
	"github.com/casbin/casbin/v2/model"
	lru "github.com/hashicorp/golang-lru/v2"
)

// casbinModel is the whole of what Casbin is told. A line says that a subject
// holds the rules of one effect of a role in a scope, by a grant; there is one
// for each effect that the role has and each scope that the grant has.
const casbinModel = `
[request_definition]
r = sub, at, req

[policy_definition]
p = sub, grant, scope, role, eft

[policy_effect]
e = some(where (p.eft == allow)) && !some(where (p.eft == deny))

[matchers]
m = concerns(r.sub, p.sub) && lasts(r.at, p.grant) && within(r.req, p.scope, p.eft) && covered(r.req, p.role, p.eft)
`

// How lines spell subjects, scopes and effects.
const (
	userLine     = "user/"
	groupLine    = "group/"
	wholeCluster = "cluster"
	inNamespace  = "namespace/"
	// Of a grant that selects namespaces by label, for its denies alone: lists
	// over all namespaces may hold some of them, and while labels are not known
	// each namespace may be one.
	labelledScope = "namespaces by label"
	unknownScope  = "namespaces by labels that are not known"
	effectAllow   = "allow"
	effectDeny    = "deny"
)

// Enforcers are built on demand, one for each set of grants that somebody
// holds, and shared by all who hold the same. This many are kept, at some 25 KiB
// each; building one takes less than a millisecond.
const maxEnforcers = 256

// engine is where Casbin lives.
type engine struct {
	policy    *Policy
	model     model.Model
	enforcers *lru.Cache[string, *casbin.Enforcer]
}

func newEngine(p *Policy) (*engine, error) {
	m, err := model.NewModelFromString(casbinModel)
	if err != nil {
		return nil, fmt.Errorf("reading the Casbin model: %w", err)
	}
	cache, err := lru.New[string, *casbin.Enforcer](maxEnforcers)
	if err != nil {
		return nil, fmt.Errorf("making the cache of enforcers: %w", err)
	}
	return &engine{policy: p, model: m, enforcers: cache}, nil
}

// line is the line that decided.
type line struct {
	grant *grant
	scope string
	deny  bool
}

// enforce asks Casbin. Without a line nothing matched.
func (e *engine) enforce(s *subject, at time.Time, a *Attributes) (allowed bool, by *line, err error) {
	enforcer, err := e.enforcer(s)
	if err != nil {
		return false, nil, err
	}
	ok, why, err := enforcer.EnforceEx(s, at, a)
	if err != nil {
		return false, nil, fmt.Errorf("enforcing: %w", err)
	}
	if len(why) == 0 {
		if ok {
			return false, nil, fmt.Errorf("enforcing: allowed by no line")
		}
		return false, nil, nil
	}
	g := e.policy.grants[why[1]]
	if g == nil || ok != (why[4] == effectAllow) {
		return false, nil, fmt.Errorf("enforcing: the answer and its line disagree")
	}
	return ok, &line{g, why[2], why[4] == effectDeny}, nil
}

func (e *engine) enforcer(s *subject) (*casbin.Enforcer, error) {
	if enforcer, ok := e.enforcers.Get(s.lines); ok {
		return enforcer, nil
	}
	m := e.model.Copy()
	var lines [][]string
	for _, g := range s.grants {
		for _, scope := range g.scopes() {
			if len(g.role.deny) > 0 {
				lines = append(lines, []string{g.subject, g.Id, scope, g.role.name, effectDeny})
			}
			if len(g.role.allow) > 0 && scope != labelledScope && scope != unknownScope {
				lines = append(lines, []string{g.subject, g.Id, scope, g.role.name, effectAllow})
			}
		}
	}
	if err := m.AddPolicies("p", "p", lines); err != nil {
		return nil, fmt.Errorf("adding policy lines: %w", err)
	}
	enforcer, err := casbin.NewEnforcer(m)
	if err != nil {
		return nil, fmt.Errorf("making an enforcer: %w", err)
	}
	enforcer.AddFunction("concerns", e.concerns)
	enforcer.AddFunction("lasts", e.lasts)
	enforcer.AddFunction("within", e.within)
	enforcer.AddFunction("covered", e.covered)
	// Two who arrive here at once build it twice, which harms nobody.
	e.enforcers.Add(s.lines, enforcer)
	return enforcer, nil
}

// The functions of the matcher. Casbin turns a panic in them into an error, and
// an error into a refusal.

func (e *engine) concerns(args ...any) (any, error) {
	return args[0].(*subject).identities[args[1].(string)], nil
}

func (e *engine) lasts(args ...any) (any, error) {
	g, ok := e.policy.grants[args[1].(string)]
	return ok && g.live(args[0].(time.Time)), nil
}

func (e *engine) covered(args ...any) (any, error) {
	r, ok := e.policy.roles[args[1].(string)]
	return ok && r.find(args[0].(*Attributes), args[2].(string) == effectDeny) != 0, nil
}

func (e *engine) within(args ...any) (any, error) {
	return withinScope(args[0].(*Attributes), args[1].(string), args[2].(string) == effectDeny), nil
}
