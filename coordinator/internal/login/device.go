package login

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/sallyport-mesh/sallyport/coordinator/internal/directory"
	"github.com/sallyport-mesh/sallyport/coordinator/internal/store"
	apiv1 "github.com/sallyport-mesh/sallyport/pkg/api/sallyport/v1"
)

// A device that has no browser asks for a code (RFC 8628); a person approves it
// in a browser elsewhere; the device's next question is answered with a token
// that enrols the one key that was shown to that person, once.
//
// The device code and the token are 256 random bits, and only their hashes are
// stored. The user code is short, since people type it: what protects it is that
// only somebody who is logged in can try, a few times, within ten minutes.

const (
	deviceCodePrefix  = "devicecode/"  // + hex SHA-256 of the device code → deviceRequest
	userCodePrefix    = "usercode/"    // + user code → the key above
	deviceTokenPrefix = "devicetoken/" // + hex SHA-256 of the token → deviceToken

	deviceLife      = 10 * time.Minute
	deviceTokenLife = 5 * time.Minute
	// maxWaiting bounds what strangers can make us store.
	maxWaiting = 2000
	// tokenMark tells our tokens from Hydra's.
	tokenMark = "sallyport-device-"
)

type deviceState string

const (
	deviceWaiting  deviceState = "waiting"
	deviceApproved deviceState = "approved"
	deviceDenied   deviceState = "denied"
)

// deviceRequest is a device that waits for a person's word.
type deviceRequest struct {
	UserCode string      `json:"user_code"`
	Key      string      `json:"key"` // hex SHA-256 of the device key's SubjectPublicKeyInfo
	Name     string      `json:"name"`
	OS       string      `json:"os"`
	Addr     string      `json:"addr"`
	AskedAt  time.Time   `json:"asked_at"`
	Ends     time.Time   `json:"ends"`
	State    deviceState `json:"state"`
	// Who approved, and under which auth generation.
	UserID     string `json:"user_id,omitempty"`
	Generation uint64 `json:"generation,omitempty"`
}

// deviceToken is what an approval is worth.
type deviceToken struct {
	Key        string    `json:"key"`
	UserID     string    `json:"user_id"`
	Generation uint64    `json:"generation"`
	Ends       time.Time `json:"ends"`
}

// The letters of user codes: no vowels, so no words, and none that look like a
// digit or like each other (RFC 8628, section 6.1). Eight are 34 bits.
const (
	codeLetters = "BCDFGHJKLMNPQRSTVWXZ"
	codeLength  = 8
)

func newUserCode() string {
	var b strings.Builder
	var one [1]byte
	for b.Len() < codeLength {
		rand.Read(one[:]) // never fails (crypto/rand, Go 1.24)
		if n := int(one[0]); n < 256-256%len(codeLetters) {
			b.WriteByte(codeLetters[n%len(codeLetters)])
		}
	}
	return b.String()
}

// showCode is a code as people read it.
func showCode(code string) string { return code[:codeLength/2] + "-" + code[codeLength/2:] }

// lookalikes are what people type for a letter of ours.
var lookalikes = strings.NewReplacer("5", "S", "8", "B", "2", "Z", "6", "G", "U", "V", "Y", "V")

// parseUserCode takes a code however it was typed: any case, with dashes, spaces
// or other signs between, with digits for the letters that look like them.
func parseUserCode(typed string) (string, bool) {
	if len(typed) > 64 {
		return "", false
	}
	typed = lookalikes.Replace(strings.ToUpper(typed))
	code := strings.Map(func(r rune) rune {
		switch {
		case r >= 'A' && r <= 'Z' || r >= '0' && r <= '9':
			return r
		}
		return -1
	}, typed)
	if len(code) != codeLength || strings.Trim(code, codeLetters) != "" {
		return "", false
	}
	return code, true
}

var (
	errTooManyDevices = errors.New("too many devices wait for an approval")
	errNoSuchCode     = errors.New("no device waits with this code")
	errDecided        = errors.New("this code was answered already")
)

func hashed(secret string) string {
	sum := sha256.Sum256([]byte(secret))
	return hex.EncodeToString(sum[:])
}

// askForDevice stores a request and answers with its two codes.
func (a *App) askForDevice(ctx context.Context, req deviceRequest) (deviceCode string, _ deviceRequest, err error) {
	deviceCode = randomText()
	req.AskedAt, req.State = a.cfg.Now().UTC(), deviceWaiting
	req.Ends = req.AskedAt.Add(deviceLife)
	key := deviceCodePrefix + hashed(deviceCode)
	_, err = a.cfg.Store.Update(ctx, func(tx store.Txn) error {
		waiting := 0
		err := tx.List(deviceCodePrefix, func(it store.Item) error {
			var other deviceRequest
			if err := json.Unmarshal(it.Value, &other); err != nil {
				return fmt.Errorf("decoding a device's request: %w", err)
			}
			if req.AskedAt.Before(other.Ends) {
				waiting++
			}
			if waiting >= maxWaiting {
				return errTooManyDevices
			}
			return nil
		})
		if err != nil {
			return err
		}
		for { // until a code that nobody waits with
			req.UserCode = newUserCode()
			it, err := tx.Get(userCodePrefix + req.UserCode)
			if err != nil {
				return err
			}
			if it == nil {
				break
			}
		}
		tx.Put(userCodePrefix+req.UserCode, []byte(key))
		return store.PutJSON(tx, key, req)
	})
	return deviceCode, req, err
}

// deviceByCode finds the request that waits with a user code.
func (a *App) deviceByCode(r store.Reader, code string) (key string, req deviceRequest, err error) {
	it, err := r.Get(userCodePrefix + code)
	if err != nil {
		return "", req, err
	}
	if it == nil {
		return "", req, errNoSuchCode
	}
	key = string(it.Value)
	found, err := store.GetJSON(r, key, &req)
	switch {
	case err != nil:
		return "", req, err
	case !found, !a.cfg.Now().Before(req.Ends):
		return "", req, errNoSuchCode
	case req.State != deviceWaiting:
		return "", req, errDecided
	}
	return key, req, nil
}

// decideDevice is the click: of two that race one counts. The user is looked at
// in the same transaction's view of the directory as every approval's use.
func (a *App) decideDevice(ctx context.Context, code string, u *apiv1.User, approve bool) (deviceRequest, error) {
	var req deviceRequest
	_, err := a.cfg.Store.Update(ctx, func(tx store.Txn) error {
		key, found, err := a.deviceByCode(tx, code)
		if err != nil {
			return err
		}
		req = found
		if req.State = deviceDenied; approve {
			req.State, req.UserID, req.Generation = deviceApproved, u.Id, u.AuthGeneration
		}
		tx.Delete(userCodePrefix + code) // nobody else has to answer it
		return store.PutJSON(tx, key, req)
	})
	return req, err
}

// collectDevice answers a device's question: a request that waits or was denied,
// or the token, once. A denied or expired request is forgotten with the answer.
func (a *App) collectDevice(ctx context.Context, deviceCode string) (token string, _ deviceRequest, err error) {
	key := deviceCodePrefix + hashed(deviceCode)
	var req deviceRequest
	// Most questions find that nothing has changed: they write nothing.
	err = a.cfg.Store.View(ctx, func(r store.Reader) error {
		found, err := store.GetJSON(r, key, &req)
		if err == nil && !found {
			err = errNoSuchCode
		}
		return err
	})
	if err != nil || req.State == deviceWaiting && a.cfg.Now().Before(req.Ends) {
		return "", req, err
	}
	_, err = a.cfg.Store.Update(ctx, func(tx store.Txn) error {
		token = ""
		found, err := store.GetJSON(tx, key, &req)
		if err != nil {
			return err
		}
		if !found {
			return errNoSuchCode
		}
		tx.Delete(key)
		tx.Delete(userCodePrefix + req.UserCode)
		if req.State != deviceApproved || !a.cfg.Now().Before(req.Ends) {
			return nil
		}
		token = tokenMark + randomText()
		return store.PutJSON(tx, deviceTokenPrefix+hashed(token), deviceToken{
			Key: req.Key, UserID: req.UserID, Generation: req.Generation, Ends: a.cfg.Now().Add(deviceTokenLife).UTC(),
		})
	})
	return token, req, err
}

// introspectDevice answers with the user who approved the device with this key.
func (a *App) introspectDevice(r store.Reader, token string, key [32]byte) (userID string, err error) {
	var t deviceToken
	found, err := store.GetJSON(r, deviceTokenPrefix+hashed(token), &t)
	if err != nil {
		return "", err
	}
	if !found || t.Key != hex.EncodeToString(key[:]) || !a.cfg.Now().Before(t.Ends) {
		return "", errToken
	}
	u := a.cfg.Directory.Snapshot().Users[t.UserID]
	if u == nil || u.AuthGeneration != t.Generation {
		return "", errToken
	}
	if u.Suspended {
		return "", directory.ErrSuspended
	}
	return u.Id, nil
}

// pruneDevices forgets what ran out.
func (a *App) pruneDevices(ctx context.Context) error {
	now := a.cfg.Now()
	_, err := a.cfg.Store.Update(ctx, func(tx store.Txn) error {
		err := tx.List(deviceCodePrefix, func(it store.Item) error {
			var req deviceRequest
			if err := json.Unmarshal(it.Value, &req); err != nil || now.After(req.Ends) {
				tx.Delete(it.Key)
				tx.Delete(userCodePrefix + req.UserCode)
			}
			return nil
		})
		if err != nil {
			return err
		}
		return tx.List(deviceTokenPrefix, func(it store.Item) error {
			var t deviceToken
			if err := json.Unmarshal(it.Value, &t); err != nil || now.After(t.Ends) {
				tx.Delete(it.Key)
			}
			return nil
		})
	})
	return err
}
