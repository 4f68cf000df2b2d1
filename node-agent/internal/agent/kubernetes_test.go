package agent

import (
	"encoding/json"
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/clientcmd/api"

	"github.com/sallyport-mesh/sallyport/deploy/manifest"
)

// A token that is refused is read anew for the next request, and is nowhere in
// what people's requests are sent with. (test/incluster has the same with a real
// apiserver and a pod's volume.)
func TestRefusedTokenIsReadAgain(t *testing.T) {
	good := "one"
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		if r.Header.Get("Authorization") != "Bearer "+good {
			w.WriteHeader(http.StatusUnauthorized)
			_ = json.NewEncoder(w).Encode(metav1.Status{TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}, Status: "Failure", Code: http.StatusUnauthorized, Reason: metav1.StatusReasonUnauthorized})
			return
		}
		_ = json.NewEncoder(w).Encode(authenticationv1.SelfSubjectReview{
			TypeMeta: metav1.TypeMeta{Kind: "SelfSubjectReview", APIVersion: "authentication.k8s.io/v1"},
			Status:   authenticationv1.SelfSubjectReviewStatus{UserInfo: authenticationv1.UserInfo{Username: manifest.AgentUser}},
		})
	}))
	defer server.Close()
	dir := t.TempDir()
	token, kubeconfig := filepath.Join(dir, "token"), filepath.Join(dir, "kubeconfig")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(token, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("one")
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	err := clientcmd.WriteToFile(api.Config{
		Clusters:       map[string]*api.Cluster{"c": {Server: server.URL, CertificateAuthorityData: ca}},
		AuthInfos:      map[string]*api.AuthInfo{"a": {TokenFile: token}},
		Contexts:       map[string]*api.Context{"c": {Cluster: "c", AuthInfo: "a"}},
		CurrentContext: "c",
	}, kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	c, err := openCluster(kubeconfig, "test")
	if err != nil {
		t.Fatal(err)
	}
	if err := c.whoAmI(t.Context()); err != nil {
		t.Fatal(err)
	}
	write("two")
	good = "two"
	if err := c.whoAmI(t.Context()); err == nil {
		t.Fatal("the file was read again before the token was refused: this proves nothing")
	}
	if err := c.whoAmI(t.Context()); err != nil {
		t.Errorf("after the refusal: %v", err)
	}
	people, err := rest.TransportFor(rest.AnonymousClientConfig(c.rest))
	if err != nil {
		t.Fatal(err)
	}
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, server.URL, nil)
	if err != nil {
		t.Fatal(err)
	}
	answer, err := people.RoundTrip(request)
	if err != nil {
		t.Fatal(err)
	}
	_ = answer.Body.Close()
	if answer.StatusCode != http.StatusUnauthorized {
		t.Errorf("a request without a credential of its own was answered %d: it carried the agent's", answer.StatusCode)
	}
}
