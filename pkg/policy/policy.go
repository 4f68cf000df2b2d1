package policy

import (
	"fmt"
	"slices"
	"strings"
	"time"

	rbacv1 "k8s.io/api/rbac/v1"

	apiv1 "github.com/sallyport-mesh/sallyport/pkg/api/sallyport/v1"
)

// Policy is a compiled bundle. See Compile.
type Policy struct {
	bundle   *apiv1.Bundle
	now      func() time.Time
	roles    map[string]*role
	rules    map[string][]rbacv1.PolicyRule // by role
	grants   map[string]*grant
	subjects map[string]*subject
	engine   *engine
	memo     *memo
	closed   string // why nothing is allowed, see Closed

	namespaces Namespaces          // nil: not known
	selected   map[string][]string // by selector
}

// Subject is a user as this cluster's policy knows him.
type Subject struct {
	UserID string
	Name   string
	// Generation is the auth generation; certificates of an earlier one are refused.
	Generation uint64
	Groups     []Group
}

// Group is a group that a user is in.
type Group struct{ ID, Name string }

// Entitlement is what a user may have in Kubernetes: the rules of a role in a
// scope. What denies, and what is decided beyond RBAC, is not in it.
type Entitlement struct {
	Role      string
	Namespace string // "" is the whole cluster
	Rules     []rbacv1.PolicyRule
	// Expires is when the last grant that gives it ends; zero is never.
	Expires time.Time
}

type subject struct {
	Subject
	identities      map[string]bool // as lines spell subjects: user/…, group/…
	revokedDevices  map[string]bool
	revokedSessions map[string]bool
	grants          []*grant
	lines           string // the key of the lines that concern him, see engine
	named           bool   // some rule of his is about names
}

type grant struct {
	*apiv1.BundleGrant
	subject string // user/… or group/…
	role    *role
	expires time.Time // zero: never
	// namespaces are those of the bundle's grant, or those that its selector
	// selects, unless they are unresolved.
	namespaces []string
	unresolved bool
}

func (g *grant) live(at time.Time) bool { return g.expires.IsZero() || at.Before(g.expires) }

// Option changes how a Policy is compiled.
type Option func(*Policy)

// WithClock sets the clock that ends grants. The default is time.Now; an agent
// gives the coordinator's time as far as it can know it.
func WithClock(now func() time.Time) Option { return func(p *Policy) { p.now = now } }

// Compile prepares a bundle for deciding. The bundle must not be modified
// afterwards. It fails where the bundle needs a feature that this build does not
// know, or does not hold together: a policy is taken whole or not at all.
func Compile(b *apiv1.Bundle, opts ...Option) (*Policy, error) {
	if b == nil {
		return nil, fmt.Errorf("no bundle")
	}
	if unknown := unknownFeatures(b.GetRequires()); len(unknown) > 0 {
		return nil, fmt.Errorf("bundle of revision %d needs %s, which this version does not know: upgrade the agent",
			b.GetRevision(), strings.Join(unknown, ", "))
	}
	if missing := missingFeatures(b); len(missing) > 0 {
		return nil, fmt.Errorf("bundle of revision %d uses %s without requiring it", b.GetRevision(), strings.Join(missing, ", "))
	}
	p := &Policy{
		bundle: b, now: time.Now,
		roles: map[string]*role{}, rules: map[string][]rbacv1.PolicyRule{},
		grants: map[string]*grant{}, subjects: map[string]*subject{}, selected: map[string][]string{},
	}
	for _, o := range opts {
		o(p)
	}
	if err := p.index(); err != nil {
		return nil, fmt.Errorf("bundle of revision %d: %w", b.GetRevision(), err)
	}
	var err error
	if p.engine, err = newEngine(p); err != nil {
		return nil, err
	}
	p.memo = newMemo()
	return p, nil
}

func (p *Policy) index() error {
	b := p.bundle
	for _, r := range b.GetRoles() {
		if r.GetName() == "" || p.roles[r.GetName()] != nil {
			return fmt.Errorf("role %q has no name or stands twice", r.GetName())
		}
		p.roles[r.GetName()] = compileRole(r)
		p.rules[r.GetName()] = PolicyRules(r)
	}
	groups := map[string]string{}
	for _, g := range b.GetGroups() {
		if _, twice := groups[g.GetId()]; g.GetId() == "" || twice {
			return fmt.Errorf("group %q has no id or stands twice", g.GetId())
		}
		groups[g.GetId()] = g.GetName()
	}
	bySubject := map[string][]*grant{}
	for _, g := range b.GetGrants() {
		c, err := p.compileGrant(g)
		if err != nil {
			return err
		}
		p.grants[g.GetId()] = c
		bySubject[c.subject] = append(bySubject[c.subject], c)
	}
	for _, s := range b.GetSubjects() {
		if s.GetUserId() == "" || p.subjects[s.GetUserId()] != nil {
			return fmt.Errorf("subject %q has no id or stands twice", s.GetUserId())
		}
		c := &subject{
			Subject:         Subject{UserID: s.GetUserId(), Name: s.GetName(), Generation: s.GetAuthGeneration()},
			identities:      map[string]bool{userLine + s.GetUserId(): true},
			revokedDevices:  set(s.GetRevokedDeviceIds()),
			revokedSessions: set(s.GetRevokedSessionIds()),
			grants:          slices.Clone(bySubject[userLine+s.GetUserId()]),
		}
		for _, id := range s.GetGroupIds() {
			name, ok := groups[id]
			if !ok || c.identities[groupLine+id] {
				return fmt.Errorf("subject %s is in group %q, which is not here or stands twice", s.GetUserId(), id)
			}
			c.identities[groupLine+id] = true
			c.Groups = append(c.Groups, Group{id, name})
			c.grants = append(c.grants, bySubject[groupLine+id]...)
		}
		slices.SortFunc(c.grants, func(a, b *grant) int { return strings.Compare(a.Id, b.Id) })
		ids := make([]string, len(c.grants))
		for i, g := range c.grants {
			ids[i], c.named = g.Id, c.named || g.role.named
		}
		c.lines = strings.Join(ids, " ")
		p.subjects[s.GetUserId()] = c
	}
	return nil
}

func (p *Policy) compileGrant(g *apiv1.BundleGrant) (*grant, error) {
	c := &grant{BundleGrant: g, role: p.roles[g.GetRole()], namespaces: g.GetNamespaces()}
	switch {
	case g.GetId() == "" || p.grants[g.GetId()] != nil || strings.ContainsAny(g.GetId(), " \n"):
		return nil, fmt.Errorf("grant %q has no id or stands twice", g.GetId())
	case (g.GetUserId() == "") == (g.GetGroupId() == ""):
		return nil, fmt.Errorf("grant %s must be for a user or for a group", g.GetId())
	case c.role == nil:
		return nil, fmt.Errorf("grant %s gives role %q, which is not here", g.GetId(), g.GetRole())
	case slices.Contains(g.GetNamespaces(), ""):
		return nil, fmt.Errorf("grant %s names an empty namespace", g.GetId())
	case len(g.GetNamespaces()) > 0 && g.GetNamespaceSelector() != "":
		return nil, fmt.Errorf("grant %s is on namespaces both by name and by label", g.GetId())
	}
	if text := g.GetNamespaceSelector(); text != "" {
		var err error
		if c.namespaces, err = p.selectNamespaces(text); err != nil {
			return nil, fmt.Errorf("grant %s selects namespaces by %q: %w", g.GetId(), text, err)
		}
		c.unresolved = p.namespaces == nil
	}
	c.subject = userLine + g.GetUserId()
	if g.GetGroupId() != "" {
		c.subject = groupLine + g.GetGroupId()
	}
	if e := g.GetExpiresAt(); e != nil {
		if err := e.CheckValid(); err != nil {
			return nil, fmt.Errorf("grant %s expires at no time: %w", g.GetId(), err)
		}
		c.expires = e.AsTime()
	}
	return c, nil
}

func set(ids []string) map[string]bool {
	m := make(map[string]bool, len(ids))
	for _, id := range ids {
		m[id] = true
	}
	return m
}

// Revision is the directory's revision that this policy comes from.
func (p *Policy) Revision() uint64 { return p.bundle.GetRevision() }

// Bundle is what was compiled. It must not be modified.
func (p *Policy) Bundle() *apiv1.Bundle { return p.bundle }

// Subject returns a user who holds a grant here, even if only an expired one.
func (p *Policy) Subject(userID string) (Subject, bool) {
	s, ok := p.subjects[userID]
	if !ok {
		return Subject{}, false
	}
	return s.Subject, true
}

// Users are the ids of all subjects, sorted.
func (p *Policy) Users() []string {
	ids := make([]string, 0, len(p.subjects))
	for id := range p.subjects {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	return ids
}

// NextExpiry is the first moment after t at which a grant ends, and false if
// none will. Streams that ran by it are to be cut then.
func (p *Policy) NextExpiry(t time.Time) (time.Time, bool) {
	var next time.Time
	for _, g := range p.grants {
		if g.expires.After(t) && (next.IsZero() || g.expires.Before(next)) {
			next = g.expires
		}
	}
	return next, !next.IsZero()
}

// Closed is the policy that refuses everything, for a bundle that is genuine and
// newer but cannot be used. Its refusals give the reason.
func Closed(b *apiv1.Bundle, reason string) *Policy {
	return &Policy{bundle: b, now: time.Now, closed: reason}
}
