package incluster

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/sallyport-mesh/sallyport/test/play"
)

// refusedBy is nil once the cluster refuses a token. The apiserver remembers a
// good one for ten seconds.
func refusedBy(t *testing.T, c *play.Cluster, token string) error {
	t.Helper()
	cfg, err := clientcmd.BuildConfigFromFlags("", c.Kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	cfg = rest.AnonymousClientConfig(cfg)
	cfg.BearerToken = token
	client, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		t.Fatal(err)
	}
	_, err = client.AuthenticationV1().SelfSubjectReviews().Create(t.Context(), &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{})
	if !apierrors.IsUnauthorized(err) {
		return fmt.Errorf("it is still good (%v)", err)
	}
	return nil
}

// current is the token in the pod's volume.
func (k *kubelet) current(t *testing.T) string {
	t.Helper()
	found, err := filepath.Glob(k.volume("kube-api-access-*") + "/token")
	if err != nil || len(found) != 1 {
		t.Fatalf("the tokens in the pod's volumes are %v (%v)", found, err)
	}
	raw, err := os.ReadFile(found[0])
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

// seenBy is nil when the apiserver's audit log holds a request made with a token.
func seenBy(c *play.Cluster, token string) error {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return fmt.Errorf("a token of %d parts", len(parts))
	}
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return err
	}
	var claims struct {
		ID string `json:"jti"`
	}
	if err := json.Unmarshal(payload, &claims); err != nil {
		return err
	}
	log, err := os.ReadFile(c.AuditLog)
	if err != nil {
		return err
	}
	// The answer to the token's own request names it too, under another key.
	if !bytes.Contains(log, []byte(`"authentication.kubernetes.io/credential-id":["JTI=`+claims.ID+`"]`)) {
		return fmt.Errorf("nothing was asked of the apiserver with token %s", claims.ID)
	}
	return nil
}
