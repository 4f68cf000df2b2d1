package directory

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"

	"github.com/sallyport-mesh/sallyport/coordinator/internal/store"
	apiv1 "github.com/sallyport-mesh/sallyport/pkg/api/sallyport/v1"
)

// What Apply did to an object.
const (
	Created   = "created"
	Changed   = "changed"
	Unchanged = "unchanged"
)

// Applied is what Apply did to one object of the set.
type Applied struct {
	Index  int // in the set
	Kind   string
	Action string
	ID     string
	// Before is nil for a new object. Both are objects of the directory.
	Before, After any
	// BeforeSpec and AfterSpec are how they are declared.
	BeforeSpec, AfterSpec *apiv1.Resource
	Welcome               Welcome // of a new user, if asked for
}

// ApplyOptions say how a set is applied.
type ApplyOptions struct {
	Import  bool // refuse users that exist, and leave groups the members they have
	Welcome bool // make a one-time link for each new user
	// Check looks at what would be committed on top of a revision, inside of the
	// transaction, and can refuse it. It may run again when another commit got in
	// between.
	Check func(on uint64, would []Applied) error
}

// Problem is what is wrong with one field of one object of a set.
type Problem struct {
	Index  int
	Field  string // as in YAML: "spec.members[2]"
	Reason string
	Hint   string
}

// ProblemsError holds all that is wrong with a set.
type ProblemsError struct{ Problems []Problem }

func (e *ProblemsError) Error() string {
	p := e.Problems[0]
	text := fmt.Sprintf("object %d: %s: %s", p.Index, p.Field, p.Reason)
	if n := len(e.Problems); n > 1 {
		text += fmt.Sprintf(", and %d more", n-1)
	}
	return text
}

// applyOrder lets objects of a set name each other.
var applyOrder = []string{"project", "user", "group", "role", "cluster", "grant"}

// Apply makes every object of the set be as it is declared, in one commit; if
// one of them cannot be, none is touched and a ProblemsError says why.
func (d *Directory) Apply(ctx context.Context, set []*apiv1.Resource, opts ApplyOptions) ([]Applied, uint64, error) {
	return change(ctx, d, func(tx store.Txn) ([]Applied, error) {
		a := &applier{d: d, tx: tx, opts: opts, seen: map[string]bool{}, matched: map[string]bool{}}
		for _, kind := range applyOrder {
			for i, r := range set {
				if KindOf(r) == kind {
					if err := ctx.Err(); err != nil {
						return nil, err
					}
					a.at = i
					if err := a.apply(kind, r); err != nil {
						return nil, err
					}
				}
			}
		}
		for i, r := range set {
			if KindOf(r) == "" {
				a.at = i
				a.problem("kind", "is none that can be declared", "")
			}
		}
		if len(a.problems) > 0 {
			slices.SortStableFunc(a.problems, func(x, y Problem) int { return x.Index - y.Index })
			return nil, &ProblemsError{a.problems}
		}
		slices.SortFunc(a.out, func(x, y Applied) int { return x.Index - y.Index })
		if opts.Check != nil {
			if err := opts.Check(tx.Revision(), a.out); err != nil {
				return nil, err
			}
		}
		return a.out, nil
	})
}

type applier struct {
	d        *Directory
	tx       store.Txn
	opts     ApplyOptions
	at       int // the object at hand
	out      []Applied
	problems []Problem
	seen     map[string]bool           // kind/name
	matched  map[string]bool           // ids of grants that an object of the set has claimed
	grants   map[string][]*apiv1.Grant // by grantKey, once a grant is looked for
}

func (a *applier) problem(field, reason, hint string) {
	a.problems = append(a.problems, Problem{a.at, field, reason, hint})
}

// wrong notes what is wrong with the object at hand. Only what is no fault of the
// set's comes back.
func (a *applier) wrong(field string, err error) error {
	var (
		invalid *InvalidError
		missing *NotFoundError
		exists  *ExistsError
		refused *RefusedError
	)
	switch {
	case err == nil:
		return nil
	case errors.As(err, &invalid):
		if field == "" {
			field = specField(invalid.Field)
		}
		a.problem(field, invalid.Reason, invalid.Hint)
	case errors.As(err, &missing):
		if field == "" {
			field = "spec." + missing.Kind
		}
		a.problem(field, missing.Error(), Hint(err))
	case errors.As(err, &exists):
		a.problem("metadata.name", exists.Error(), "")
	case errors.As(err, &refused):
		a.problem("metadata.name", refused.Reason, refused.Hint)
	default:
		return err
	}
	return nil
}

// specField is where in a file stands what an InvalidError names.
func specField(field string) string {
	switch field {
	case "name":
		return "metadata.name"
	case "display name":
		return "spec.displayName"
	case "namespace":
		return "spec.namespaces"
	case "namespace selector":
		return "spec.namespaceSelector"
	case "expiry":
		return "spec.expiresAt"
	case "subject", "target":
		return "spec"
	}
	return "spec." + field
}

func (a *applier) apply(kind string, r *apiv1.Resource) error {
	if kind == "grant" {
		if r.Name != "" {
			a.problem("metadata.name", "a grant has no name: it is known by what it gives", "leave metadata out")
		}
		return a.grant(r.GetGrant())
	}
	if a.seen[kind+"/"+r.Name] {
		a.problem("metadata.name", fmt.Sprintf("%s %q stands twice in what is applied", kind, r.Name), "")
		return nil
	}
	a.seen[kind+"/"+r.Name] = true
	switch kind {
	case "project":
		return a.project(r.Name)
	case "user":
		return a.user(r.Name, r.GetUser())
	case "group":
		return a.group(r.Name, r.GetGroup())
	case "role":
		return a.role(r.Name, r.GetRole())
	}
	return a.cluster(r.Name, r.GetCluster())
}

// existing finds what has a name, nil if nothing does.
func existing[T any, P message[T]](a *applier, t table[T, P], name string) (*T, error) {
	if t.id != "" && strings.HasPrefix(name, string(t.id)+"-") {
		if err := t.check(name); err != nil { // an id is not a name
			return nil, a.wrong("metadata.name", &InvalidError{Field: "name", Reason: err.Error()})
		}
	}
	obj, err := t.find(a.tx, name)
	if _, missing := errors.AsType[*NotFoundError](err); missing {
		return nil, nil
	}
	return obj, err
}

// store writes an object and notes what became of it. before is nil for a new
// one.
func put[T any, P message[T]](a *applier, t table[T, P], id string, before, after *T) error {
	done := Applied{Index: a.at, Kind: t.kind, ID: id, Action: Unchanged, After: after, AfterSpec: resourceOf(after, namesIn(a.tx))}
	switch {
	case before == nil:
		done.Action = Created
	case !proto.Equal(P(before), P(after)):
		done.Action = Changed
	}
	if before != nil {
		done.Before, done.BeforeSpec = before, resourceOf(before, namesIn(a.tx))
	}
	if done.Action != Unchanged {
		if err := t.put(a.tx, id, after); err != nil {
			return err
		}
	}
	a.out = append(a.out, done)
	return nil
}
