package proxy

import (
	"bytes"
	"errors"
	"io"
	"mime"
	"net/http"
	"strconv"
	"strings"

	authorizationv1 "k8s.io/api/authorization/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"

	"github.com/sallyport-mesh/sallyport/pkg/policy"
)

// A person who asks what he may do must hear what the policy says too: the
// apiserver's answer alone comes from RBAC, which is the wider of the two.

// review is the kind of self-review that a request is.
type review int

const (
	noReview     review = iota
	accessReview        // SelfSubjectAccessReview: 'no' where policy says so, else forwarded
	rulesReview         // SelfSubjectRulesReview: answered from the policy
)

// maxReview bounds the body of a self-review: 64 KiB.
const maxReview = 64 << 10

const protobufType = "application/vnd.kubernetes.protobuf"

func reviewOf(a policy.Attributes) review {
	if !a.ResourceRequest || a.Verb != "create" || a.APIGroup != "authorization.k8s.io" || a.APIVersion != "v1" ||
		a.Namespace != "" || a.Name != "" || a.Subresource != "" {
		return noReview
	}
	switch a.Resource {
	case "selfsubjectaccessreviews":
		return accessReview
	case "selfsubjectrulesreviews":
		return rulesReview
	}
	return noReview
}

// reviewCodecs are Kubernetes' own, for the one group that is read here.
var reviewCodecs = func() serializer.CodecFactory {
	scheme := runtime.NewScheme()
	if err := authorizationv1.AddToScheme(scheme); err != nil {
		panic("proxy: registering authorization.k8s.io/v1: " + err.Error()) // types of our own build: cannot be
	}
	return serializer.NewCodecFactory(scheme)
}()

// answerReview answers a self-review from the policy, or puts the body that it
// read back for forwarding, byte for byte.
func (x *exchange) answerReview(r *http.Request) (answered bool, bad *refusal) {
	media, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	info, known := runtime.SerializerInfoForMediaType(reviewCodecs.SupportedMediaTypes(), media)
	if err != nil || !known || (media != runtime.ContentTypeJSON && media != protobufType) || len(r.Header["Content-Encoding"]) > 0 {
		return false, &refusal{
			code: http.StatusUnsupportedMediaType, reason: metav1.StatusReasonUnsupportedMediaType,
			message: "a self-review is sent as JSON or as Kubernetes' protobuf",
		}
	}
	body, err := io.ReadAll(io.LimitReader(x.body, maxReview+1))
	if err != nil {
		return false, badRequest("the body cannot be read")
	}
	if len(body) > maxReview {
		return false, tooLarge("a self-review is 64 KiB at most")
	}
	x.body, x.size = io.NopCloser(bytes.NewReader(body)), int64(len(body))

	kind := authorizationv1.SchemeGroupVersion.WithKind("SelfSubjectAccessReview")
	if x.reading.review == rulesReview {
		kind.Kind = "SelfSubjectRulesReview"
	}
	object, read, err := info.Serializer.Decode(body, &kind, nil)
	if err != nil || *read != kind {
		return false, badRequest("the body is not a " + kind.Kind + " of authorization.k8s.io/v1")
	}
	switch o := object.(type) {
	case *authorizationv1.SelfSubjectRulesReview:
		o.Status = x.rules(o.Spec.Namespace)
		return true, x.answer(o)
	case *authorizationv1.SelfSubjectAccessReview:
		d, asked := x.askPolicy(o.Spec)
		if !asked || d.Allowed {
			return false, nil // the apiserver has the last word
		}
		o.Status = authorizationv1.SubjectAccessReviewStatus{Denied: true, Reason: "sallyport: " + d.Reason}
		return true, x.answer(o)
	}
	return false, badRequest("the body is not a self-review")
}

// rules says what the policy grants, in Kubernetes' words, and what these cannot
// say.
func (x *exchange) rules(namespace string) authorizationv1.SubjectRulesReviewStatus {
	resource, other, caveat := x.policy.Rules(x.reading.attrs.UserID, namespace)
	s := authorizationv1.SubjectRulesReviewStatus{
		ResourceRules: []authorizationv1.ResourceRule{}, NonResourceRules: []authorizationv1.NonResourceRule{},
		Incomplete: true, EvaluationError: caveat,
	}
	for _, r := range resource {
		s.ResourceRules = append(s.ResourceRules, authorizationv1.ResourceRule{
			Verbs: r.Verbs, APIGroups: r.APIGroups, Resources: r.Resources, ResourceNames: r.ResourceNames,
		})
	}
	for _, r := range other {
		s.NonResourceRules = append(s.NonResourceRules, nonResourceRule(r))
	}
	return s
}

func nonResourceRule(r rbacv1.PolicyRule) authorizationv1.NonResourceRule {
	return authorizationv1.NonResourceRule{Verbs: r.Verbs, NonResourceURLs: r.NonResourceURLs}
}

// askPolicy decides what an access review asks about, as if it were requested now.
func (x *exchange) askPolicy(spec authorizationv1.SelfSubjectAccessReviewSpec) (d policy.Decision, asked bool) {
	a := x.reading.attrs
	a = policy.Attributes{UserID: a.UserID, DeviceID: a.DeviceID, SessionID: a.SessionID, Generation: a.Generation}
	switch {
	case spec.ResourceAttributes != nil && spec.NonResourceAttributes == nil:
		ra := spec.ResourceAttributes
		a.ResourceRequest = true
		a.Verb, a.APIGroup, a.APIVersion = ra.Verb, ra.Group, ra.Version
		a.Resource, a.Subresource, a.Namespace, a.Name = ra.Resource, ra.Subresource, ra.Namespace, ra.Name
		switch a.Verb {
		case "list", "watch", "deletecollection":
			a.Name, a.SelectedName = "", ra.Name
		}
		if isExec(a) {
			a.Verb, a.Upgrade = "create", true
		}
	case spec.NonResourceAttributes != nil && spec.ResourceAttributes == nil:
		a.Verb, a.Path = spec.NonResourceAttributes.Verb, spec.NonResourceAttributes.Path
	default:
		return d, false // the apiserver will say what is wrong with it
	}
	return x.policy.Decide(a), true
}

// answer sends an object as the apiserver would have: 201, JSON or protobuf.
func (x *exchange) answer(o runtime.Object) *refusal {
	media := runtime.ContentTypeJSON
	if prefersProtobuf(x.reading.header["Accept"]) {
		media = protobufType
	}
	info, ok := runtime.SerializerInfoForMediaType(reviewCodecs.SupportedMediaTypes(), media)
	if !ok {
		return internal()
	}
	var body bytes.Buffer
	encoder := reviewCodecs.EncoderForVersion(info.Serializer, authorizationv1.SchemeGroupVersion)
	if err := encoder.Encode(o, &body); err != nil {
		x.p.log.Error("encoding a review failed", "request", x.id, "error", err)
		return internal()
	}
	if why := x.entry.ended(); why != nil {
		return why
	}
	h := x.w.Header()
	h.Set("Content-Type", media)
	h.Set("Content-Length", strconv.Itoa(body.Len()))
	h.Set("Cache-Control", "no-cache, private")
	h.Set("Audit-Id", x.id)
	x.answered, x.code, x.ending = true, http.StatusCreated, "answered from the policy"
	x.w.WriteHeader(http.StatusCreated)
	n, err := x.w.Write(body.Bytes())
	x.out.Add(int64(n))
	if err != nil && !errors.Is(err, http.ErrBodyNotAllowed) {
		x.abort = true
	}
	return nil
}

// prefersProtobuf reads the first media type that can be answered with.
func prefersProtobuf(accept []string) bool {
	for _, part := range splitList(accept) {
		media, _, _ := strings.Cut(part, ";")
		switch strings.TrimSpace(media) {
		case protobufType:
			return true
		case runtime.ContentTypeJSON, "application/*", "*/*":
			return false
		}
	}
	return false
}
