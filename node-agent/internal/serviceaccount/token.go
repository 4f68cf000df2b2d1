package serviceaccount

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	authorizationclient "k8s.io/client-go/kubernetes/typed/authorization/v1"
	"k8s.io/client-go/rest"

	"github.com/sallyport-mesh/sallyport/deploy/manifest"
	"github.com/sallyport-mesh/sallyport/pkg/policy"
)

// The shortest life that Kubernetes gives a token.
const tokenSeconds = 600

// token is a credential and the span of this machine's time that it is good for.
type token struct {
	Credential
	// renew and until are on our clock: what counts is how long ago the token was
	// asked for, not what the apiserver thinks the time is.
	renew, until time.Time
}

func requestToken(ctx context.Context, client kubernetes.Interface, account string) (token, error) {
	asked := time.Now()
	seconds := int64(tokenSeconds)
	res, err := client.CoreV1().ServiceAccounts(manifest.UsersNamespace).CreateToken(ctx, account,
		&authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{ExpirationSeconds: &seconds}}, metav1.CreateOptions{})
	if err != nil {
		return token{}, fmt.Errorf("requesting token for %s: %w", account, err)
	}
	id, life, err := readClaims(res.Status.Token)
	if err != nil {
		return token{}, fmt.Errorf("requesting token for %s: %w", account, err)
	}
	return token{
		Credential: Credential{Token: res.Status.Token, ID: id, Account: "system:serviceaccount:" + manifest.UsersNamespace + ":" + account},
		renew:      asked.Add(life * 2 / 3),
		until:      asked.Add(life - life/20), // half a minute of ten, for the request that uses it
	}, nil
}

// readClaims returns the credential's id as the apiserver's own audit log spells
// it, and how long the token lives.
func readClaims(jwt string) (id string, life time.Duration, err error) {
	parts := strings.Split(jwt, ".")
	if len(parts) != 3 {
		return "", 0, errors.New("the apiserver's token is no JWT")
	}
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return "", 0, errors.New("the apiserver's token is no JWT")
	}
	var c struct {
		JTI string `json:"jti"`
		IAT int64  `json:"iat"`
		Exp int64  `json:"exp"`
	}
	if json.Unmarshal(payload, &c) != nil || c.Exp <= c.IAT {
		return "", 0, errors.New("the apiserver's token has no life span")
	}
	if c.JTI != "" { // Kubernetes 1.29 and before issue none
		id = "JTI=" + c.JTI
	}
	return id, min(time.Duration(c.Exp-c.IAT)*time.Second, 24*time.Hour), nil
}

// reviewer asks the apiserver, as the person's account, whether it may do
// something. Its transport can hold no credential of the agent's.
type reviewer struct {
	client authorizationclient.AuthorizationV1Interface
}

type tokenKey struct{}

func newReviewer(cfg *rest.Config) (*reviewer, error) {
	anonymous := rest.AnonymousClientConfig(cfg)
	anonymous.QPS, anonymous.Burst = -1, 0 // bounded by the requests that wait for an answer
	anonymous.Wrap(func(next http.RoundTripper) http.RoundTripper {
		return roundTripper(func(req *http.Request) (*http.Response, error) {
			bearer, _ := req.Context().Value(tokenKey{}).(string)
			if bearer == "" {
				return nil, errors.New("reviewing access without a token")
			}
			req = req.Clone(req.Context())
			req.Header.Set("Authorization", "Bearer "+bearer)
			return next.RoundTrip(req)
		})
	})
	client, err := authorizationclient.NewForConfig(anonymous)
	if err != nil {
		return nil, fmt.Errorf("making client for access reviews: %w", err)
	}
	return &reviewer{client}, nil
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func (r *reviewer) allowed(ctx context.Context, bearer string, a policy.Attributes) (bool, error) {
	var spec authorizationv1.SelfSubjectAccessReviewSpec
	if a.ResourceRequest {
		spec.ResourceAttributes = &authorizationv1.ResourceAttributes{
			Namespace: a.Namespace, Verb: a.Verb, Group: a.APIGroup, Version: a.APIVersion,
			Resource: a.Resource, Subresource: a.Subresource, Name: a.Name,
		}
		if a.Name == "" {
			spec.ResourceAttributes.Name = a.SelectedName
		}
	} else {
		spec.NonResourceAttributes = &authorizationv1.NonResourceAttributes{Path: a.Path, Verb: a.Verb}
	}
	res, err := r.client.SelfSubjectAccessReviews().Create(context.WithValue(ctx, tokenKey{}, bearer),
		&authorizationv1.SelfSubjectAccessReview{Spec: spec}, metav1.CreateOptions{})
	if err != nil {
		return false, fmt.Errorf("reviewing access: %w", err)
	}
	return res.Status.Allowed, nil
}
