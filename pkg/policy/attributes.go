package policy

import "strings"

// Attributes is a request as it was parsed, once, and as it will be forwarded.
type Attributes struct {
	// Who asks, as the client certificate says.
	UserID, DeviceID, SessionID string
	Generation                  uint64

	// What is asked, in the words of Kubernetes' RequestInfo: the verb is "get",
	// "list", "deletecollection" … for resources and the lower-case HTTP method
	// otherwise.
	Verb, APIGroup, APIVersion, Resource, Subresource, Namespace, Name string
	// Path is the path of a request for something that is not a resource.
	Path            string
	ResourceRequest bool
	// SelectedName is the exact metadata.name field selector of a list, watch or
	// deletecollection, empty without one.
	SelectedName string
	// WithoutOurs is true of a list, watch or deletecollection whose field selector
	// leaves out both namespaces of Sallyport.
	WithoutOurs bool
	// MayCreate is true of an update or patch that makes the object where there is
	// none: a PUT, and a server-side apply.
	MayCreate bool
	// Upgrade is true when the connection is to become a stream of its own.
	Upgrade bool
}

// Class sorts requests by what a stale policy could cost. Each has a staleness
// budget of its own.
type Class int

// The classes. Secrets, tokens and running streams count as Exec.
const (
	Read Class = iota + 1
	Write
	Exec
)

func (c Class) String() string {
	switch c {
	case Read:
		return "read"
	case Write:
		return "write"
	case Exec:
		return "exec"
	}
	return "unknown class"
}

// Class tells which staleness budget bounds the request.
func (a Attributes) Class() Class {
	switch {
	case a.Upgrade:
		return Exec
	case !a.ResourceRequest:
		if a.Verb == "get" || a.Verb == "head" || a.Verb == "options" {
			return Read
		}
		return Write
	case a.APIGroup == "" && a.Resource == "secrets",
		a.Subresource == "exec", a.Subresource == "attach", a.Subresource == "portforward",
		a.Subresource == "proxy", a.Subresource == "token":
		return Exec
	case reads(a.Verb), a.selfReview():
		return Read
	}
	return Write
}

// reads reports whether a verb on a resource changes nothing.
func reads(verb string) bool { return verb == "get" || verb == "list" || verb == "watch" }

// collection reports whether the verb is about many objects at once.
func (a Attributes) collection() bool {
	return a.Verb == "list" || a.Verb == "watch" || a.Verb == "deletecollection"
}

// target is the one object that the request is about, empty if there is none.
func (a Attributes) target() string {
	if a.Name == "" && a.collection() {
		return a.SelectedName
	}
	return a.Name
}

// resource is the resource as rules spell it: "pods" or "pods/exec".
func (a Attributes) resource() string {
	if a.Subresource == "" {
		return a.Resource
	}
	return a.Resource + "/" + a.Subresource
}

// inContainer reports whether the request runs or reaches into a container.
// Kubernetes calls it get or create, depending on the transport.
func (a Attributes) inContainer() bool {
	return a.APIGroup == "" && a.Resource == "pods" &&
		(a.Subresource == "exec" || a.Subresource == "attach" || a.Subresource == "portforward")
}

// selfReview reports whether somebody asks about himself. It changes nothing.
func (a Attributes) selfReview() bool {
	if !a.ResourceRequest || a.Verb != "create" || a.Namespace != "" || a.Subresource != "" {
		return false
	}
	switch a.APIGroup {
	case "authorization.k8s.io":
		return a.Resource == "selfsubjectaccessreviews" || a.Resource == "selfsubjectrulesreviews"
	case "authentication.k8s.io":
		return a.Resource == "selfsubjectreviews"
	}
	return false
}

// discovery reports whether the path is what every client reads first.
func (a Attributes) discovery() bool {
	if a.ResourceRequest || (a.Verb != "get" && a.Verb != "head") {
		return false
	}
	switch a.Path {
	case "/api", "/apis", "/version", "/version/", "/openapi", "/healthz", "/readyz", "/livez":
		return true
	}
	for _, root := range [...]string{"/api/", "/apis/", "/openapi/"} {
		if strings.HasPrefix(a.Path, root) {
			return true
		}
	}
	return false
}
