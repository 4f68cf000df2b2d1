package login

import (
	"context"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/chromedp"
	"golang.org/x/oauth2"

	"github.com/sallyport-mesh/sallyport/coordinator/internal/directory"
)

// chromium starts the real thing with a profile of its own, off the network; it
// ends with the test.
func chromium(t *testing.T) context.Context {
	t.Helper()
	// Not the test's context, which has ended when the browser is closed.
	ctx, cancel := chromedp.NewExecAllocator(context.Background(),
		chromedp.ExecPath("chromium"),
		chromedp.UserDataDir(t.TempDir()),
		chromedp.Headless,
		chromedp.NoSandbox, // the tests run as root, in sandboxes of their own
		chromedp.DisableGPU,
		chromedp.NoFirstRun,
		chromedp.Flag("disable-quic", true),
		chromedp.Flag("disable-background-networking", true),
		chromedp.Flag("disable-component-update", true),
		chromedp.Flag("disable-sync", true),
		chromedp.IgnoreCertErrors, // the coordinator's root is private
		chromedp.WindowSize(1100, 900),
	)
	t.Cleanup(cancel)
	tab, _ := chromedp.NewContext(ctx)
	t.Cleanup(func() {
		if err := chromedp.Cancel(tab); err != nil { // waits for the process
			t.Error(err)
		}
	})
	if err := chromedp.Do(tab); err != nil {
		t.Fatalf("starting chromium (Debian: apt-get install chromium): %v", err)
	}
	ctx, stop := context.WithTimeout(tab, 90*time.Second)
	t.Cleanup(stop)
	return ctx
}

type tabStep = chromedp.Action[chromedp.Void]

// shoot saves a screenshot where SALLYPORT_SCREENSHOTS names a directory.
func shoot(name string) tabStep {
	return chromedp.Func(func(ctx context.Context, t *chromedp.Target) error {
		dir := os.Getenv("SALLYPORT_SCREENSHOTS")
		if dir == "" {
			return nil
		}
		png, err := chromedp.FullScreenshot(100)(ctx, t)
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(dir, name+".png"), png, 0o644)
	})
}

func media(scheme string) tabStep {
	return chromedp.Func(func(ctx context.Context, t *chromedp.Target) error {
		_, err := cdp.Call(ctx, t, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{
			Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}},
		})
		return err
	})
}

// noScripts is a browser in which scripts are off.
func noScripts() tabStep {
	return chromedp.Func(func(ctx context.Context, t *chromedp.Target) error {
		_, err := cdp.Call(ctx, t, emulation.SetScriptExecutionDisabled, emulation.SetScriptExecutionDisabledParams{Value: true})
		return err
	})
}

// save runs an action for its value.
func save[T any](v *T, a chromedp.Action[T]) tabStep {
	return chromedp.Func(func(ctx context.Context, t *chromedp.Target) (err error) {
		*v, err = a(ctx, t)
		return err
	})
}

// terminal is what listens for the browser's answer on the person's machine.
func terminal(t *testing.T, fl *flow) <-chan *http.Request {
	t.Helper()
	answers := make(chan *http.Request, 4)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/callback" {
			answers <- r
			w.Write([]byte("<h1 id=terminal>back at the terminal</h1>")) //nolint:errcheck // a test's page
		}
	}))
	t.Cleanup(s.Close)
	fl.RedirectURL = s.URL + "/callback"
	return answers
}

// TestPersonLogsInWithChromium goes through the pages as a person does, with
// real cookies, real form-action rules and no scripts.
func TestPersonLogsInWithChromium(t *testing.T) {
	f := newFixture(t)
	fl := newFlow()
	answers := terminal(t, fl)
	ctx := chromium(t)

	var mu sync.Mutex
	var complaints []string
	err := chromedp.Listen(ctx, func(ev any) {
		if ev, ok := ev.(*network.EventLoadingFailed); ok && !ev.Canceled {
			mu.Lock()
			defer mu.Unlock()
			complaints = append(complaints, ev.ErrorText+" "+string(ev.BlockedReason))
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	var began, heading, alert, last string
	err = chromedp.Do(ctx,
		noScripts(),
		media("light"),
		chromedp.Navigate(fl.address()),
		save(&began, chromedp.Location()),
		save(&heading, chromedp.Text(chromedp.CSS("h1"))),
		shoot("login-light"),
		media("dark"), shoot("login-dark"), media("light"),
		// A wrong password first.
		chromedp.SendKeys(chromedp.CSS("#username"), "shivam"),
		chromedp.SendKeys(chromedp.CSS("#password"), "not this"),
		chromedp.Click(chromedp.CSS("button[type=submit]")),
		save(&alert, chromedp.Text(chromedp.CSS("[role=alert]"))),
		shoot("login-wrong"),
		// The name is still there; Enter sends the form.
		chromedp.SendKeys(chromedp.CSS("#password"), password+"\r"),
		chromedp.WaitVisible(chromedp.CSS("button[value=allow]")),
		shoot("consent-light"),
		media("dark"), shoot("consent-dark"), media("light"),
		chromedp.Click(chromedp.CSS("button[value=allow]")),
		save(&last, chromedp.Text(chromedp.CSS("#terminal"))),
	)
	if err != nil {
		t.Fatal(err)
	}
	if heading != "Log in" || !strings.Contains(alert, "do not belong together") || last != "back at the terminal" {
		t.Errorf("saw %q, %q, %q", heading, alert, last)
	}
	mu.Lock()
	if len(complaints) > 0 {
		t.Errorf("the browser complains: %v", complaints)
	}
	mu.Unlock()
	answer := <-answers
	if ref := answer.Header.Get("Referer"); ref != "" {
		t.Errorf("the terminal learned the referrer %q", ref)
	}
	token := must[*oauth2.Token](t)(fl.exchange(t.Context(), answer.URL))
	if id, err := f.Introspect(t.Context(), token.AccessToken, aKey); err != nil || id != f.user.Id {
		t.Errorf("%s, %v", id, err)
	}
	// The page again: nothing happens twice.
	var text string
	err = chromedp.Do(ctx, chromedp.Navigate(began), save(&text, chromedp.Text(chromedp.CSS("main"))), shoot("problem"))
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(text, "finished already") {
		t.Errorf("the finished login shows: %s", text)
	}
}

// TestPagesFitAPhone checks that nothing is wider than a small screen, and that
// every field has a label.
func TestPagesFitAPhone(t *testing.T) {
	f := newFixture(t)
	if _, _, err := f.dir.CreateUser(t.Context(), directory.UserSpec{Name: "virat"}); err != nil {
		t.Fatal(err)
	}
	w, _, err := f.dir.CreateWelcome(t.Context(), "virat", 0)
	if err != nil {
		t.Fatal(err)
	}
	ctx := chromium(t)
	for name, address := range map[string]string{
		"phone-login":   newFlow().address(),
		"phone-welcome": f.WelcomeURL(w.Secret),
		"phone-problem": front.server.URL + "/login?login_challenge=x",
		"phone-logout":  front.server.URL + "/logout",
	} {
		var wide bool
		var unlabelled int
		err := chromedp.Do(ctx,
			chromedp.EmulateViewport(320, 640),
			chromedp.Navigate(address),
			chromedp.WaitVisible(chromedp.CSS("h1")),
			save(&wide, chromedp.Evaluate[bool](`document.documentElement.scrollWidth > innerWidth`)),
			save(&unlabelled, chromedp.Evaluate[int](`[...document.querySelectorAll("input:not([type=hidden])")].filter(i => i.labels.length != 1).length`)),
			shoot(name),
		)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if wide || unlabelled > 0 {
			t.Errorf("%s: wider than the screen: %v; fields without a label: %d", name, wide, unlabelled)
		}
	}
	// The last step of the welcome, in full size.
	err = chromedp.Do(ctx,
		chromedp.EmulateViewport(1100, 900),
		chromedp.Navigate(f.WelcomeURL(w.Secret)),
		chromedp.SendKeys(chromedp.CSS("#password"), "a long password"),
		shoot("welcome"),
		chromedp.SendKeys(chromedp.CSS("#again"), "a long password\r"),
		chromedp.WaitVisible(chromedp.CSS("pre")),
		shoot("welcome-done"),
	)
	if err != nil {
		t.Fatal(err)
	}
}
