package serviceaccount

import (
	"cmp"
	"crypto/sha256"
	"encoding/base32"
	"encoding/json"
	"reflect"
	"strconv"
	"strings"
	"time"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/sallyport-mesh/sallyport/deploy/manifest"
	"github.com/sallyport-mesh/sallyport/pkg/policy"
)

const (
	labelManaged = "app.kubernetes.io/managed-by"
	managedBy    = "sallyport"
	labelAgent   = "sallyport.io/agent"
	labelUser    = "sallyport.io/user"
	noteName     = "sallyport.io/user-name"
	rolePrefix   = manifest.ObjectPrefix + "role-"
)

// plan is what a policy comes to under a ceiling.
type plan struct {
	policy  *policy.Policy
	ceiling *[]rbacv1.PolicyRule
	// roleOf gives the ClusterRole of a policy's role, "" where the ceiling
	// leaves nothing of it.
	roleOf map[string]string
	rules  map[string][]rbacv1.PolicyRule // by ClusterRole
	// above lists, by role, what was left out because it reaches above the ceiling.
	above map[string][]rbacv1.PolicyRule
}

func newPlan(pol *policy.Policy, ceiling *[]rbacv1.PolicyRule) *plan {
	p := &plan{pol, ceiling, map[string]string{}, map[string][]rbacv1.PolicyRule{}, map[string][]rbacv1.PolicyRule{}}
	granted := map[string]bool{}
	for _, g := range pol.Bundle().GetGrants() {
		granted[g.GetRole()] = true
	}
	for _, r := range pol.Bundle().GetRoles() {
		if !granted[r.GetName()] {
			continue
		}
		within, above := policy.Under(policy.PolicyRules(r), *ceiling)
		if len(above) > 0 {
			p.above[r.GetName()] = above
		}
		p.roleOf[r.GetName()] = ""
		if len(within) > 0 {
			name := roleName(within)
			p.roleOf[r.GetName()], p.rules[name] = name, within
		}
	}
	return p
}

// scopes is what a user's account is to be bound to now, and when the first of
// it ends (zero: never).
func (p *plan) scopes(userID string) (map[scope]bool, time.Time) {
	want := map[scope]bool{}
	var ends time.Time
	for _, e := range p.policy.Entitlements(userID) {
		role := p.roleOf[e.Role]
		if !e.Expires.IsZero() && (ends.IsZero() || e.Expires.Before(ends)) {
			ends = e.Expires
		}
		if role != "" {
			want[scope{e.Namespace, role}] = true
		}
	}
	for s := range want {
		if s.Namespace != "" && want[scope{"", s.Role}] {
			delete(want, s)
		}
	}
	return want, ends
}

func roleName(rules []rbacv1.PolicyRule) string {
	// Plain strings always encode.
	b, _ := json.Marshal(rules)
	return rolePrefix + hash(16, string(b))
}

// accountName is sp-<slug>-<hash>. The attempt goes up when somebody else had
// an account of that name.
func (m *Minter) accountName(s policy.Subject, attempt int) string {
	return manifest.ObjectPrefix + slug(s.Name) + "-" + hash(10, m.cfg.ClusterID, m.cfg.AgentID, s.UserID, strconv.Itoa(attempt))
}

func bindingName(account string, s scope) string {
	return account + "-" + hash(8, s.Namespace, s.Role)
}

func hash(n int, parts ...string) string {
	sum := sha256.Sum256([]byte(strings.Join(parts, "\x00")))
	return strings.ToLower(base32.StdEncoding.EncodeToString(sum[:]))[:n]
}

// slug makes a name of ours readable for whoever finds it in the cluster. It
// identifies nobody.
func slug(name string) string {
	s := strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= '0' && r <= '9':
			return r
		case r >= 'A' && r <= 'Z':
			return r + 'a' - 'A'
		}
		return '-'
	}, name)
	s = strings.Trim(s[:min(len(s), 20)], "-")
	return cmp.Or(s, "user")
}

func (m *Minter) meta(name, namespace, userID string) metav1.ObjectMeta {
	return metav1.ObjectMeta{
		Name: name, Namespace: namespace,
		Labels: map[string]string{labelManaged: managedBy, labelAgent: m.cfg.AgentID, labelUser: userID},
	}
}

func subjects(account string) []rbacv1.Subject {
	return []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Name: account, Namespace: manifest.UsersNamespace}}
}

func roleRef(role string) rbacv1.RoleRef {
	return rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: role}
}

func sameRule(a, b rbacv1.PolicyRule) bool { return reflect.DeepEqual(a, b) }
