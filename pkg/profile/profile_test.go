package profile

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sallyport-mesh/sallyport/pkg/pki"
	"github.com/sallyport-mesh/sallyport/pkg/process"
)

func home(t *testing.T) Home {
	t.Helper()
	h, err := Find(filepath.Join(t.TempDir(), "home"))
	if err != nil {
		t.Fatal(err)
	}
	return h
}

var link = pki.Link{URL: "https://127.0.0.1:8443", Pin: strings.Repeat("ab", 32)}

func saved(t *testing.T, expires time.Time) Home {
	t.Helper()
	h := home(t)
	p := New(link)
	p.RootPEM = "root"
	p.Session = &Session{ID: "ses", AuthKey: "key", Expires: expires}
	if err := h.Save(p); err != nil {
		t.Fatal(err)
	}
	return h
}

func TestProfileComesBackAsItWas(t *testing.T) {
	h := saved(t, time.Now().Add(time.Hour))
	p, err := h.LoadSession(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if p.Link() != link || string(p.Trust()) != "root" || p.Session.AuthKey != "key" {
		t.Errorf("profile %+v", p)
	}
	for name, want := range map[string]os.FileMode{".": 0o700, "profile.json": 0o600, "profile.lock": 0o600} {
		if info, err := os.Stat(h.Path(name)); err != nil || info.Mode().Perm() != want {
			t.Errorf("%s: %v, %v", name, info.Mode(), err)
		}
	}
}

// A public certificate is verified with the machine's roots; the root in the
// profile is then for agents alone.
func TestPublicCertificateNeedsNoRootOfOurs(t *testing.T) {
	p := New(pki.Link{URL: "https://sallyport.example.com"})
	p.RootPEM = "root"
	if p.Trust() != nil {
		t.Error("the private root would be asked for")
	}
}

func TestNoSessionIsOneSentenceAndAHint(t *testing.T) {
	over, out := saved(t, time.Now().Add(-time.Minute)), saved(t, time.Now().Add(time.Hour))
	if err := out.Update(func(p *Profile) bool { p.Session = nil; return true }); err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		h    Home
		want error
	}{
		"never logged in": {home(t), ErrNotLoggedIn},
		"logged out":      {out, ErrNotLoggedIn},
		"over":            {over, ErrExpired},
	} {
		if _, err := test.h.LoadSession(time.Now()); !errors.Is(err, test.want) || len(process.Hints(err)) != 1 {
			t.Errorf("%s: %v, hints %v", name, err, process.Hints(err))
		}
	}
}

func TestHomeThatOthersMayEnterIsRefused(t *testing.T) {
	h := saved(t, time.Now().Add(time.Hour))
	if err := os.Chmod(h.Dir(), 0o750); err != nil {
		t.Fatal(err)
	}
	if _, err := h.Load(); err == nil || errors.Is(err, ErrNotLoggedIn) {
		t.Errorf("load: %v", err)
	}
	if err := h.Save(New(link)); err == nil {
		t.Error("saved")
	}
	if _, err := h.DeviceKey(); err == nil {
		t.Error("made a key")
	}
}

func TestBrokenProfileIsNotGuessedAt(t *testing.T) {
	h := saved(t, time.Now().Add(time.Hour))
	for _, text := range []string{"", "{", `{"coordinator": "http://x"}`, `[]`} {
		if err := os.WriteFile(h.Path("profile.json"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if p, err := h.Load(); err == nil {
			t.Errorf("%q was read as %+v", text, p)
		}
	}
}

// The daemon forgets an auth key while a login saves a new session: neither may
// overwrite what the other wrote.
func TestUpdatesDoNotLoseALogin(t *testing.T) {
	h := saved(t, time.Now().Add(time.Hour))
	for range 50 {
		var wg sync.WaitGroup
		wg.Go(func() {
			err := h.Update(func(p *Profile) bool { p.Session.AuthKey = ""; return true })
			if err != nil {
				t.Error(err)
			}
		})
		wg.Go(func() {
			p := New(link)
			p.Session = &Session{ID: "new"}
			if err := h.Save(p); err != nil {
				t.Error(err)
			}
		})
		wg.Wait()
		if p, err := h.Load(); err != nil || p.Session.ID != "new" {
			t.Fatalf("after a login the profile is %+v, %v", p, err)
		}
		if err := h.Save(&Profile{Login: link.String(), Session: &Session{ID: "ses", AuthKey: "key"}}); err != nil {
			t.Fatal(err)
		}
	}
}

func TestProfilesShareNothing(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "home")
	t.Setenv(NameVariable, "")
	def, err := FindProfile(dir, "")
	if err != nil || def.Dir() != dir || def.Name() != "" {
		t.Fatalf("default %+v, %v", def, err)
	}
	work, err := FindProfile(dir, "work")
	if err != nil || work.Dir() != filepath.Join(dir, "profiles", "work") {
		t.Fatalf("work %+v, %v", work, err)
	}
	one, err := def.DeviceKey()
	if err != nil {
		t.Fatal(err)
	}
	two, err := work.DeviceKey()
	if err != nil {
		t.Fatal(err)
	}
	if one.Equal(two) {
		t.Error("two coordinators know this device by one key")
	}
	// What another program is told finds the same home, whatever it inherits.
	t.Setenv(NameVariable, "other")
	for _, h := range []Home{def, work} {
		for k, v := range h.Environment() {
			t.Setenv(k, v)
		}
		if found, err := Find(""); err != nil || found != h {
			t.Errorf("found %+v, want %+v (%v)", found, h, err)
		}
	}
	all, err := work.All()
	if err != nil || len(all) != 2 || all[0] != def || all[1] != work {
		t.Errorf("all %+v, %v", all, err)
	}
	for _, bad := range []string{"..", "a/b", "A", "-a", "a.", strings.Repeat("a", 33), "a\n"} {
		if h, err := FindProfile(dir, bad); err == nil {
			t.Errorf("%q is %+v", bad, h)
		}
	}
	if err := os.Chmod(dir, 0o750); err != nil {
		t.Fatal(err)
	}
	if work.Check() == nil {
		t.Error("a profile in a home that is open to others is fine")
	}
}
