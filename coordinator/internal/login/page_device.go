package login

import (
	"errors"
	"net/http"
	"time"

	"github.com/sallyport-mesh/sallyport/coordinator/internal/backoff"
	"github.com/sallyport-mesh/sallyport/coordinator/internal/directory"
	"github.com/sallyport-mesh/sallyport/coordinator/internal/store"
)

// codeView is the page on which a code is typed.
type codeView struct {
	Token, User, Problem string
}

// deviceView is the page on which a device is approved.
type deviceView struct {
	Token, User, Code          string
	Shown                      string // the code as the device shows it
	Name, OS, Addr, Asked, You string
	Elsewhere                  bool // it asks from another address than the person's
}

// codeBuckets count guesses at codes: by account, which cannot be had without
// its password, and by address.
func codeBuckets(v visitor, r *http.Request) []backoff.Bucket {
	return []backoff.Bucket{
		{Key: "code\x00" + v.user.Id, Free: 6, Max: 5 * time.Minute},
		{Key: "code\x00" + source(r), Free: 30, Max: time.Minute},
	}
}

// showDevice asks for the code. One in the address is not read: a link that
// fills it in would need only one careless click.
func (a *App) showDevice(w http.ResponseWriter, _ *http.Request, v visitor) {
	a.pages.render(w, http.StatusOK, "code", "Approve a device", codeView{Token: a.visitToken(v, "code"), User: v.user.Name})
}

// postDevice finds the device that waits with a code and shows what it is.
// Nothing is decided here.
func (a *App) postDevice(w http.ResponseWriter, r *http.Request, v visitor) {
	if !a.visitForm(w, r, v, "code") {
		return
	}
	view := codeView{Token: a.visitToken(v, "code"), User: v.user.Name}
	buckets := codeBuckets(v, r)
	if e, waiting := errors.AsType[*backoff.Error](a.guesses.Admit(buckets...)); waiting {
		view.Problem = "Too many attempts. Wait " + retryAfter(w, e) + " seconds, then try again."
		a.pages.render(w, http.StatusTooManyRequests, "code", "Approve a device", view)
		return
	}
	code, ok := parseUserCode(r.PostForm.Get("code"))
	var req deviceRequest
	err := errNoSuchCode
	if ok {
		err = a.cfg.Store.View(r.Context(), func(tx store.Reader) (err error) {
			_, req, err = a.deviceByCode(tx, code)
			return err
		})
	}
	switch {
	case errors.Is(err, errNoSuchCode), errors.Is(err, errDecided):
		view.Problem = "No device waits with this code. Compare it with what the device shows; it is good for ten minutes."
		a.pages.render(w, http.StatusForbidden, "code", "Approve a device", view)
		return
	case err != nil:
		a.failure(w, r, err)
		return
	}
	a.guesses.Succeeded(buckets...)
	you := host(r)
	a.pages.render(w, http.StatusOK, "device", "Approve this device?", deviceView{
		Token: a.visitToken(v, "device", code), User: v.user.Name, Code: code, Shown: showCode(code),
		Name: req.Name, OS: req.OS, Addr: req.Addr, You: you, Elsewhere: req.Addr != you,
		Asked: a.ago(req.AskedAt),
	})
}

// ago is how long something was ago, in words and by the clock.
func (a *App) ago(t time.Time) string {
	d := a.cfg.Now().Sub(t)
	clock := t.UTC().Format("15:04:05 UTC")
	switch {
	case d < time.Minute:
		return "less than a minute ago, " + clock
	case d < 2*time.Minute:
		return "a minute ago, " + clock
	}
	return d.Truncate(time.Minute).String() + " ago, " + clock
}

// decideDevicePage is the click that approves or denies.
func (a *App) decideDevicePage(w http.ResponseWriter, r *http.Request, v visitor) {
	if r.ParseForm() != nil {
		a.form(w, r)
		return
	}
	code, ok := parseUserCode(r.PostForm.Get("code"))
	if !ok || !a.visitForm(w, r, v, "device", code) {
		if !ok {
			a.stale(w, r)
		}
		return
	}
	approve := false
	switch r.PostForm.Get("decision") {
	case "approve":
		approve = true
	case "deny":
	default:
		a.stale(w, r)
		return
	}
	// On record before it counts: an approval that nobody can find later is worse
	// than one that is on record and came to nothing.
	var why error
	if !approve {
		why = &directory.RefusedError{Reason: "denied by the person who was asked"}
	}
	var req deviceRequest
	err := a.cfg.Store.View(r.Context(), func(tx store.Reader) (err error) {
		_, req, err = a.deviceByCode(tx, code)
		return err
	})
	if err == nil {
		err = a.record(r, "login.device", "user "+v.user.Name+" device "+req.Name+" from "+req.Addr, v.user, why)
	}
	if err == nil {
		_, err = a.decideDevice(r.Context(), code, v.user, approve)
	}
	switch {
	case errors.Is(err, errNoSuchCode), errors.Is(err, errDecided):
		a.problem(w, r, http.StatusGone, problem{Title: "This device does not wait any more", Text: "It was answered already, or ten minutes are over. Nothing was changed."})
	case err != nil:
		a.failure(w, r, err)
	case approve:
		a.pages.render(w, http.StatusOK, "done", "The device is approved", doneView{Text: "It logs in as " + v.user.Name + " within a few seconds. You can close this page."})
	default:
		a.pages.render(w, http.StatusOK, "done", "The device is denied", doneView{Text: "It gets nothing. If you did not start a login yourself, somebody tried to use your account: tell an administrator."})
	}
}
