package serviceaccount

import (
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/sallyport-mesh/sallyport/deploy/manifest"
	"github.com/sallyport-mesh/sallyport/pkg/policy"
)

func timestamp(t time.Time) *timestamppb.Timestamp { return timestamppb.New(t) }

func TestFirstUseMakesAnAccountAndLaterUsesWriteNothing(t *testing.T) {
	w := newWorld(t, nil)
	user := newUser()
	w.apply(w.set(grant{user: user, role: policy.View}))
	if n := len(w.cluster()); n != 0 {
		t.Fatalf("%d objects exist before the first request", n)
	}
	w.tap.takeWrites()

	first := w.mustUse(user, listPods)
	if _, err := as(t, first).CoreV1().Pods("default").List(t.Context(), metav1.ListOptions{}); err != nil {
		t.Fatalf("the account that was lent may not do what it was lent for: %v", err)
	}
	if n := len(w.tap.takeWrites()); n != 3 {
		t.Errorf("%d writes on first use, want account, binding, token", n)
	}
	if !strings.HasPrefix(first.Account, "system:serviceaccount:sallyport-users:sp-user-") || !strings.HasPrefix(first.ID, "JTI=") {
		t.Errorf("%s %s", first.Account, first.ID)
	}
	for range 20 {
		if again := w.mustUse(user, listPods); again != first {
			t.Fatal("the second use got another credential")
		}
	}
	if got := w.tap.takeWrites(); len(got) != 0 {
		t.Errorf("the warm path wrote: %v", got)
	}
	if a, b := w.count(kindAccount), w.count(kindCluster); a != 1 || b != 1 {
		t.Errorf("%d accounts, %d bindings", a, b)
	}
}

func TestFiftyFirstUsesMakeOneAccount(t *testing.T) {
	w := newWorld(t, nil)
	user := newUser()
	w.apply(w.set(grant{user: user, role: policy.Edit}))
	var wg sync.WaitGroup
	creds := make([]Credential, 50)
	for i := range creds {
		wg.Go(func() {
			var err error
			if creds[i], err = w.use(user, listPods); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for _, c := range creds {
		if c != creds[0] {
			t.Fatal("two callers got different credentials")
		}
	}
	if a, b := w.count(kindAccount), w.count(kindCluster); a != 1 || b != 1 {
		t.Errorf("%d accounts, %d bindings", a, b)
	}
}

func TestRevokedUserLosesAccountAndEveryBindingWhileOthersKeepTheirs(t *testing.T) {
	w := newWorld(t, nil)
	ns := newNamespace(t)
	out, stays := newUser(), newUser()
	kept := grant{user: stays, role: policy.Edit}
	w.apply(w.set(kept, grant{user: out, role: policy.ClusterAdmin}, grant{user: out, role: policy.View, namespaces: []string{ns, "default"}}))
	gone := w.mustUse(out, listPods)
	before := w.mustUse(stays, listPods)
	if n := len(w.of(out)); n != 4 {
		t.Fatalf("%d objects, want an account and three bindings", n)
	}

	w.apply(w.set(kept))
	if left := w.of(out); len(left) != 0 {
		t.Errorf("Apply said clean, and left %v", left)
	}
	if n := len(w.of(stays)); n != 2 {
		t.Errorf("the other has %d objects", n)
	}
	if after := w.mustUse(stays, listPods); after != before {
		t.Error("the other's credential changed")
	}
	if _, err := as(t, before).CoreV1().Pods("default").List(t.Context(), metav1.ListOptions{}); err != nil {
		t.Errorf("the other's account: %v", err)
	}
	eventually(t, "the old token is worth nothing", func() bool {
		_, err := as(t, gone).CoreV1().Pods("default").List(t.Context(), metav1.ListOptions{})
		return apierrors.IsForbidden(err) || apierrors.IsUnauthorized(err)
	})
	if _, err := w.Token(t.Context(), policy.Subject{UserID: out}, policy.Attributes{UserID: out}); !errors.Is(err, ErrNotEntitled) {
		t.Errorf("after the revocation: %v", err)
	}
}

func TestMintThatWaitedForItsTurnSeesTheRevocation(t *testing.T) {
	w := newWorld(t, nil)
	user := newUser()
	w.set(grant{user: user, role: policy.Edit})
	s, _ := w.policy.Load().Subject(user)
	acc := w.account(user)
	if err := acc.acquire(t.Context()); err != nil { // somebody is at work
		t.Fatal(err)
	}
	result := make(chan error, 1)
	go func() {
		a := listPods
		a.UserID = user
		_, err := w.Token(t.Context(), s, a)
		result <- err
	}()
	eventually(t, "the request is there", func() bool { return acc.used.Load() != 0 })
	// Long enough to read a policy too early, if it were read before its turn.
	select {
	case <-result:
		t.Fatal("it did not wait")
	case <-time.After(50 * time.Millisecond):
	}
	w.set()
	acc.release()
	if err := <-result; !errors.Is(err, ErrNotEntitled) {
		t.Errorf("got %v", err)
	}
	if left := w.of(user); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
}

func TestRevocationRacingAMintLeavesNothing(t *testing.T) {
	w := newWorld(t, nil)
	for range 15 {
		user := newUser()
		w.set(grant{user: user, role: policy.Edit})
		s, _ := w.policy.Load().Subject(user)
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				a := listPods
				a.UserID = user
				w.Token(t.Context(), s, a) // either outcome is right
			})
		}
		w.apply(w.set())
		wg.Wait()
		// Whoever minted under the old policy had the lock before Apply; who came
		// after it saw the new one.
		if left := w.of(user); len(left) != 0 {
			t.Fatalf("left: %v", left)
		}
	}
}

func TestNarrowedGrantTakesTheOldRoleAway(t *testing.T) {
	w := newWorld(t, nil)
	user := newUser()
	w.apply(w.set(grant{user: user, role: policy.ClusterAdmin}))
	cred := w.mustUse(user, listPods)
	if _, err := as(t, cred).CoreV1().Secrets("default").List(t.Context(), metav1.ListOptions{}); err != nil {
		t.Fatal(err)
	}
	wide := w.plan.roleOf[policy.ClusterAdmin]

	w.apply(w.set(grant{user: user, role: policy.View}))
	if n := w.count(kindCluster); n != 1 {
		t.Errorf("%d bindings", n)
	}
	if after := w.mustUse(user, listPods); after != cred {
		t.Error("narrowing changed the account")
	}
	eventually(t, "Secrets are refused", func() bool {
		_, err := as(t, cred).CoreV1().Secrets("default").List(t.Context(), metav1.ListOptions{})
		return apierrors.IsForbidden(err)
	})
	if _, err := as(t, cred).CoreV1().Pods("default").List(t.Context(), metav1.ListOptions{}); err != nil {
		t.Errorf("what is left was taken too: %v", err)
	}
	if _, err := shared.admin.RbacV1().ClusterRoles().Get(t.Context(), wide, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("the old role is still there: %v", err)
	}
}

func TestWidenedGrantIsThereForTheNextRequest(t *testing.T) {
	w := newWorld(t, nil)
	user := newUser()
	w.apply(w.set(grant{user: user, role: policy.View}))
	w.mustUse(user, listPods)
	w.set(grant{user: user, role: policy.ClusterAdmin}) // in force, and not yet applied
	secrets := policy.Attributes{ResourceRequest: true, Verb: "list", APIVersion: "v1", Resource: "secrets", Namespace: "default"}
	cred := w.mustUse(user, secrets)
	if _, err := as(t, cred).CoreV1().Secrets("default").List(t.Context(), metav1.ListOptions{}); err != nil {
		t.Fatal(err)
	}
}

func TestNamespaceGrantsBecomeRoleBindingsAndMissingNamespacesAreNotMade(t *testing.T) {
	w := newWorld(t, nil)
	teamA := newNamespace(t)
	teamLater := teamA + "-later"
	user := newUser()
	w.apply(w.set(grant{user: user, role: policy.Edit, namespaces: []string{teamA, teamLater}}))
	inA := listPods
	inA.Namespace = teamA
	cred := w.mustUse(user, inA)
	if rb, crb := w.count(kindBinding), w.count(kindCluster); rb != 1 || crb != 0 {
		t.Fatalf("%d RoleBindings, %d ClusterRoleBindings", rb, crb)
	}
	client := as(t, cred)
	if _, err := client.CoreV1().Pods(teamA).List(t.Context(), metav1.ListOptions{}); err != nil {
		t.Error(err)
	}
	if _, err := client.CoreV1().Pods("default").List(t.Context(), metav1.ListOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("another namespace: %v", err)
	}
	if _, err := shared.admin.CoreV1().Namespaces().Get(t.Context(), teamLater, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("a namespace was made: %v", err)
	}

	makeNamespace(t, teamLater)
	later := listPods
	later.Namespace = teamLater
	cred = w.mustUse(user, later)
	if _, err := as(t, cred).CoreV1().Pods(teamLater).List(t.Context(), metav1.ListOptions{}); err != nil {
		t.Errorf("once the namespace is there: %v", err)
	}
}

func TestCrashLeavesNothingThatTheNextStartDoesNotSweep(t *testing.T) {
	w := newWorld(t, nil)
	forgotten, remembered := newUser(), newUser()
	w.apply(w.set(grant{user: forgotten, role: policy.Edit}, grant{user: remembered, role: policy.View}))
	w.mustUse(remembered, listPods)
	w.mustUse(forgotten, listPods)
	w.stop()
	// As after a crash between making the objects and writing them down, in the
	// middle of a line.
	path := filepath.Join(w.cfg.Dir, "accounts.ledger")
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	first, rest, _ := strings.Cut(string(data), "\n")
	if err := os.WriteFile(path, []byte(first+"\n"+rest[:len(rest)/2]), 0o600); err != nil {
		t.Fatal(err)
	}

	w.start()
	if left := w.of(forgotten); len(left) != 0 {
		t.Errorf("not swept: %v", left)
	}
	if n := len(w.of(remembered)); n != 2 {
		t.Errorf("what is on record has %d objects", n)
	}
	w.tap.takeWrites()
	w.mustUse(remembered, listPods)
	if got := w.tap.takeWrites(); len(got) != 1 || !strings.HasSuffix(got[0], "/token") {
		t.Errorf("an account on record cost %v, want a token", got)
	}
	w.mustUse(forgotten, listPods)
}

func TestUserRevokedWhileTheAgentWasDownIsRemovedAtStart(t *testing.T) {
	w := newWorld(t, nil)
	user := newUser()
	w.apply(w.set(grant{user: user, role: policy.Edit}))
	w.mustUse(user, listPods)
	w.stop()
	w.set()
	w.start()
	eventually(t, "nothing is left", func() bool { return len(w.of(user)) == 0 })
}

func TestObjectsMadeInAdvanceAreNotAdopted(t *testing.T) {
	w := newWorld(t, nil)
	user := newUser()
	w.apply(w.set(grant{user: user, role: policy.Edit}))
	s, _ := w.policy.Load().Subject(user)
	name := w.accountName(s, 0)
	// Only who has the agent's own identity gets past the admission policy.
	stranger := corev1Account(name)
	planted, err := w.client.CoreV1().ServiceAccounts(manifest.UsersNamespace).Create(t.Context(), stranger, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	token, err := requestToken(t.Context(), w.client, name)
	if err != nil {
		t.Fatal(err)
	}
	as(t, token.Credential).CoreV1().Pods("default").List(t.Context(), metav1.ListOptions{}) // now it is in the apiserver's cache

	cred := w.mustUse(user, listPods)
	if strings.HasSuffix(cred.Account, ":"+name) {
		t.Error("the account took the stranger's name")
	}
	if _, err := as(t, token.Credential).CoreV1().Pods("default").List(t.Context(), metav1.ListOptions{}); err == nil {
		t.Error("the stranger's token got our binding")
	}
	if got, err := w.client.CoreV1().ServiceAccounts(manifest.UsersNamespace).Get(t.Context(), planted.Name, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("the stranger's account is still there: %v %v", got, err)
	}
}

func TestBindingMadeInAdvanceIsReplaced(t *testing.T) {
	w := newWorld(t, nil)
	user := newUser()
	w.apply(w.set(grant{user: user, role: policy.ClusterAdmin}, grant{user: newUser(), role: policy.View}))
	s, _ := w.policy.Load().Subject(user)
	// Our name for the wide role, bound to the narrow one.
	name := bindingName(w.accountName(s, 0), scope{"", w.plan.roleOf[policy.ClusterAdmin]})
	planted := clusterBinding(name, w.accountName(s, 0), w.plan.roleOf[policy.View])
	got, err := w.client.RbacV1().ClusterRoleBindings().Create(t.Context(), planted, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	w.mustUse(user, listPods)
	now, err := w.client.RbacV1().ClusterRoleBindings().Get(t.Context(), name, metav1.GetOptions{})
	if err != nil || now.UID == got.UID || now.RoleRef.Name != w.plan.roleOf[policy.ClusterAdmin] {
		t.Errorf("%v %v", now, err)
	}
}

func TestWhatOthersDeleteComesBack(t *testing.T) {
	w := newWorld(t, nil)
	user := newUser()
	w.apply(w.set(grant{user: user, role: policy.Edit}))
	cred := w.mustUse(user, listPods)
	var binding object
	for _, o := range w.of(user) {
		if o.kind == kindCluster {
			binding = o
		}
	}
	if err := shared.admin.RbacV1().ClusterRoleBindings().Delete(t.Context(), binding.name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the binding is back", func() bool {
		b, err := shared.admin.RbacV1().ClusterRoleBindings().Get(t.Context(), binding.name, metav1.GetOptions{})
		return err == nil && b.UID != binding.uid
	})
	role := w.plan.roleOf[policy.Edit]
	if err := shared.admin.RbacV1().ClusterRoles().Delete(t.Context(), role, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the role is back", func() bool {
		_, err := shared.admin.RbacV1().ClusterRoles().Get(t.Context(), role, metav1.GetOptions{})
		return err == nil
	})
	eventually(t, "the account may do its work again", func() bool {
		_, err := as(t, cred).CoreV1().Pods("default").List(t.Context(), metav1.ListOptions{})
		return err == nil
	})

	// An account that is deleted takes its bindings along and is made anew, with
	// another token, when it is next used.
	name := strings.TrimPrefix(cred.Account, "system:serviceaccount:"+manifest.UsersNamespace+":")
	if err := shared.admin.CoreV1().ServiceAccounts(manifest.UsersNamespace).Delete(t.Context(), name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "its bindings are gone", func() bool { return len(w.of(user)) == 0 })
	if again := w.mustUse(user, listPods); again.Token == cred.Token {
		t.Error("a dead token was lent")
	}
}

func TestStrangeObjectsUnderOurLabelAreDeleted(t *testing.T) {
	w := newWorld(t, nil)
	user := newUser()
	w.apply(w.set(grant{user: user, role: policy.Edit}))
	w.mustUse(user, listPods)
	planted := clusterBinding("sp-backdoor", "sp-somebody", w.plan.roleOf[policy.Edit])
	planted.Labels = map[string]string{labelAgent: w.cfg.AgentID, labelUser: user}
	if _, err := w.client.RbacV1().ClusterRoleBindings().Create(t.Context(), planted, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it is gone", func() bool {
		_, err := shared.admin.RbacV1().ClusterRoleBindings().Get(t.Context(), "sp-backdoor", metav1.GetOptions{})
		return apierrors.IsNotFound(err)
	})
	if n := len(w.of(user)); n != 2 {
		t.Errorf("%d objects are left", n)
	}
}

func TestIdleAccountIsRemoved(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.Idle = 500 * time.Millisecond })
	user := newUser()
	w.apply(w.set(grant{user: user, role: policy.Edit}))
	first := w.mustUse(user, listPods)
	eventually(t, "nothing is left", func() bool { return len(w.of(user)) == 0 })
	if again := w.mustUse(user, listPods); again.Token == first.Token {
		t.Error("a dead token was lent")
	}
}

func TestExpiredGrantTakesItsAccount(t *testing.T) {
	w := newWorld(t, nil)
	user := newUser()
	w.apply(w.set(grant{user: user, role: policy.Edit, expires: time.Now().Add(1500 * time.Millisecond)}))
	w.mustUse(user, listPods)
	eventually(t, "nothing is left", func() bool { return len(w.of(user)) == 0 })
	if _, err := w.use(user, listPods); !errors.Is(err, ErrNotEntitled) {
		t.Errorf("after the expiry: %v", err)
	}
}

func TestTokenIsRenewedAheadOfTime(t *testing.T) {
	w := newWorld(t, nil)
	user := newUser()
	w.apply(w.set(grant{user: user, role: policy.Edit}))
	first := w.mustUse(user, listPods)
	acc := w.account(user)
	if life := time.Until(acc.lent.Load().until); life < 9*time.Minute || life > 10*time.Minute {
		t.Errorf("lent for %v", life)
	}
	// Two thirds of ten minutes have passed.
	old := *acc.lent.Load()
	old.renew = time.Now().Add(-time.Second)
	acc.lent.Store(&old)
	eventually(t, "there is a new token", func() bool { l := acc.lent.Load(); return l != nil && l.Token != first.Token })
	w.tap.takeWrites()
	if second := w.mustUse(user, listPods); second.Token == first.Token || second.Account != first.Account {
		t.Error("not renewed")
	}
	if got := w.tap.takeWrites(); len(got) != 0 {
		t.Errorf("the request paid for it: %v", got)
	}
}

func TestReplicaGoneForGoodIsSweptByAnother(t *testing.T) {
	gone := newWorld(t, nil)
	user := newUser()
	gone.apply(gone.set(grant{user: user, role: policy.Edit}, grant{user: user, role: policy.View, namespaces: []string{"default"}}))
	gone.mustUse(user, listPods)
	alive := newWorld(t, func(c *Config) { c.Gone = 2 * time.Second })
	alive.apply(alive.set(grant{user: user, role: policy.Edit}))
	alive.mustUse(user, listPods)
	if gone.cfg.AgentID == alive.cfg.AgentID || len(gone.of(user)) != 3 {
		t.Fatal("not two replicas")
	}
	gone.stop()
	eventually(t, "what it left is swept", func() bool { return len(gone.of(user)) == 0 })
	if n := len(alive.of(user)); n != 2 {
		t.Errorf("the one that lives has %d objects", n)
	}
}

func TestApplyNamesWhatDidNotAnswer(t *testing.T) {
	w := newWorld(t, nil)
	user := newUser()
	w.apply(w.set(grant{user: user, role: policy.Edit}))
	w.mustUse(user, listPods)
	w.tap.setSpoil(func(r *http.Request, send func() (*http.Response, error)) (*http.Response, error) {
		if r.Method == http.MethodDelete && strings.Contains(r.URL.Path, "clusterrolebindings") {
			return nil, errors.New("line cut")
		}
		return send()
	})
	err := w.Apply(t.Context(), w.set())
	if err == nil || !strings.Contains(err.Error(), user) || !strings.Contains(err.Error(), "deleting binding sp-user-") || !strings.Contains(err.Error(), "line cut") {
		t.Fatalf("%v", err)
	}
	if n := w.count(kindAccount); n != 0 {
		t.Error("the account stayed although its binding did")
	}
	w.tap.setSpoil(nil)
	eventually(t, "it was tried again", func() bool { return len(w.of(user)) == 0 })
}

func TestAnswerThatGotLostCostsNothing(t *testing.T) {
	for _, path := range []string{"serviceaccounts", "clusterrolebindings", "token"} {
		t.Run(path, func(t *testing.T) {
			w := newWorld(t, nil)
			user := newUser()
			w.apply(w.set(grant{user: user, role: policy.Edit}))
			var once sync.Once
			w.tap.setSpoil(func(r *http.Request, send func() (*http.Response, error)) (*http.Response, error) {
				res, err := send()
				if r.Method == http.MethodPost && strings.HasSuffix(r.URL.Path, path) {
					once.Do(func() { res.Body.Close(); res, err = nil, errors.New("line cut") })
				}
				return res, err
			})
			if _, err := w.use(user, listPods); err == nil {
				t.Fatal("a failure was taken for a success")
			}
			cred := w.mustUse(user, listPods)
			if _, err := as(t, cred).CoreV1().Pods("default").List(t.Context(), metav1.ListOptions{}); err != nil {
				t.Error(err)
			}
			eventually(t, "there is one account and one binding", func() bool { return w.count(kindAccount) == 1 && w.count(kindCluster) == 1 })
			w.apply(w.set())
			if left := w.of(user); len(left) != 0 {
				t.Errorf("left: %v", left)
			}
		})
	}
}

func TestNobodyIsLentAnythingForSomebodyElse(t *testing.T) {
	w := newWorld(t, nil)
	user := newUser()
	w.apply(w.set(grant{user: user, role: policy.Edit}))
	if _, err := w.Token(t.Context(), policy.Subject{UserID: user}, policy.Attributes{UserID: newUser()}); err == nil {
		t.Error("a subject and a request of two people")
	}
	if _, err := w.Token(t.Context(), policy.Subject{UserID: newUser()}, policy.Attributes{}); err == nil {
		t.Error("a request of nobody's")
	}
	if n := len(w.cluster()); n != 0 {
		t.Errorf("%d objects", n)
	}
}

func TestLedgerThatCannotBeWrittenEndsRun(t *testing.T) {
	w := newWorld(t, nil)
	w.stop()
	m, err := New(t.Context(), w.cfg)
	if err != nil {
		t.Fatal(err)
	}
	w.Minter = m
	done := make(chan error, 1)
	go func() { done <- m.Run(t.Context()) }()
	<-m.ready
	user := newUser()
	w.apply(w.set(grant{user: user, role: policy.Edit}))
	if err := m.ledger.close(); err != nil { // as a disk that is gone
		t.Fatal(err)
	}
	if _, err := w.use(user, listPods); err == nil {
		t.Error("an account was lent that is on no record")
	}
	if err := <-done; err == nil || !strings.Contains(err.Error(), "writing ledger of accounts") {
		t.Errorf("Run ended with %v", err)
	}
}

func TestMissingNamespaceCostsNothingWhileNobodyAsksForIt(t *testing.T) {
	w := newWorld(t, nil)
	user := newUser()
	ns := newNamespace(t)
	w.apply(w.set(grant{user: user, role: policy.Edit, namespaces: []string{ns, ns + "-not"}}))
	a := listPods
	a.Namespace = ns
	w.mustUse(user, a)
	acc := w.account(user)
	w.tap.takeWrites()
	// Two looks of the background at the account, whatever it does then.
	for range 2 {
		if err := w.attendTo(t.Context(), acc); err != nil {
			t.Fatal(err)
		}
	}
	w.mustUse(user, a)
	if got := w.tap.takeWrites(); len(got) != 0 {
		t.Errorf("wrote %v", got)
	}
}

func TestCeilingBoundsEverybodyAndNarrowsAtOnce(t *testing.T) {
	w := newWorld(t, nil)
	user := newUser()
	w.apply(w.set(grant{user: user, role: policy.ClusterAdmin}))
	cred := w.mustUse(user, listPods)
	if _, err := as(t, cred).CoreV1().Secrets("default").List(t.Context(), metav1.ListOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := as(t, cred).CoreV1().ServiceAccounts("default").CreateToken(t.Context(), "default", tokenRequest(), metav1.CreateOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("a cluster-admin made a token: %v", err)
	}
	// The owner narrows it while everything runs.
	if err := shared.applyManifest(manifest.View); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := shared.applyManifest(manifest.Admin); err != nil {
			t.Error(err)
		}
		eventually(t, "the ceiling is up again", func() bool { return len(w.Ceiling()) > 25 })
	})
	eventually(t, "Secrets are refused", func() bool {
		_, err := as(t, cred).CoreV1().Secrets("default").List(t.Context(), metav1.ListOptions{})
		return apierrors.IsForbidden(err)
	})
	eventually(t, "what is under it still works", func() bool {
		_, err := as(t, cred).CoreV1().Pods("default").List(t.Context(), metav1.ListOptions{})
		return err == nil
	})
}

func TestRequestWaitsUntilTheApiserverHonoursItsBinding(t *testing.T) {
	w := newWorld(t, nil)
	user := newUser()
	w.apply(w.set(grant{user: user, role: policy.View}))
	w.mustUse(user, listPods)
	l := *w.account(user).lent.Load()
	secrets := policy.Attributes{UserID: user, ResourceRequest: true, Verb: "list", APIVersion: "v1", Resource: "secrets", Namespace: "default"}

	// A refusal that lasts is the apiserver's to say, after two seconds at most.
	l.settled = time.Now().Add(300 * time.Millisecond)
	if err := w.settle(t.Context(), &l, secrets); err != nil || time.Now().Before(l.settled) {
		t.Errorf("gave up early: %v", err)
	}
	// One that is only lag is waited for.
	l.settled = time.Now().Add(20 * time.Second)
	done := make(chan error, 1)
	go func() { done <- w.settle(t.Context(), &l, secrets) }()
	select {
	case <-done:
		t.Fatal("did not wait")
	case <-time.After(100 * time.Millisecond):
	}
	w.apply(w.set(grant{user: user, role: policy.Edit}))
	if err := <-done; err != nil || time.Now().After(l.settled) {
		t.Errorf("%v", err)
	}
}
