package login

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/base32"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/boombuler/barcode/qr"
	"github.com/pquerna/otp"
	"github.com/pquerna/otp/totp"

	"github.com/sallyport-mesh/sallyport/coordinator/internal/backoff"
	"github.com/sallyport-mesh/sallyport/coordinator/internal/directory"
	apiv1 "github.com/sallyport-mesh/sallyport/pkg/api/sallyport/v1"
)

// The second factor: codes of an authenticator (RFC 6238, with what every one of
// them understands: SHA-1, six digits, thirty seconds), and ten recovery codes.

const (
	totpPeriod = 30 * time.Second
	totpSkew   = 1 // steps to either side, for clocks that are off

	recoveryCodes = 10
)

var totpOptions = totp.ValidateOpts{Period: uint(totpPeriod / time.Second), Digits: otp.DigitsSix, Algorithm: otp.AlgorithmSHA1}

var base32Text = base32.StdEncoding.WithPadding(base32.NoPadding)

func newTOTPSecret() string {
	var b [20]byte // as long as the hash (RFC 4226, section 4)
	rand.Read(b[:])
	return base32Text.EncodeToString(b[:])
}

// totpStep finds the time step that a code is of, around now.
func totpStep(secret, code string, now time.Time) (step uint64, ok bool, err error) {
	for off := -totpSkew; off <= totpSkew; off++ {
		at := now.Add(time.Duration(off) * totpPeriod)
		want, err := totp.GenerateCodeCustom(secret, at, totpOptions)
		if err != nil {
			return 0, false, fmt.Errorf("computing a code: %w", err)
		}
		if subtle.ConstantTimeCompare([]byte(want), []byte(code)) == 1 {
			step, ok = uint64(at.Unix())/uint64(totpPeriod/time.Second), true
		}
	}
	return step, ok, nil
}

// digits is a code of six digits, however it was typed; "" if it is none.
func digits(typed string) string {
	code := strings.NewReplacer(" ", "", "-", "").Replace(strings.TrimSpace(typed))
	if len(code) != 6 || strings.Trim(code, "0123456789") != "" {
		return ""
	}
	return code
}

// newRecovery makes recovery codes, as people see them, and the hashes that are
// kept. 80 random bits need no salt.
func newRecovery() (shown, hashes []string) {
	for range recoveryCodes {
		var b [10]byte
		rand.Read(b[:])
		code := strings.ToLower(base32Text.EncodeToString(b[:]))
		shown = append(shown, code[:4]+"-"+code[4:8]+"-"+code[8:12]+"-"+code[12:])
		hashes = append(hashes, recoveryHash(code))
	}
	return shown, hashes
}

func recoveryHash(typed string) string {
	return hashed(strings.NewReplacer("-", "", " ", "").Replace(strings.ToLower(strings.TrimSpace(typed))))
}

func sealTOTP(userID string) string { return "totp " + userID }

// secondBuckets count wrong second factors. Only somebody who has passed the
// first factor gets here, so a strict count locks out nobody but him.
func secondBuckets(u *apiv1.User, from string) []backoff.Bucket {
	return []backoff.Bucket{
		{Key: "second\x00" + u.Id + "\x00" + from, Free: 5, Max: 5 * time.Minute},
		{Key: "second\x00" + u.Id, Free: 15, Max: 5 * time.Minute},
	}
}

// verifySecond takes a code of the authenticator or a recovery code, each once.
// It answers with what was used, for the record.
func (a *App) verifySecond(ctx context.Context, u *apiv1.User, typed, from string) (used string, err error) {
	buckets := secondBuckets(u, from)
	if err := a.guesses.Admit(buckets...); err != nil {
		return "", err
	}
	f, err := a.cfg.Directory.SecondFactor(ctx, u.Id)
	if err != nil {
		return "", fmt.Errorf("reading the second factor: %w", err)
	}
	if f == nil {
		return "", directory.ErrWrongCode
	}
	if code := digits(typed); code != "" {
		secret, err := a.vault.open(sealTOTP(u.Id), f.Sealed)
		if err != nil {
			return "", fmt.Errorf("opening the second factor of %s: %w", u.Id, err)
		}
		step, ok, err := totpStep(string(secret), code, a.cfg.Now())
		if err != nil {
			return "", err
		}
		if !ok {
			return "", directory.ErrWrongCode
		}
		used, err = "otp", a.cfg.Directory.UseStep(ctx, u.Id, step)
		if err != nil {
			return "", err
		}
	} else {
		used = "recovery code"
		if err := a.cfg.Directory.UseRecovery(ctx, u.Id, recoveryHash(typed)); err != nil {
			return "", err
		}
	}
	a.guesses.Succeeded(buckets...)
	return used, nil
}

// setup is an authenticator that is being set up: shown, and not yet in force.
// It is in the form, sealed, so that a page that is left leaves nothing.
type setup struct {
	UserID string    `json:"u"`
	Secret string    `json:"s"`
	Ends   time.Time `json:"e"`
}

// setupView is what both pages on which one is set up show.
type setupView struct {
	Sealed, Secret string
	Size           int
	Path           string // of the QR code's dark squares, in an SVG of Size units
}

func (a *App) newSetup(u *apiv1.User) (setupView, error) {
	return a.showSetup(u, setup{UserID: u.Id, Secret: newTOTPSecret(), Ends: a.cfg.Now().Add(cookieLife)})
}

func (a *App) showSetup(u *apiv1.User, s setup) (setupView, error) {
	sealed, err := a.cookies.sealText("setup", s)
	if err != nil {
		return setupView{}, err
	}
	label := a.cfg.Name + ":" + u.Name
	address := url.URL{Scheme: "otpauth", Host: "totp", Path: "/" + label, RawQuery: url.Values{
		"secret": {s.Secret}, "issuer": {a.cfg.Name},
	}.Encode()}
	code, err := qr.Encode(strings.ReplaceAll(address.String(), "+", "%20"), qr.M, qr.Auto)
	if err != nil {
		return setupView{}, fmt.Errorf("drawing the code: %w", err)
	}
	const quiet = 4 // the empty margin that scanners ask for
	v := setupView{Sealed: sealed, Secret: spaced(s.Secret), Size: code.Bounds().Dx() + 2*quiet}
	var path strings.Builder
	for y := range code.Bounds().Dy() {
		for x := range code.Bounds().Dx() {
			if dark, _, _, _ := code.At(x, y).RGBA(); dark == 0 {
				fmt.Fprintf(&path, "M%d %dh1v1h-1z", x+quiet, y+quiet)
			}
		}
	}
	v.Path = path.String()
	return v, nil
}

// finishSetup puts an authenticator in force once it has shown that it works,
// and answers with the recovery codes.
func (a *App) finishSetup(ctx context.Context, u *apiv1.User, s setup, typed, from string) (recovery []string, err error) {
	if s.UserID != u.Id || !a.cfg.Now().Before(s.Ends) {
		return nil, errSeal
	}
	buckets := secondBuckets(u, from)
	if err := a.guesses.Admit(buckets...); err != nil {
		return nil, err
	}
	step, ok, err := totpStep(s.Secret, digits(typed), a.cfg.Now())
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, directory.ErrWrongCode
	}
	shown, hashes := newRecovery()
	_, _, err = a.cfg.Directory.SetSecondFactor(ctx, u.Id, directory.SecondFactor{
		Sealed: a.vault.seal(sealTOTP(u.Id), []byte(s.Secret)), LastStep: step, Recovery: hashes,
	})
	if err != nil {
		return nil, err
	}
	a.guesses.Succeeded(buckets...)
	return shown, nil
}

// spaced is a secret in groups of four, for those who type it.
func spaced(s string) string {
	var b strings.Builder
	for i, r := range s {
		if i > 0 && i%4 == 0 {
			b.WriteByte(' ')
		}
		b.WriteRune(r)
	}
	return b.String()
}
