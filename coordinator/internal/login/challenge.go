package login

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"net/http"
	"time"

	"github.com/sallyport-mesh/sallyport/coordinator/internal/store"
)

// step is one of Hydra's two questions.
type step string

const (
	loginStep   step = "login"
	consentStep step = "consent"
)

func (s step) param() string { return string(s) + "_challenge" }

// challenge is Hydra's ticket for one question, in its one canonical form.
type challenge struct {
	step step
	text string
	sum  [32]byte // of the bytes that Hydra decodes
}

var errChallenge = errors.New("not a challenge")

// parseChallenge takes a challenge apart. Hydra decodes base64 leniently: line
// breaks and the last character's unused bits make many texts of one challenge,
// and used-once must hold for all of them. Only the canonical text is taken.
func parseChallenge(s step, text string) (challenge, error) {
	if len(text) < 16 || len(text) > 8<<10 {
		return challenge{}, errChallenge
	}
	for _, c := range []byte(text) {
		alnum := '0' <= c && c <= '9' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
		if !alnum && c != '-' && c != '_' && c != '=' {
			return challenge{}, errChallenge
		}
	}
	raw := []byte(text) // an opaque id, as other versions of Hydra have it
	for _, enc := range []*base64.Encoding{base64.URLEncoding, base64.RawURLEncoding} {
		if b, err := enc.DecodeString(text); err == nil {
			if enc.EncodeToString(b) != text {
				return challenge{}, errChallenge
			}
			raw = b
			break
		}
	}
	return challenge{s, text, sha256.Sum256(raw)}, nil
}

func (c challenge) key() string { return challengePrefix + hex.EncodeToString(c.sum[:]) }

// challengePrefix + hex SHA-256 marks a challenge as used.
const challengePrefix = "challenge/"

// keepUsed is how long a mark stays: longer than any challenge lives at Hydra
// (ttl.login_consent_request, 30 minutes by default).
const keepUsed = 24 * time.Hour

var errUsed = errors.New("this challenge was used already")

type used struct {
	At time.Time `json:"at"`
}

// use marks a challenge as used, or says that it was.
func (a *App) use(ctx context.Context, c challenge) error {
	value, err := json.Marshal(used{a.cfg.Now().UTC()})
	if err != nil {
		return err
	}
	_, err = a.cfg.Store.Update(ctx, func(tx store.Txn) error {
		it, err := tx.Get(c.key())
		if err != nil {
			return err
		}
		if it != nil {
			return errUsed
		}
		tx.Put(c.key(), value)
		return nil
	})
	return err
}

func (a *App) wasUsed(ctx context.Context, c challenge) (bool, error) {
	there := false
	err := a.cfg.Store.View(ctx, func(r store.Reader) error {
		it, err := r.Get(c.key())
		there = it != nil
		return err
	})
	return there, err
}

// pruneUsed forgets challenges, and logout tokens, that Hydra has forgotten long ago.
func (a *App) pruneUsed(ctx context.Context) error {
	_, err := a.cfg.Store.Update(ctx, func(tx store.Txn) error {
		for _, prefix := range []string{challengePrefix, logoutPrefix} {
			err := tx.List(prefix, func(it store.Item) error {
				var u used
				if err := json.Unmarshal(it.Value, &u); err != nil || a.cfg.Now().After(u.At.Add(keepUsed)) {
					tx.Delete(it.Key)
				}
				return nil
			})
			if err != nil {
				return err
			}
		}
		return nil
	})
	return err
}

// The cookie that ties a challenge to the browser in which it came to be. Each
// challenge has its own, so that several logins can be under way. The value is a
// nonce and a MAC over it and the challenge; the form token is a MAC over the
// value, which a page of another site can neither read nor set.
const (
	cookiePrefix = "__Host-sallyport-"
	cookieLife   = 30 * time.Minute
)

func (c challenge) cookieName() string {
	return cookiePrefix + string(c.step) + "-" + hex.EncodeToString(c.sum[:6])
}

func (a *App) mac(parts ...[]byte) []byte {
	h := hmac.New(sha256.New, a.key)
	for _, p := range parts {
		sum := sha256.Sum256(p) // of fixed length: no two lists are the same bytes
		h.Write(sum[:])
	}
	return h.Sum(nil)
}

// bind makes the cookie for a browser that just got c.
func (a *App) bind(c challenge) *http.Cookie {
	var nonce [16]byte
	rand.Read(nonce[:]) // never fails (crypto/rand, Go 1.24)
	value := append(nonce[:], a.mac([]byte("bind"), []byte(c.step), nonce[:], c.sum[:])...)
	return cookie(c.cookieName(), base64.RawURLEncoding.EncodeToString(value), cookieLife)
}

// unbind takes the cookie back once the challenge is used.
func (c challenge) unbind() *http.Cookie {
	return cookie(c.cookieName(), "", -1)
}

// bound reports whether the request comes from the browser that got c, and the
// token for forms on the page.
func (a *App) bound(r *http.Request, c challenge) (token string, ok bool) {
	cookie, err := r.Cookie(c.cookieName())
	if err != nil {
		return "", false
	}
	value, err := base64.RawURLEncoding.DecodeString(cookie.Value)
	if err != nil || len(value) != 16+sha256.Size {
		return "", false
	}
	if !hmac.Equal(value[16:], a.mac([]byte("bind"), []byte(c.step), value[:16], c.sum[:])) {
		return "", false
	}
	return a.formToken("form", value), true
}

func (a *App) formToken(what string, of []byte) string {
	return base64.RawURLEncoding.EncodeToString(a.mac([]byte(what), of))
}

func equalToken(a, b string) bool { return hmac.Equal([]byte(a), []byte(b)) }
