package auditstore

import (
	"slices"
	"time"

	apiv1 "github.com/sallyport-mesh/sallyport/pkg/api/sallyport/v1"
	"github.com/sallyport-mesh/sallyport/pkg/audit"
)

// Query says which requests to find. Empty fields do not narrow.
type Query struct {
	User        string // id, or the name the records hold
	Device      string // id
	Namespace   string
	Resource    string // plural, as in the path
	Subresource string
	Name        string
	Verb        string
	Decision    audit.Decision
	// Clusters, by id or name. nil is all there ever were; a list that is not nil
	// narrows, and leaves the coordinator's own log out.
	Clusters []string
	Project  string // id or name
	// Log is "access" or empty (agents' logs), "coordinator" or "all".
	Log string
	// Since and Until bound the time of the request, Until exclusively.
	Since, Until time.Time
	// Limit is the most records found in what is stored; 0 is 100, at most 10,000.
	Limit int
	// Follow goes on with what arrives, in order of arrival, until the context
	// ends. A request then comes twice: when it begins, and with its outcome.
	Follow bool
}

const (
	defaultLimit = 100
	maxLimit     = 10_000
)

// QueryOf is the query of a request to the admin API. clusters are those that the
// caller may see and asked for, nil for all.
func QueryOf(req *apiv1.SearchAuditRequest, clusters []string) Query {
	q := Query{
		User: req.GetUser(), Device: req.GetDevice(), Namespace: req.GetNamespace(), Resource: req.GetResource(),
		Subresource: req.GetSubresource(), Name: req.GetName(), Verb: req.GetVerb(), Decision: audit.Decision(req.GetDecision()),
		Clusters: clusters, Log: req.GetLog(), Limit: int(min(req.GetLimit(), maxLimit)), Follow: req.GetFollow(),
	}
	if clusters == nil {
		q.Project = req.GetProject()
		if req.GetCluster() != "" {
			q.Clusters = []string{req.GetCluster()}
		}
	}
	if req.GetSince() != nil {
		q.Since = req.GetSince().AsTime()
	}
	if req.GetUntil() != nil {
		q.Until = req.GetUntil().AsTime()
	}
	return q
}

func (q *Query) limit() int {
	if q.Limit <= 0 {
		return defaultLimit
	}
	return min(q.Limit, maxLimit)
}

// takesLog reports whether records of a log can match.
func (q *Query) takesLog(m meta) bool {
	own := m.Agent == ""
	switch q.Log {
	case "coordinator":
		if !own {
			return false
		}
	case "all":
	default:
		if own {
			return false
		}
	}
	if q.Clusters != nil && !slices.ContainsFunc(q.Clusters, m.Cluster.is) {
		return false
	}
	return q.Project == "" || m.Project.is(q.Project)
}

// takes reports whether a request matches, by its first record. users are the
// ids that q.User may mean.
func (q *Query) takes(e *audit.Event, at int64, users []string) bool {
	if !q.Since.IsZero() && at < micros(q.Since) || !q.Until.IsZero() && at >= micros(q.Until) {
		return false
	}
	if q.User != "" && !slices.Contains(users, term(userOf(e))) && q.User != e.User.Username {
		return false
	}
	var o audit.ObjectRef
	if e.ObjectRef != nil {
		o = *e.ObjectRef
	}
	for _, f := range [...]struct{ want, have string }{
		{q.Device, e.Ext.Device},
		{q.Namespace, o.Namespace},
		{q.Resource, o.Resource},
		{q.Subresource, o.Subresource},
		{q.Name, o.Name},
		{q.Verb, e.Verb},
		{string(q.Decision), string(e.Ext.Decision)},
	} {
		if f.want != "" && f.want != f.have {
			return false
		}
	}
	return true
}
