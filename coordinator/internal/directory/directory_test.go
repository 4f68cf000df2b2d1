package directory

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/sallyport-mesh/sallyport/coordinator/internal/store"
	"github.com/sallyport-mesh/sallyport/coordinator/internal/store/storetest"
	apiv1 "github.com/sallyport-mesh/sallyport/pkg/api/sallyport/v1"
	"github.com/sallyport-mesh/sallyport/pkg/identity"
)

// clock is a settable time source.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) Advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

type fixture struct {
	*Directory
	t     *testing.T
	store store.Store
	clock *clock
}

func open(t *testing.T) *fixture {
	t.Helper()
	f := &fixture{t: t, store: storetest.New(t), clock: &clock{now: time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)}}
	d, err := Open(t.Context(), Config{
		Store: f.store, Now: f.clock.Now, PruneEvery: time.Hour,
		Builtin: []*apiv1.Role{{Name: "view", Builtin: true}, {Name: "edit", Builtin: true}},
	})
	if err != nil {
		t.Fatal(err)
	}
	f.Directory = d
	return f
}

// ok unwraps what must succeed.
func ok[T any](t *testing.T) func(v T, rev uint64, err error) T {
	return func(v T, rev uint64, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		if rev == 0 {
			t.Error("a change without a revision")
		}
		return v
	}
}

func (f *fixture) user(name string) *apiv1.User {
	f.t.Helper()
	return ok[*apiv1.User](f.t)(f.CreateUser(f.t.Context(), UserSpec{Name: name}))
}

func (f *fixture) device(u *apiv1.User, key byte) *apiv1.Device {
	f.t.Helper()
	return ok[*apiv1.Device](f.t)(f.EnrollDevice(f.t.Context(), DeviceSpec{UserID: u.Id, KeySHA256: [32]byte{key}, Name: "laptop", OS: "linux"}))
}

func (f *fixture) session(u *apiv1.User, d *apiv1.Device) *apiv1.Session {
	f.t.Helper()
	return ok[*apiv1.Session](f.t)(f.CreateSession(f.t.Context(), u.Id, d.Id, time.Hour))
}

func (f *fixture) cluster(name, project string) (*apiv1.Cluster, JoinToken) {
	f.t.Helper()
	c, token, _, err := f.CreateCluster(f.t.Context(), ClusterSpec{Name: name, Project: project, Ceiling: "admin"})
	if err != nil {
		f.t.Fatal(err)
	}
	return c, token
}

func sameSnapshot(t *testing.T, a, b *Snapshot) {
	t.Helper()
	sameMap(t, "users", a.Users, b.Users)
	sameMap(t, "groups", a.Groups, b.Groups)
	sameMap(t, "projects", a.Projects, b.Projects)
	sameMap(t, "clusters", a.Clusters, b.Clusters)
	sameMap(t, "roles", a.Roles, b.Roles)
	sameMap(t, "grants", a.Grants, b.Grants)
	sameMap(t, "devices", a.Devices, b.Devices)
	sameMap(t, "sessions", a.Sessions, b.Sessions)
	sameMap(t, "agents", a.Agents, b.Agents)
}

func sameMap[T any, P message[T]](t *testing.T, what string, a, b map[string]*T) {
	t.Helper()
	if len(a) != len(b) {
		t.Errorf("%s: %d and %d", what, len(a), len(b))
	}
	for id, x := range a {
		if y, ok := b[id]; !ok || !proto.Equal(P(x), P(y)) {
			t.Errorf("%s: %s differs: %v and %v", what, id, x, y)
		}
	}
}

// TestSnapshotsAreTheStoreAndNeverChange makes random changes and holds that
// each is visible when it returns, that the incremental snapshot equals one read
// from nothing, and that snapshots taken before stay as they were.
func TestSnapshotsAreTheStoreAndNeverChange(t *testing.T) {
	f := open(t)
	ctx := t.Context()
	rnd := rand.New(rand.NewPCG(7, 7))
	name := func(kind string) string { return fmt.Sprintf("%s-%d", kind, rnd.IntN(5)) }
	changes := []func() (uint64, error){
		func() (uint64, error) { _, r, e := f.CreateUser(ctx, UserSpec{Name: name("u")}); return r, e },
		func() (uint64, error) { _, r, e := f.DeleteUser(ctx, name("u")); return r, e },
		func() (uint64, error) { _, r, e := f.SuspendUser(ctx, name("u"), ""); return r, e },
		func() (uint64, error) { _, r, e := f.ResumeUser(ctx, name("u"), ""); return r, e },
		func() (uint64, error) { _, r, e := f.SuspendUser(ctx, name("u"), name("p")); return r, e },
		func() (uint64, error) { _, r, e := f.BindAdmin(ctx, name("u"), ProjectManager, name("p")); return r, e },
		func() (uint64, error) { _, r, e := f.CreateGroup(ctx, name("g")); return r, e },
		func() (uint64, error) { _, r, e := f.AddMember(ctx, name("g"), name("u")); return r, e },
		func() (uint64, error) { _, r, e := f.RemoveMember(ctx, name("g"), name("u")); return r, e },
		func() (uint64, error) { _, r, e := f.DeleteGroup(ctx, name("g")); return r, e },
		func() (uint64, error) { _, r, e := f.CreateProject(ctx, name("p")); return r, e },
		func() (uint64, error) { _, r, e := f.DeleteProject(ctx, name("p")); return r, e },
		func() (uint64, error) {
			_, _, r, e := f.CreateCluster(ctx, ClusterSpec{Name: name("c"), Project: name("p"), Ceiling: "edit"})
			return r, e
		},
		func() (uint64, error) { _, r, e := f.DeleteCluster(ctx, name("c")); return r, e },
		func() (uint64, error) {
			_, r, e := f.CreateGrant(ctx, GrantSpec{Role: "view", User: name("u"), Project: name("p")})
			return r, e
		},
		func() (uint64, error) {
			_, r, e := f.CreateGrant(ctx, GrantSpec{Role: "edit", Group: name("g"), Cluster: name("c"), Namespaces: []string{"b", "a"}})
			return r, e
		},
		func() (uint64, error) {
			u, err := f.Snapshot().User(name("u"))
			if err != nil {
				return 0, err
			}
			d, _, err := f.EnrollDevice(ctx, DeviceSpec{UserID: u.Id, KeySHA256: [32]byte{byte(rnd.IntN(6))}, Name: "x"})
			if err != nil {
				return 0, err
			}
			_, r, e := f.CreateSession(ctx, u.Id, d.Id, time.Hour)
			return r, e
		},
		// The overlay's own keys move the revision and nothing else.
		func() (uint64, error) {
			return f.store.Update(ctx, func(tx store.Txn) error { tx.Put("tailnet/x", []byte{1}); return nil })
		},
	}
	var old *Snapshot
	var oldCopy *Snapshot
	done := 0
	for range 700 {
		rev, err := changes[rnd.IntN(len(changes))]()
		if err != nil {
			continue // many of them cannot be, which is part of the test
		}
		done++
		if s, err := f.Wait(ctx, rev); err != nil || s.Revision < rev {
			t.Fatalf("revision %d is not visible: %v", rev, err)
		}
		if done%20 == 0 {
			if old != nil {
				sameSnapshot(t, old, oldCopy)
			}
			fresh, err := load(ctx, f.store)
			if err != nil {
				t.Fatal(err)
			}
			old, oldCopy = f.Snapshot(), fresh
			if old.Revision != fresh.Revision {
				t.Fatalf("snapshot at %d, store at %d", old.Revision, fresh.Revision)
			}
			sameSnapshot(t, old, fresh)
			consistent(t, f)
		}
	}
	if done < 120 {
		t.Errorf("only %d changes were possible", done)
	}
}

// consistent holds that nothing refers to what is not there, and that the index
// of names is exactly the names.
func consistent(t *testing.T, f *fixture) {
	t.Helper()
	s := f.Snapshot()
	for _, g := range s.Groups {
		for _, id := range g.MemberIds {
			if s.Users[id] == nil {
				t.Errorf("group %s has the member %s, who is gone", g.Name, id)
			}
		}
	}
	for _, g := range s.Grants {
		if (g.UserId != "" && s.Users[g.UserId] == nil) || (g.GroupId != "" && s.Groups[g.GroupId] == nil) ||
			(g.ProjectId != "" && s.Projects[g.ProjectId] == nil) || (g.ClusterId != "" && s.Clusters[g.ClusterId] == nil) {
			t.Errorf("grant %v refers to nothing", g)
		}
	}
	for _, p := range s.Projects {
		for _, id := range p.SuspendedUserIds {
			if s.Users[id] == nil {
				t.Errorf("project %s suspends %s, who is gone", p.Name, id)
			}
		}
	}
	for _, u := range s.Users {
		for _, b := range u.Admin {
			if b.ProjectId != "" && s.Projects[b.ProjectId] == nil {
				t.Errorf("user %s manages %s, which is gone", u.Name, b.ProjectId)
			}
		}
		if found, err := s.User(u.Name); err != nil || found.Id != u.Id {
			t.Errorf("user %s is not found by name: %v", u.Name, err)
		}
	}
	for _, x := range s.Sessions {
		if s.Users[x.UserId] == nil || s.Devices[x.DeviceId] == nil {
			t.Errorf("session %v refers to nothing", x)
		}
	}
	err := f.store.View(t.Context(), func(r store.Reader) error {
		n := 0
		err := r.List("name/", func(store.Item) error { n++; return nil })
		if want := len(s.Users) + len(s.Groups) + len(s.Projects) + len(s.Clusters); n != want {
			t.Errorf("%d names for %d objects", n, want)
		}
		if err != nil {
			return err
		}
		n = 0
		err = r.List(deviceKeyPrefix, func(store.Item) error { n++; return nil })
		if n != len(s.Devices) {
			t.Errorf("%d device keys for %d devices", n, len(s.Devices))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestSubscriberGetsTheLastSnapshotAndHoldsUpNobody(t *testing.T) {
	f := open(t)
	ctx, stop := context.WithCancel(t.Context())
	ch := f.Subscribe(ctx)
	if s := <-ch; s.Revision != f.Snapshot().Revision {
		t.Errorf("first snapshot is %d, want the current one", s.Revision)
	}
	for i := range 20 { // nobody receives meanwhile
		f.user(fmt.Sprint("user", i))
	}
	want := f.Snapshot().Revision
	if s := <-ch; s.Revision != want || len(s.Users) != 20 {
		t.Errorf("got revision %d with %d users, want %d with 20", s.Revision, len(s.Users), want)
	}
	// What is none of the directory's is not announced.
	if _, err := f.store.Update(ctx, func(tx store.Txn) error { tx.Put("ack/x", nil); return nil }); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Wait(ctx, want+1); err != nil {
		t.Fatal(err)
	}
	select {
	case s := <-ch:
		t.Errorf("an unrelated commit was announced: %d", s.Revision)
	default:
	}
	stop()
	if s, open := <-ch; open {
		t.Errorf("got %v after the end", s)
	}
}

func TestRefsByNameAndID(t *testing.T) {
	f := open(t)
	u := f.user("shivam")
	for _, ref := range []string{"shivam", u.Id} {
		if got, err := f.Snapshot().User(ref); err != nil || got.Id != u.Id {
			t.Errorf("%s: %v, %v", ref, got, err)
		}
	}
	// A snapshot made by hand works as well.
	byHand := &Snapshot{Users: map[string]*apiv1.User{u.Id: u}}
	if got, err := byHand.User("shivam"); err != nil || got != u {
		t.Errorf("by hand: %v, %v", got, err)
	}
	_, err := f.Snapshot().User("nobody")
	if e, ok := errors.AsType[*NotFoundError](err); !ok || e.Error() != `no user "nobody"` {
		t.Errorf("unknown: %v", err)
	}
	_, _, err = f.CreateUser(t.Context(), UserSpec{Name: "shivam"})
	if e, ok := errors.AsType[*ExistsError](err); !ok || e.Error() != `user "shivam" exists already` {
		t.Errorf("twice: %v", err)
	}
	if _, _, err := f.CreateUser(t.Context(), UserSpec{Name: "Not a name"}); err == nil {
		t.Error("a bad name was taken")
	}
}

// TestSuspensionIsOneCommit holds that mark, generation, sessions and the word
// to Hydra appear together, and that nothing new is issued afterwards.
func TestSuspensionIsOneCommit(t *testing.T) {
	f := open(t)
	ctx := t.Context()
	u := f.user("shivam")
	dev := f.device(u, 1)
	ses := f.session(u, dev)
	cert := identity.UserCert{UserID: u.Id, DeviceID: dev.Id, SessionID: ses.Id, Generation: ses.AuthGeneration}
	if _, err := f.Snapshot().Authenticate(cert, f.clock.Now()); err != nil {
		t.Fatalf("a running session is refused: %v", err)
	}
	watch := f.store.Watch(ctx, f.Snapshot().Revision)
	suspended, rev, err := f.SuspendUser(ctx, "shivam", "")
	if err != nil {
		t.Fatal(err)
	}
	commit := <-watch.Commits()
	var keys []string
	for _, ch := range commit.Changes {
		keys = append(keys, ch.Key)
	}
	if want := []string{RevokePrefix + u.Id, "session/" + ses.Id, "user/" + u.Id}; commit.Revision != rev || !slices.Equal(keys, want) {
		t.Errorf("commit %d holds %v, want %d with %v", commit.Revision, keys, rev, want)
	}
	if !suspended.Suspended || suspended.AuthGeneration != u.AuthGeneration+1 || !f.Snapshot().Sessions[ses.Id].Revoked {
		t.Errorf("suspended to %v", suspended)
	}
	if _, err := f.Snapshot().Authenticate(cert, f.clock.Now()); err != ErrSuspended {
		t.Errorf("certificate of a suspended user: %v", err)
	}
	if _, _, err := f.CreateSession(ctx, u.Id, dev.Id, time.Hour); err != ErrSuspended {
		t.Errorf("a session for a suspended user: %v", err)
	}
	if _, _, err := f.EnrollDevice(ctx, DeviceSpec{UserID: u.Id, KeySHA256: [32]byte{9}}); err != ErrSuspended {
		t.Errorf("a device for a suspended user: %v", err)
	}
	ok[*apiv1.User](t)(f.ResumeUser(ctx, "shivam", ""))
	if _, err := f.Snapshot().Authenticate(cert, f.clock.Now()); err == nil {
		t.Error("an old certificate works again after a resume")
	}
	f.session(u, dev)
}

// TestNoSessionSurvivesARacingSuspension races logins against a suspension.
func TestNoSessionSurvivesARacingSuspension(t *testing.T) {
	f := open(t)
	for i := range 10 {
		u := f.user(fmt.Sprint("user", i))
		dev := f.device(u, byte(i))
		var group sync.WaitGroup
		for range 8 {
			group.Go(func() {
				_, _, err := f.CreateSession(t.Context(), u.Id, dev.Id, time.Hour)
				if err != nil && err != ErrSuspended {
					t.Error(err)
				}
			})
		}
		group.Go(func() {
			if _, _, err := f.SuspendUser(t.Context(), u.Id, ""); err != nil {
				t.Error(err)
			}
		})
		group.Wait()
		s := f.Snapshot()
		for _, ses := range s.SessionsOf(u.Id) {
			if !ses.Revoked || ses.AuthGeneration == s.Users[u.Id].AuthGeneration {
				t.Errorf("%v outlived the suspension", ses)
			}
		}
	}
}

func TestProjectSuspensionTouchesTheProjectAlone(t *testing.T) {
	f := open(t)
	u := f.user("shivam")
	ok[*apiv1.Project](t)(f.CreateProject(t.Context(), "aws"))
	got := ok[*apiv1.User](t)(f.SuspendUser(t.Context(), "shivam", "aws"))
	p, _ := f.Snapshot().Project("aws")
	if got.Suspended || got.AuthGeneration != u.AuthGeneration || !slices.Equal(p.SuspendedUserIds, []string{u.Id}) {
		t.Errorf("user %v, project %v", got, p)
	}
	ok[*apiv1.User](t)(f.SuspendUser(t.Context(), "shivam", "aws")) // again changes nothing
	ok[*apiv1.User](t)(f.ResumeUser(t.Context(), "shivam", "aws"))
	if p, _ := f.Snapshot().Project("aws"); len(p.SuspendedUserIds) != 0 {
		t.Errorf("after resume: %v", p)
	}
}

func TestAdminBindings(t *testing.T) {
	f := open(t)
	f.user("virat")
	p := ok[*apiv1.Project](t)(f.CreateProject(t.Context(), "aws"))
	ok[*apiv1.User](t)(f.BindAdmin(t.Context(), "virat", ProjectManager, "aws"))
	u := ok[*apiv1.User](t)(f.BindAdmin(t.Context(), "virat", ProjectManager, "aws"))
	if len(u.Admin) != 1 || u.Admin[0].ProjectId != p.Id {
		t.Errorf("bound: %v", u.Admin)
	}
	for _, bad := range [][2]string{{ProjectManager, ""}, {Administrator, "aws"}, {"root", ""}, {ProjectManager, "nope"}} {
		if _, _, err := f.BindAdmin(t.Context(), "virat", bad[0], bad[1]); err == nil {
			t.Errorf("%v was bound", bad)
		}
	}
	if u = ok[*apiv1.User](t)(f.UnbindAdmin(t.Context(), "virat", ProjectManager, "aws")); len(u.Admin) != 0 {
		t.Errorf("unbound: %v", u.Admin)
	}
	if _, _, err := f.UnbindAdmin(t.Context(), "virat", ProjectManager, "aws"); err == nil {
		t.Error("unbound twice")
	}
}

func TestGrantValidation(t *testing.T) {
	f := open(t)
	ctx := t.Context()
	f.user("u")
	ok[*apiv1.Group](t)(f.CreateGroup(ctx, "g"))
	ok[*apiv1.Project](t)(f.CreateProject(ctx, "p"))
	f.cluster("c", "p")
	for name, spec := range map[string]GrantSpec{
		"no subject":     {Role: "view", Cluster: "c"},
		"two subjects":   {Role: "view", User: "u", Group: "g", Cluster: "c"},
		"no target":      {Role: "view", User: "u"},
		"two targets":    {Role: "view", User: "u", Cluster: "c", Project: "p"},
		"unknown role":   {Role: "root", User: "u", Cluster: "c"},
		"unknown user":   {Role: "view", User: "x", Cluster: "c"},
		"pattern":        {Role: "view", User: "u", Cluster: "c", Namespaces: []string{"team-*"}},
		"ours":           {Role: "view", User: "u", Cluster: "c", Namespaces: []string{"sallyport-system"}},
		"over already":   {Role: "view", User: "u", Cluster: "c", ExpiresAt: f.clock.Now()},
		"control in why": {Role: "view", User: "u", Cluster: "c", Reason: "a\x1b[2Jb"},
	} {
		if g, _, err := f.CreateGrant(ctx, spec); err == nil {
			t.Errorf("%s: created %v", name, g)
		}
	}
	spec := GrantSpec{Role: "view", User: "u", Cluster: "c", Namespaces: []string{"b", "a", "b"}}
	g := ok[*apiv1.Grant](t)(f.CreateGrant(ctx, spec))
	if !slices.Equal(g.Namespaces, []string{"a", "b"}) {
		t.Errorf("namespaces %v", g.Namespaces)
	}
	if _, _, err := f.CreateGrant(ctx, spec); !strings.Contains(fmt.Sprint(err), g.Id) {
		t.Errorf("the same again: %v", err)
	}
	ok[*apiv1.Grant](t)(f.DeleteGrant(ctx, g.Id))
}

func TestProjectWithClustersIsNotDeleted(t *testing.T) {
	f := open(t)
	ok[*apiv1.Project](t)(f.CreateProject(t.Context(), "aws"))
	f.cluster("edge-1", "aws")
	if _, _, err := f.DeleteProject(t.Context(), "aws"); err == nil || Hint(err) == "" {
		t.Errorf("deleted: %v", err)
	}
	ok[*apiv1.Cluster](t)(f.DeleteCluster(t.Context(), "edge-1"))
	ok[*apiv1.Project](t)(f.DeleteProject(t.Context(), "aws"))
}

func TestPruneRemovesWhatIsOverAndNothingElse(t *testing.T) {
	f := open(t)
	ctx := t.Context()
	u := f.user("u")
	dev := f.device(u, 1)
	ok[*apiv1.Project](t)(f.CreateProject(ctx, "p"))
	f.session(u, dev)
	f.cluster("c", "p")
	ok[*apiv1.Grant](t)(f.CreateGrant(ctx, GrantSpec{Role: "view", User: "u", Cluster: "c", ExpiresAt: f.clock.Now().Add(time.Hour)}))
	keep := ok[*apiv1.Grant](t)(f.CreateGrant(ctx, GrantSpec{Role: "view", User: "u", Cluster: "c"}))
	ok[Welcome](t)(f.CreateWelcome(ctx, "u", time.Hour))
	before := f.Snapshot().Revision
	if rev, err := f.Prune(ctx); err != nil || rev != before {
		t.Errorf("pruning nothing wrote revision %d after %d (%v)", rev, before, err)
	}
	f.clock.Advance(keepTokens + 2*time.Hour)
	if _, err := f.Prune(ctx); err != nil {
		t.Fatal(err)
	}
	s := f.Snapshot()
	if len(s.Sessions) != 0 || len(s.Grants) != 1 || s.Grants[keep.Id] == nil || len(s.Devices) != 1 {
		t.Errorf("left: %v %v", s.Sessions, s.Grants)
	}
	err := f.store.View(ctx, func(r store.Reader) error {
		for _, prefix := range []string{joinTokenPrefix, welcomePrefix} {
			if err := r.List(prefix, func(it store.Item) error { return errors.New(it.Key) }); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Errorf("left: %v", err)
	}
}

// TestUnreadableObjectStopsTheDirectory holds that damage is an error, never an
// object less.
func TestUnreadableObjectStopsTheDirectory(t *testing.T) {
	f := open(t)
	if _, err := f.store.Update(t.Context(), func(tx store.Txn) error {
		tx.Put("user/usr-aaaaaaaaaaaaaaaa", []byte{0xff})
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	<-f.Done()
	if f.Err() == nil {
		t.Error("stopped without saying why")
	}
	if _, _, err := f.CreateGroup(t.Context(), "g"); err == nil {
		t.Error("a stopped directory takes changes")
	}
	if _, err := Open(t.Context(), Config{Store: f.store}); err == nil {
		t.Error("opened over an object that cannot be read")
	}
}
