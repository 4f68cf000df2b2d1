package manifest

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/sallyport-mesh/sallyport/test/parts"
)

// imported is a real cluster to which the whole manifest was applied.
type imported struct {
	part  *parts.Cluster
	rest  *rest.Config
	owner *kubernetes.Clientset // system:masters
	agent *kubernetes.Clientset // what the manifest made
	eve   *kubernetes.Clientset // a person's account that holds all of the ceiling
}

func importCluster(t *testing.T) *imported {
	t.Helper()
	part, err := parts.StartCluster(t.Context(), filepath.Join(t.TempDir(), "c"), "fences")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(part.Stop)
	c := &imported{part: part}
	if c.rest, err = clientcmd.BuildConfigFromFlags("", part.Kubeconfig); err != nil {
		t.Fatal(err)
	}
	c.owner = must(kubernetes.NewForConfig(c.rest))
	c.apply(t, Params{Cluster: "edge-1", JoinToken: token, Image: "sallyport-agent:test", Ceiling: Admin})
	c.agent = c.as(t, c.owner, SystemNamespace, AgentAccount)
	c.waitForFences(t)

	// What the agent does for a person, with the whole ceiling.
	ctx := t.Context()
	must(c.agent.CoreV1().ServiceAccounts(UsersNamespace).Create(ctx, account("sp-eve"), metav1.CreateOptions{}))
	ceiling := must(c.agent.RbacV1().ClusterRoles().Get(ctx, CeilingRole, metav1.GetOptions{}))
	must(c.agent.RbacV1().ClusterRoles().Create(ctx, &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: "sp-role-eve"}, Rules: ceiling.Rules}, metav1.CreateOptions{}))
	must(c.agent.RbacV1().ClusterRoleBindings().Create(ctx, bind("sp-eve", "sp-role-eve", UsersNamespace, "sp-eve"), metav1.CreateOptions{}))
	c.eve = c.as(t, c.agent, UsersNamespace, "sp-eve")
	return c
}

// apply is what a cluster's owner does; again must change nothing.
func (c *imported) apply(t *testing.T, p Params) {
	t.Helper()
	out, err := Render(p)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		cmd, err := c.part.Kubectl(t.Context(), "apply", "-f", "-")
		if err != nil {
			t.Fatal(err)
		}
		cmd.Stdin = bytes.NewReader(out)
		if said, err := cmd.CombinedOutput(); err != nil || bytes.Contains(said, []byte("Warning")) {
			t.Fatalf("kubectl apply: %v: %s", err, said)
		}
	}
}

func (c *imported) as(t *testing.T, issuer *kubernetes.Clientset, namespace, name string) *kubernetes.Clientset {
	t.Helper()
	seconds := int64(3600)
	tok, err := issuer.CoreV1().ServiceAccounts(namespace).CreateToken(t.Context(), name,
		&authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{ExpirationSeconds: &seconds}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	cfg := rest.AnonymousClientConfig(c.rest)
	cfg.BearerToken = tok.Status.Token
	return must(kubernetes.NewForConfig(cfg))
}

// waitForFences waits until the apiserver has compiled the policies, which it
// does within a second or so.
func (c *imported) waitForFences(t *testing.T) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for {
		_, e1 := c.owner.CoreV1().ServiceAccounts(UsersNamespace).Create(t.Context(), account("probe"), metav1.CreateOptions{DryRun: []string{"All"}})
		_, e2 := c.owner.RbacV1().ClusterRoles().Create(t.Context(), &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: "sp-probe"}}, metav1.CreateOptions{DryRun: []string{"All"}})
		_, e3 := c.agent.RbacV1().ClusterRoles().Create(t.Context(), &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: "probe"}}, metav1.CreateOptions{DryRun: []string{"All"}})
		if e1 != nil && e2 != nil && e3 != nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("the admission policies are not in force")
		}
		time.Sleep(50 * time.Millisecond)
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func account(name string) *corev1.ServiceAccount {
	return &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: name}}
}

func bind(name, role, namespace, subject string) *rbacv1.ClusterRoleBinding {
	return &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Subjects:   []rbacv1.Subject{{Kind: "ServiceAccount", Namespace: namespace, Name: subject}},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: role},
	}
}

// lockedDown is a pod that the namespaces' pod security lets in, so that it is
// the admission policy that refuses it.
func lockedDown(account string) *corev1.Pod {
	yes, no := true, false
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "p"},
		Spec: corev1.PodSpec{
			ServiceAccountName: account,
			SecurityContext:    &corev1.PodSecurityContext{RunAsNonRoot: &yes, SeccompProfile: &corev1.SeccompProfile{Type: "RuntimeDefault"}},
			Containers: []corev1.Container{{Name: "c", Image: "x", SecurityContext: &corev1.SecurityContext{
				AllowPrivilegeEscalation: &no, Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}},
			}}},
		},
	}
}

func TestManifestOnARealApiserver(t *testing.T) {
	c := importCluster(t)
	t.Run("every fence refuses, the owner too", c.testFences)
	t.Run("the owner can take everything away", c.testUninstall)
}

func (c *imported) testFences(t *testing.T) {
	ctx := t.Context()
	const (
		agentFence = "'sallyport-agent-fence'"
		accounts   = "'sallyport-accounts'"
		bindings   = "'sallyport-bindings'"
		usersFence = "'sallyport-users-fence'"
		rbac       = "attempting to grant RBAC permissions not currently held"
		notAllowed = "cannot "
		allowed    = ""
	)
	create := metav1.CreateOptions{}
	role := func(name string, rules ...rbacv1.PolicyRule) *rbacv1.ClusterRole {
		return &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: name}, Rules: rules}
	}
	pods := rbacv1.PolicyRule{Verbs: []string{"get"}, APIGroups: []string{""}, Resources: []string{"pods"}}
	tokens := &authenticationv1.TokenRequest{}
	group := bind("to-group", "view", "", "")
	group.Subjects = []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: "Group", Name: "system:serviceaccounts:" + UsersNamespace}}
	user := bind("to-user", "view", "", "")
	user.Subjects = []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: "User", Name: "system:serviceaccount:" + UsersNamespace + ":sp-bob"}}
	twoSubjects := bind("sp-two", "sp-role-eve", UsersNamespace, "sp-bob")
	twoSubjects.Subjects = append(twoSubjects.Subjects, rbacv1.Subject{Kind: "ServiceAccount", Namespace: "default", Name: "default"})
	aggregated := role("sp-role-agg")
	aggregated.AggregationRule = &rbacv1.AggregationRule{ClusterRoleSelectors: []metav1.LabelSelector{{MatchLabels: map[string]string{"a": "b"}}}}
	labelled := role("sp-role-label", pods)
	labelled.Labels = map[string]string{"rbac.authorization.k8s.io/aggregate-to-admin": "true"}
	namespaced := func(b *rbacv1.ClusterRoleBinding) *rbacv1.RoleBinding {
		return &rbacv1.RoleBinding{ObjectMeta: b.ObjectMeta, Subjects: b.Subjects, RoleRef: b.RoleRef}
	}
	tokenSecret := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: "t", Annotations: map[string]string{corev1.ServiceAccountNameKey: "sp-eve"}}, Type: corev1.SecretTypeServiceAccountToken,
	}
	patch := []byte(`{"metadata":{"labels":{"x":"y"}}}`)
	ownCeiling := must(c.owner.RbacV1().ClusterRoles().Get(ctx, CeilingRole, metav1.GetOptions{}))

	must(c.owner.RbacV1().ClusterRoles().Create(ctx, role("plain", pods), create))

	for _, test := range []struct {
		name string
		do   func() error
		want string
	}{
		// Nobody makes accounts, tokens, Secrets or pods in sallyport-users.
		{"owner makes an account in advance", func() error {
			return second(c.owner.CoreV1().ServiceAccounts(UsersNamespace).Create(ctx, account("sp-bob"), create))
		}, accounts},
		{"owner makes any account there", func() error {
			return second(c.owner.CoreV1().ServiceAccounts(UsersNamespace).Create(ctx, account("bob"), create))
		}, accounts},
		{"owner changes an account of ours", func() error {
			return second(c.owner.CoreV1().ServiceAccounts(UsersNamespace).Patch(ctx, "sp-eve", "application/merge-patch+json", patch, metav1.PatchOptions{}))
		}, accounts},
		{"owner asks for a token of ours", func() error {
			return second(c.owner.CoreV1().ServiceAccounts(UsersNamespace).CreateToken(ctx, "sp-eve", tokens, create))
		}, accounts},
		{"owner makes a token Secret", func() error {
			return second(c.owner.CoreV1().Secrets(UsersNamespace).Create(ctx, tokenSecret, create))
		}, accounts},
		{"owner runs a pod as our account", func() error {
			return second(c.owner.CoreV1().Pods(UsersNamespace).Create(ctx, lockedDown("sp-eve"), create))
		}, accounts},
		{"agent makes an account of another name", func() error {
			return second(c.agent.CoreV1().ServiceAccounts(UsersNamespace).Create(ctx, account("bob"), create))
		}, accounts},
		{"agent asks for a token of another account", func() error {
			return second(c.agent.CoreV1().ServiceAccounts(UsersNamespace).CreateToken(ctx, "default", tokens, create))
		}, accounts},
		{"agent asks for its own token", func() error {
			return second(c.agent.CoreV1().ServiceAccounts(SystemNamespace).CreateToken(ctx, AgentAccount, tokens, create))
		}, notAllowed},

		// Nobody but the agent writes our roles, or binds our accounts.
		{"owner makes a role under our name", func() error {
			return second(c.owner.RbacV1().ClusterRoles().Create(ctx, role("sp-role-x", pods), create))
		}, bindings},
		{"owner changes a role of ours", func() error {
			return second(c.owner.RbacV1().ClusterRoles().Patch(ctx, "sp-role-eve", "application/merge-patch+json", []byte(`{"rules":[]}`), metav1.PatchOptions{}))
		}, bindings},
		{"owner changes a binding of ours", func() error {
			return second(c.owner.RbacV1().ClusterRoleBindings().Patch(ctx, "sp-eve", "application/merge-patch+json", []byte(`{"subjects":[]}`), metav1.PatchOptions{}))
		}, bindings},
		{"owner binds an account of ours", func() error {
			return second(c.owner.RbacV1().ClusterRoleBindings().Create(ctx, bind("x", "view", UsersNamespace, "sp-bob"), create))
		}, bindings},
		{"owner binds an account of ours in a namespace", func() error {
			return second(c.owner.RbacV1().RoleBindings("default").Create(ctx, namespaced(bind("x", "view", UsersNamespace, "sp-bob")), create))
		}, bindings},
		{"owner binds an account of ours as a user", func() error {
			return second(c.owner.RbacV1().ClusterRoleBindings().Create(ctx, user, create))
		}, bindings},
		{"owner binds all accounts of ours", func() error {
			return second(c.owner.RbacV1().ClusterRoleBindings().Create(ctx, group, create))
		}, bindings},
		{"owner binds somebody else", func() error {
			return second(c.owner.RbacV1().ClusterRoleBindings().Create(ctx, bind("fine", "view", "default", "default"), create))
		}, allowed},

		// The agent stays within its names, its accounts and its ceiling.
		{"agent makes a role of another name", func() error {
			return second(c.agent.RbacV1().ClusterRoles().Create(ctx, role("x", pods), create))
		}, agentFence},
		{"agent changes its own role", func() error {
			return second(c.agent.RbacV1().ClusterRoles().Update(ctx, &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: AgentAccount}, Rules: []rbacv1.PolicyRule{pods}}, metav1.UpdateOptions{}))
		}, agentFence},
		{"agent changes the ceiling", func() error {
			wide := ownCeiling.DeepCopy()
			wide.Rules = append(wide.Rules, pods)
			return second(c.agent.RbacV1().ClusterRoles().Update(ctx, wide, metav1.UpdateOptions{}))
		}, agentFence},
		{"agent deletes somebody's role", func() error {
			return c.agent.RbacV1().ClusterRoles().Delete(ctx, "view", metav1.DeleteOptions{})
		}, agentFence},
		{"agent binds itself", func() error {
			return second(c.agent.RbacV1().ClusterRoleBindings().Create(ctx, bind("sp-x", "sp-role-eve", SystemNamespace, AgentAccount), create))
		}, agentFence},
		{"agent binds a second subject", func() error {
			return second(c.agent.RbacV1().ClusterRoleBindings().Create(ctx, twoSubjects, create))
		}, agentFence},
		{"agent binds a role that is not ours", func() error {
			return second(c.agent.RbacV1().RoleBindings("default").Create(ctx, namespaced(bind("sp-x", "plain", UsersNamespace, "sp-eve")), create))
		}, agentFence},
		{"agent adds to an aggregated role", func() error {
			return second(c.agent.RbacV1().ClusterRoles().Create(ctx, labelled, create))
		}, agentFence},
		{"agent makes an aggregated role", func() error {
			return second(c.agent.RbacV1().ClusterRoles().Create(ctx, aggregated, create))
		}, "must have cluster-admin privileges"},
		{"agent grants impersonation", func() error {
			return second(c.agent.RbacV1().ClusterRoles().Create(ctx, role("sp-role-x", rbacv1.PolicyRule{Verbs: []string{"impersonate"}, APIGroups: []string{""}, Resources: []string{"users"}}), create))
		}, rbac},
		{"agent grants every verb", func() error {
			return second(c.agent.RbacV1().ClusterRoles().Create(ctx, role("sp-role-x", rbacv1.PolicyRule{Verbs: []string{"*"}, APIGroups: []string{"apps"}, Resources: []string{"deployments"}}), create))
		}, rbac},
		{"agent grants tokens", func() error {
			return second(c.agent.RbacV1().ClusterRoles().Create(ctx, role("sp-role-x", rbacv1.PolicyRule{Verbs: []string{"create"}, APIGroups: []string{""}, Resources: []string{"serviceaccounts/token"}}), create))
		}, rbac},
		{"agent reads a Secret of its namespace that is not the join token", func() error {
			// It is the ceiling that lets it, and that is the owner's choice; what is
			// refused is writing there for people, below.
			return second(c.agent.CoreV1().Secrets(SystemNamespace).Get(ctx, JoinSecret, metav1.GetOptions{}))
		}, allowed},

		// A person with all of the ceiling touches nothing of ours.
		{"eve works elsewhere", func() error {
			return second(c.eve.CoreV1().ConfigMaps("default").Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "x"}}, create))
		}, allowed},
		{"eve binds what she has to somebody", func() error {
			return second(c.eve.RbacV1().ClusterRoleBindings().Create(ctx, bind("eves", "sp-role-eve", "default", "default"), create))
		}, allowed},
		{"eve writes in sallyport-system", func() error {
			return second(c.eve.CoreV1().ConfigMaps(SystemNamespace).Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "x"}}, create))
		}, usersFence},
		{"eve runs a pod as the agent", func() error {
			return second(c.eve.CoreV1().Pods(SystemNamespace).Create(ctx, lockedDown(AgentAccount), create))
		}, usersFence},
		{"eve deletes the agent's Deployment", func() error {
			return c.eve.AppsV1().Deployments(SystemNamespace).Delete(ctx, AgentAccount, metav1.DeleteOptions{})
		}, usersFence},
		{"eve goes into the agent's pod", func() error {
			return c.exec(ctx, c.eve, c.agentPod(t))
		}, usersFence},
		{"eve deletes her account", func() error {
			return c.eve.CoreV1().ServiceAccounts(UsersNamespace).Delete(ctx, "sp-eve", metav1.DeleteOptions{})
		}, usersFence},
		{"eve deletes the users' namespace", func() error {
			return c.eve.CoreV1().Namespaces().Delete(ctx, UsersNamespace, metav1.DeleteOptions{})
		}, usersFence},
		{"eve relabels the users' namespace", func() error {
			return second(c.eve.CoreV1().Namespaces().Patch(ctx, UsersNamespace, "application/merge-patch+json", patch, metav1.PatchOptions{}))
		}, usersFence},
		{"eve deletes the ceiling", func() error {
			return c.eve.RbacV1().ClusterRoles().Delete(ctx, CeilingRole, metav1.DeleteOptions{})
		}, usersFence},
		{"eve deletes somebody's binding", func() error {
			return c.eve.RbacV1().ClusterRoleBindings().Delete(ctx, "sp-eve", metav1.DeleteOptions{})
		}, "denied request"},
		{"eve binds an account of ours", func() error {
			return second(c.eve.RbacV1().RoleBindings("default").Create(ctx, namespaced(bind("x", "sp-role-eve", UsersNamespace, "sp-bob")), create))
		}, bindings},
		{"eve asks for a token", func() error {
			return second(c.eve.CoreV1().ServiceAccounts("kube-system").CreateToken(ctx, "clusterrole-aggregation-controller", tokens, create))
		}, notAllowed},
		{"eve takes a fence down", func() error {
			return c.eve.AdmissionregistrationV1().ValidatingAdmissionPolicyBindings().Delete(ctx, "sallyport-accounts", metav1.DeleteOptions{})
		}, notAllowed},
		{"eve reaches through a kubelet", func() error {
			return c.eve.CoreV1().RESTClient().Get().Resource("nodes").Name(c.part.Node).SubResource("proxy").Suffix("pods").Do(ctx).Error()
		}, notAllowed},

		// Less is always allowed to the owner.
		{"owner deletes a binding of ours", func() error {
			return c.owner.RbacV1().ClusterRoleBindings().Delete(ctx, "sp-eve", metav1.DeleteOptions{})
		}, allowed},
		{"owner deletes an account of ours", func() error {
			return c.owner.CoreV1().ServiceAccounts(UsersNamespace).Delete(ctx, "sp-eve", metav1.DeleteOptions{})
		}, allowed},
	} {
		t.Run(test.name, func(t *testing.T) {
			err := test.do()
			if test.want == allowed && err != nil || test.want != allowed && (err == nil || !strings.Contains(err.Error(), test.want)) {
				t.Errorf("got %v, want %q", err, test.want)
			}
		})
	}
}

func second[T any](_ T, err error) error { return err }

// agentPod is the name of a pod of the agent's Deployment, or of none if the
// volume claim keeps it from being made yet.
func (c *imported) agentPod(t *testing.T) string {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for {
		pods := must(c.owner.CoreV1().Pods(SystemNamespace).List(t.Context(), metav1.ListOptions{}))
		if len(pods.Items) > 0 {
			return pods.Items[0].Name
		}
		if time.Now().After(deadline) {
			t.Fatal("the Deployment made no pod")
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// exec asks for an exec without going through with it: a refusal comes first.
func (c *imported) exec(ctx context.Context, client *kubernetes.Clientset, pod string) error {
	var status int
	err := client.CoreV1().RESTClient().Post().Namespace(SystemNamespace).Resource("pods").Name(pod).SubResource("exec").
		Param("command", "true").Param("stdout", "true").Do(ctx).StatusCode(&status).Error()
	if err == nil && status < http.StatusBadRequest {
		return fmt.Errorf("exec was answered with %d", status)
	}
	return err
}

func (c *imported) testUninstall(t *testing.T) {
	out := must(Render(Params{Cluster: "edge-1", JoinToken: token, Image: "x", Ceiling: Admin}))
	// As the manifest's first lines say.
	for line := range strings.Lines(string(out)) {
		args, ok := strings.CutPrefix(line, "#   kubectl ")
		if !ok {
			continue
		}
		cmd, err := c.part.Kubectl(t.Context(), strings.Fields(args)...)
		if err != nil {
			t.Fatal(err)
		}
		if said, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s: %v: %s", args, err, said)
		}
	}
	for _, ns := range []string{SystemNamespace, UsersNamespace} {
		if _, err := c.owner.CoreV1().Namespaces().Get(t.Context(), ns, metav1.GetOptions{}); err == nil {
			t.Errorf("namespace %s is still there", ns)
		}
	}
}
