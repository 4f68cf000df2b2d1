package proxy

import (
	"net/url"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/api/validate/content"
	metainternalversion "k8s.io/apimachinery/pkg/apis/meta/internalversion"
	metainternalversionscheme "k8s.io/apimachinery/pkg/apis/meta/internalversion/scheme"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/selection"

	"github.com/sallyport-mesh/sallyport/pkg/policy"
)

// once are the query parameters that Kubernetes takes the first of when they
// are repeated, where another reader might take the last.
var once = []string{
	"watch", "follow", "fieldSelector", "labelSelector", "resourceVersion", "resourceVersionMatch", "limit", "continue",
	"timeoutSeconds", "allowWatchBookmarks", "sendInitialEvents", "container", "stdin", "stdout", "stderr", "tty",
	"propagationPolicy", "fieldManager", "fieldValidation", "force",
}

// checkQuery refuses repeated and odd parameters, and returns what 'watch' says:
// "", "true" or "false".
func checkQuery(query url.Values) (watch string, bad *refusal) {
	if len(query) == 0 {
		return "", nil
	}
	for _, name := range once {
		if len(query[name]) > 1 {
			return "", badRequest("the query parameter '" + name + "' is repeated")
		}
	}
	if _, bad := boolean(query, "follow"); bad != nil {
		return "", bad
	}
	return boolean(query, "watch")
}

// boolean reads a parameter that decides whether a request is a stream, and of
// which Kubernetes takes everything that is not false for true, an empty value
// too: what is neither plainly is refused.
func boolean(query url.Values, name string) (value string, bad *refusal) {
	values, given := query[name]
	if !given {
		return "", nil
	}
	switch strings.ToLower(values[0]) {
	case "true", "1":
		return "true", nil
	case "false", "0":
		return "false", nil
	}
	return "", badRequest("the query parameter '" + name + "' must be true or false")
}

// readSelection reads what Kubernetes takes from the query of a request for many
// objects: whether it is a watch, and the exact metadata.name of its field
// selector. RequestInfo does so for lists and watches, and with an error here
// decides an unselected list; the apiserver would refuse it, so we do.
// Below /watch/ no authorizer honours selectors.
func (q *reading) readSelection(query url.Values) *refusal {
	var selector fields.Selector
	switch {
	case len(query) == 0:
		return nil
	case q.verb == "list":
		var opts metainternalversion.ListOptions
		if err := metainternalversionscheme.ParameterCodec.DecodeParameters(query, metav1.SchemeGroupVersion, &opts); err != nil {
			return badRequest("the list options cannot be read")
		}
		if opts.Watch {
			q.verb = "watch"
		}
		selector = opts.FieldSelector
	case q.verb == "deletecollection" && query.Get("fieldSelector") != "":
		var err error
		if selector, err = fields.ParseSelector(query.Get("fieldSelector")); err != nil {
			return badRequest("the field selector cannot be read")
		}
	}
	if selector == nil {
		return nil
	}
	q.attrs.WithoutOurs = leavesOut(selector, policy.SystemNamespace) && leavesOut(selector, policy.UsersNamespace)
	if name, ok := selector.RequiresExactMatch("metadata.name"); ok && name != "" {
		if len(content.IsPathSegmentName(name)) != 0 {
			return badRequest("the field selector names no object")
		}
		q.attrs.SelectedName = name
	}
	return nil
}

// leavesOut reports whether a field selector matches nothing of a namespace.
func leavesOut(selector fields.Selector, namespace string) bool {
	return slices.ContainsFunc(selector.Requirements(), func(r fields.Requirement) bool {
		return r.Field == "metadata.namespace" && r.Operator == selection.NotEquals && r.Value == namespace
	})
}
