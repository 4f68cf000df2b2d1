package login

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"math"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode"

	"github.com/hashicorp/golang-lru/v2/expirable"

	"github.com/sallyport-mesh/sallyport/coordinator/internal/backoff"
)

// The paths of the two endpoints of RFC 8628, which Discover names.
const (
	DeviceAuthorizationPath = "/device/authorization"
	DeviceTokenPath         = "/device/token"

	deviceGrant = "urn:ietf:params:oauth:grant-type:device_code"
	// devicePoll is the least time between two questions of a device.
	devicePoll = 2 * time.Second
	// slowerBy is what slow_down adds (RFC 8628, section 3.5).
	slowerBy = 5 * time.Second
)

// paces holds how fast each device may ask, in memory: a question that is
// answered with "wait" must cost no write.
type paces struct {
	mu sync.Mutex
	of *expirable.LRU[string, pace]
}

type pace struct {
	every time.Duration
	next  time.Time
}

func newPaces() *paces {
	return &paces{of: expirable.NewLRU[string, pace](2*maxWaiting, nil, deviceLife)}
}

// ask reports whether a device asks too soon, and makes it slower if it does.
func (p *paces) ask(device string, now time.Time) (tooSoon bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	at, ok := p.of.Get(device)
	if !ok {
		at.every = devicePoll
	}
	// A timer that fires a little early is no haste.
	if tooSoon = now.Add(devicePoll / 4).Before(at.next); tooSoon {
		at.every += slowerBy
	}
	at.next = now.Add(at.every)
	p.of.Add(device, at)
	return tooSoon
}

// authorizeDevice is the device authorization endpoint. Besides what the RFC
// names, a device says which key it wants enrolled, and what it is: the person
// who approves sees it, and nothing else is enrolled by that approval.
func (a *App) authorizeDevice(w http.ResponseWriter, r *http.Request) {
	if r.ParseForm() != nil || r.PostForm.Get("client_id") != ClientID {
		oauthError(w, http.StatusBadRequest, "invalid_client", "this client is not known here")
		return
	}
	key, err := hex.DecodeString(r.PostForm.Get("device_key"))
	name, system := visible(r.PostForm.Get("device_name"), 64), visible(r.PostForm.Get("device_os"), 32)
	if err != nil || len(key) != 32 {
		oauthError(w, http.StatusBadRequest, "invalid_request", "device_key is the hex SHA-256 of the device key's SubjectPublicKeyInfo")
		return
	}
	if name == "" {
		name = "device"
	}
	if e, waiting := errors.AsType[*backoff.Error](a.strangers.Admit(backoff.Bucket{Key: "ask\x00" + source(r), Free: 30, Max: time.Minute})); waiting {
		retryAfter(w, e)
		oauthError(w, http.StatusTooManyRequests, "slow_down", "too many logins from this address: "+e.Error())
		return
	}
	code, req, err := a.askForDevice(r.Context(), deviceRequest{Key: hex.EncodeToString(key), Name: name, OS: system, Addr: host(r)})
	if errors.Is(err, errTooManyDevices) {
		oauthError(w, http.StatusServiceUnavailable, "temporarily_unavailable", err.Error())
		return
	}
	if err != nil {
		a.cfg.Log.Error("storing a device's request failed", "error", err)
		oauthError(w, http.StatusServiceUnavailable, "temporarily_unavailable", "this could not be stored")
		return
	}
	// There is no verification_uri_complete: an address that fills in the code
	// is what an attacker would mail to people.
	reply(w, http.StatusOK, map[string]any{
		"device_code": code, "user_code": showCode(req.UserCode), "verification_uri": a.pagesURL("/device"),
		"expires_in": int(deviceLife.Seconds()), "interval": int(devicePoll.Seconds()),
	})
}

// deviceToken is the token endpoint for the device grant.
func (a *App) deviceToken(w http.ResponseWriter, r *http.Request) {
	if r.ParseForm() != nil || r.PostForm.Get("client_id") != ClientID {
		oauthError(w, http.StatusBadRequest, "invalid_client", "this client is not known here")
		return
	}
	if r.PostForm.Get("grant_type") != deviceGrant {
		oauthError(w, http.StatusBadRequest, "unsupported_grant_type", "this endpoint takes device codes")
		return
	}
	code := r.PostForm.Get("device_code")
	token, req, err := a.collectDevice(r.Context(), code)
	switch {
	case errors.Is(err, errNoSuchCode):
		oauthError(w, http.StatusBadRequest, "invalid_grant", "this device code is not known here, or was used")
	case err != nil:
		a.cfg.Log.Error("reading a device's request failed", "error", err)
		oauthError(w, http.StatusServiceUnavailable, "temporarily_unavailable", "this could not be read")
	case token != "":
		reply(w, http.StatusOK, map[string]any{"access_token": token, "token_type": "Bearer", "expires_in": int(deviceTokenLife.Seconds())})
	case req.State == deviceDenied:
		oauthError(w, http.StatusBadRequest, "access_denied", "the person who was asked denied this device")
	case req.State == deviceWaiting && a.cfg.Now().Before(req.Ends):
		if a.paces.ask(hashed(code), a.cfg.Now()) {
			oauthError(w, http.StatusBadRequest, "slow_down", "asked too soon")
			return
		}
		oauthError(w, http.StatusBadRequest, "authorization_pending", "nobody has answered yet")
	default:
		oauthError(w, http.StatusBadRequest, "expired_token", "nobody answered in time")
	}
}

func oauthError(w http.ResponseWriter, status int, code, description string) {
	reply(w, status, map[string]string{"error": code, "error_description": description})
}

func reply(w http.ResponseWriter, status int, v any) {
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v) // the other side went away: nobody to tell
}

func retryAfter(w http.ResponseWriter, e *backoff.Error) string {
	seconds := strconv.Itoa(int(math.Ceil(e.RetryAfter.Seconds())))
	w.Header().Set("Retry-After", seconds)
	return seconds
}

// visible is one line of what somebody said of himself, without what would let
// it pose as something else.
func visible(s string, n int) string {
	s = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return -1
		}
		return r
	}, strings.ToValidUTF8(s, ""))
	return cut(strings.TrimSpace(s), n)
}

// host is the address a request comes from, without its port.
func host(r *http.Request) string {
	if i := strings.LastIndexByte(r.RemoteAddr, ':'); i > 0 {
		return strings.Trim(r.RemoteAddr[:i], "[]")
	}
	return r.RemoteAddr
}
