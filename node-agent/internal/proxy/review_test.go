package proxy_test

import (
	"bytes"
	"io"
	"net/http"
	"strings"
	"testing"

	authorizationv1 "k8s.io/api/authorization/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

// client-go asks in protobuf or JSON, as kubectl does, and understands the answers.
func TestSelfReviewsAreAnsweredFromThePolicy(t *testing.T) {
	for _, media := range []string{"application/json", "application/vnd.kubernetes.protobuf"} {
		t.Run(media, func(t *testing.T) {
			w := newWorld(t)
			p := w.person("shivam", "view", "team-a")
			cfg := w.restConfig(p)
			cfg.ContentType, cfg.AcceptContentTypes = media, media
			c, err := kubernetes.NewForConfig(cfg)
			must(t, err)
			auth := c.AuthorizationV1()

			no, err := auth.SelfSubjectAccessReviews().Create(t.Context(), accessReview("delete", "team-a", "pods"), metav1.CreateOptions{})
			must(t, err)
			if no.Status.Allowed || !no.Status.Denied || !strings.Contains(no.Status.Reason, "no grant lets shivam delete pods") {
				t.Errorf("delete: %+v", no.Status)
			}
			rules, err := auth.SelfSubjectRulesReviews().Create(t.Context(), &authorizationv1.SelfSubjectRulesReview{
				Spec: authorizationv1.SelfSubjectRulesReviewSpec{Namespace: "team-a"},
			}, metav1.CreateOptions{})
			must(t, err)
			if !rules.Status.Incomplete || len(rules.Status.ResourceRules) == 0 || len(rules.Status.NonResourceRules) == 0 {
				t.Errorf("rules: %+v", rules.Status)
			}
			w.upstream.untouched(t)

			// What policy allows, the apiserver has the last word on.
			var body []byte
			w.upstream.answer(func(rw http.ResponseWriter, r *http.Request) {
				body, _ = io.ReadAll(r.Body)
				rw.Header().Set("Content-Type", r.Header.Get("Content-Type"))
				rw.WriteHeader(http.StatusCreated)
				rw.Write(body)
			})
			_, err = auth.SelfSubjectAccessReviews().Create(t.Context(), accessReview("list", "team-a", "pods"), metav1.CreateOptions{})
			must(t, err)
			got := w.upstream.only(t)
			if got.Target != "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews" || len(got.Body) == 0 || got.Header.Get("Content-Type") != media {
				t.Errorf("forwarded %+v", got)
			}
		})
	}
}

func accessReview(verb, namespace, resource string) *authorizationv1.SelfSubjectAccessReview {
	return &authorizationv1.SelfSubjectAccessReview{Spec: authorizationv1.SelfSubjectAccessReviewSpec{
		ResourceAttributes: &authorizationv1.ResourceAttributes{Verb: verb, Namespace: namespace, Resource: resource},
	}}
}

func TestAccessReviewAnswersAsTheRequestWouldBe(t *testing.T) {
	w := newWorld(t)
	p := w.person("shivam", "view")
	for body, allowed := range map[string]bool{
		`{"verb":"get","resource":"pods","namespace":"default"}`:                          true,
		`{"verb":"get","resource":"pods","subresource":"exec","namespace":"default"}`:     false,
		`{"verb":"get","resource":"secrets","namespace":"default"}`:                       false,
		`{"verb":"list","resource":"pods","name":"p"}`:                                    true,
		`{"verb":"*","resource":"*"}`:                                                     false,
		`{"verb":"impersonate","resource":"users"}`:                                       false,
		`{"verb":"get","resource":"pods","namespace":"sallyport-system"}`:                 false,
		`{"verb":"create","group":"rbac.authorization.k8s.io","resource":"rolebindings"}`: false,
	} {
		before := len(w.upstream.all())
		full := `{"kind":"SelfSubjectAccessReview","apiVersion":"authorization.k8s.io/v1","spec":{"resourceAttributes":` + body + `}}`
		res, err := w.client(p, "h2").Post(w.url("/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"), "application/json", strings.NewReader(full))
		must(t, err)
		res.Body.Close()
		reached := w.upstream.all()[before:]
		if (len(reached) == 1) != allowed {
			t.Errorf("%s: %d requests reached the apiserver", body, len(reached))
		}
		if allowed && string(reached[0].Body) != full {
			t.Errorf("%s was forwarded as %s", full, reached[0].Body)
		}
	}
}

func TestReviewsThatCannotBeReadAreRefused(t *testing.T) {
	w := newWorld(t)
	p := w.person("alice", "cluster-admin")
	const access = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
	for _, c := range []struct {
		path, media, body string
		code              int
	}{
		{access, "application/json", "", 400},
		{access, "application/json", "{}x", 400},
		{access, "application/json", `{"kind":"SelfSubjectRulesReview","apiVersion":"authorization.k8s.io/v1"}`, 400},
		{access, "application/json", `{"kind":"SubjectAccessReview","apiVersion":"authorization.k8s.io/v1"}`, 400},
		{access, "application/vnd.kubernetes.protobuf", "k8s\x00nonsense", 400},
		{access, "application/yaml", "kind: SelfSubjectAccessReview", 415},
		{access, "text/plain", "x", 415},
		{access, "", "x", 415},
		{access, "application/json", `{"spec":"` + strings.Repeat("a", 80<<10) + `"}`, 413},
	} {
		req, _ := http.NewRequest("POST", w.url(c.path), bytes.NewReader([]byte(c.body)))
		req.Header.Set("Content-Type", c.media)
		res, err := w.client(p, "h2").Do(req)
		must(t, err)
		if s := readStatus(t, res); res.StatusCode != c.code {
			t.Errorf("%s %.60q: %d %s", c.media, c.body, res.StatusCode, s.Message)
		}
	}
	w.upstream.untouched(t)
}
