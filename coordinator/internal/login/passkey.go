package login

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"time"

	"github.com/go-webauthn/webauthn/protocol"
	"github.com/go-webauthn/webauthn/webauthn"

	"github.com/sallyport-mesh/sallyport/coordinator/internal/backoff"
	"github.com/sallyport-mesh/sallyport/coordinator/internal/directory"
	apiv1 "github.com/sallyport-mesh/sallyport/pkg/api/sallyport/v1"
)

// A passkey is a login of its own: something one has, which looks at who holds it
// (user verification is required). It is tied to this coordinator's name by the
// browser, so no other page can ask for it. Names are not typed: the passkey says
// whose it is.
//
// The ceremony's state is in the form, sealed, and tied to the login challenge,
// which is spent by the first login that gets through: an answer that was
// overheard is worth nothing.

// passkeyLife is how long a page waits for the answer.
const passkeyLife = 5 * time.Minute

// newRelyingParty is what passkeys are made for. It is nil where the coordinator
// is known by an address: browsers tie passkeys to names alone.
func newRelyingParty(u *url.URL, name string) (*webauthn.WebAuthn, error) {
	if _, err := netip.ParseAddr(u.Hostname()); err == nil {
		return nil, nil
	}
	rp, err := webauthn.New(&webauthn.Config{
		RPID: u.Hostname(), RPDisplayName: name, RPOrigins: []string{u.String()},
		AttestationPreference: protocol.PreferNoAttestation,
	})
	if err != nil {
		return nil, fmt.Errorf("setting up passkeys: %w", err)
	}
	return rp, nil
}

// holder is a user as the library sees him.
type holder struct {
	user *apiv1.User
	keys []webauthn.Credential
}

func (h holder) WebAuthnID() []byte                         { return []byte(h.user.Id) }
func (h holder) WebAuthnName() string                       { return h.user.Name }
func (h holder) WebAuthnCredentials() []webauthn.Credential { return h.keys }
func (h holder) WebAuthnDisplayName() string {
	if h.user.DisplayName != "" {
		return h.user.DisplayName
	}
	return h.user.Name
}

func (a *App) holder(ctx context.Context, u *apiv1.User) (holder, []directory.Passkey, error) {
	list, err := a.cfg.Directory.Passkeys(ctx, u.Id)
	if err != nil {
		return holder{}, nil, fmt.Errorf("reading passkeys: %w", err)
	}
	h := holder{user: u}
	for _, p := range list {
		var c webauthn.Credential
		if err := json.Unmarshal(p.Credential, &c); err != nil {
			return holder{}, nil, fmt.Errorf("reading a passkey of %s: %w", u.Id, err)
		}
		h.keys = append(h.keys, c)
	}
	return h, list, nil
}

// ceremony is what a page asks a browser for; Options is for its script, Session
// comes back with the answer.
type ceremony struct{ Options, Session string }

// begun is what Session holds.
type begun struct {
	About   []byte               `json:"a"` // a login challenge's sum, or a user id
	Session webauthn.SessionData `json:"s"`
	Ends    time.Time            `json:"e"`
}

func (a *App) ceremony(what string, about []byte, options any, s *webauthn.SessionData) (*ceremony, error) {
	text, err := json.Marshal(options)
	if err != nil {
		return nil, fmt.Errorf("encoding the browser's options: %w", err)
	}
	sealed, err := a.cookies.sealText(what, begun{about, *s, a.cfg.Now().Add(passkeyLife)})
	return &ceremony{string(text), sealed}, err
}

func (a *App) begun(what string, about []byte, sealed string) (webauthn.SessionData, bool) {
	var b begun
	ok := a.cookies.openText(what, sealed, &b) == nil && bytes.Equal(b.About, about) && a.cfg.Now().Before(b.Ends)
	return b.Session, ok
}

// askForPasskey begins a login with a passkey, whosever it is.
func (a *App) askForPasskey(c challenge) (*ceremony, error) {
	if a.passkeys == nil {
		return nil, nil
	}
	options, s, err := a.passkeys.BeginDiscoverableLogin(webauthn.WithUserVerification(protocol.VerificationRequired))
	if err != nil {
		return nil, fmt.Errorf("asking for a passkey: %w", err)
	}
	return a.ceremony("passkey login", c.sum[:], options, s)
}

var errPasskey = errors.New("the passkey's answer is not right")

// verifyPasskey says whose passkey has answered.
func (a *App) verifyPasskey(ctx context.Context, s webauthn.SessionData, answer, from string) (*apiv1.User, error) {
	limit := backoff.Bucket{Key: "passkey\x00" + from, Free: 10, Max: time.Minute}
	if err := a.strangers.Admit(limit); err != nil {
		return nil, err
	}
	parsed, err := protocol.ParseCredentialRequestResponseBytes([]byte(answer))
	if err != nil {
		return nil, errPasskey
	}
	var failed error // of ours, not of the answer's
	found, key, err := a.passkeys.ValidatePasskeyLogin(func(_, userHandle []byte) (webauthn.User, error) {
		u := a.cfg.Directory.Snapshot().Users[string(userHandle)]
		if u == nil {
			return nil, errPasskey
		}
		h, _, err := a.holder(ctx, u)
		failed = err
		return h, err
	}, s, parsed)
	switch {
	case failed != nil:
		return nil, failed
	case err != nil, key.Authenticator.CloneWarning:
		return nil, errPasskey
	}
	u := found.(holder).user
	if u.Suspended { // said only to somebody who has proved to be that user
		return nil, directory.ErrSuspended
	}
	record, err := json.Marshal(key)
	if err != nil {
		return nil, fmt.Errorf("encoding a passkey: %w", err)
	}
	if err := a.cfg.Directory.UsePasskey(ctx, u.Id, key.ID, record); err != nil {
		if errors.Is(err, directory.ErrNoPasskey) {
			err = errPasskey
		}
		return nil, err
	}
	a.strangers.Succeeded(limit)
	return u, nil
}

// newPasskey begins making one for a user.
func (a *App) newPasskey(h holder) (*ceremony, error) {
	options, s, err := a.passkeys.BeginRegistration(h,
		webauthn.WithAuthenticatorSelection(protocol.AuthenticatorSelection{
			ResidentKey: protocol.ResidentKeyRequirementRequired, UserVerification: protocol.VerificationRequired,
		}),
		webauthn.WithExclusions(webauthn.Credentials(h.keys).CredentialDescriptors()))
	if err != nil {
		return nil, fmt.Errorf("asking for a new passkey: %w", err)
	}
	return a.ceremony("passkey new", []byte(h.user.Id), options, s)
}

// keepPasskey takes in the one that the browser made.
func (a *App) keepPasskey(ctx context.Context, h holder, s webauthn.SessionData, name, answer string) error {
	parsed, err := protocol.ParseCredentialCreationResponseBytes([]byte(answer))
	if err != nil {
		return errPasskey
	}
	key, err := a.passkeys.CreateCredential(h, s, parsed)
	if err != nil || !key.Flags.UserVerified {
		return errPasskey
	}
	record, err := json.Marshal(key)
	if err != nil {
		return fmt.Errorf("encoding a passkey: %w", err)
	}
	return a.cfg.Directory.AddPasskey(ctx, h.user.Id, directory.Passkey{ID: key.ID, Name: name, Credential: record})
}
