package login

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
)

// sealer encrypts small values with AES-256-GCM. What a value is for is
// authenticated with it, so that one sealed for a cookie is none in the store.
type sealer struct{ aead cipher.AEAD }

var errSeal = errors.New("this sealed value is not ours")

func newSealer(key []byte) (*sealer, error) {
	if len(key) != 32 {
		return nil, fmt.Errorf("a sealing key has 32 bytes, this one %d", len(key))
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		return nil, err
	}
	return &sealer{aead}, nil
}

func (s *sealer) seal(what string, plain []byte) []byte {
	return s.aead.Seal(nil, nil, plain, []byte(what))
}

func (s *sealer) open(what string, sealed []byte) ([]byte, error) {
	plain, err := s.aead.Open(nil, nil, sealed, []byte(what))
	if err != nil {
		return nil, errSeal
	}
	return plain, nil
}

// sealText and openText are for cookies and form fields.
func (s *sealer) sealText(what string, v any) (string, error) {
	plain, err := json.Marshal(v)
	if err != nil {
		return "", err
	}
	return base64.RawURLEncoding.EncodeToString(s.seal(what, plain)), nil
}

func (s *sealer) openText(what, text string, v any) error {
	sealed, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil {
		return errSeal
	}
	plain, err := s.open(what, sealed)
	if err != nil {
		return err
	}
	return json.Unmarshal(plain, v)
}

func randomText() string {
	var b [32]byte
	rand.Read(b[:]) // never fails (crypto/rand, Go 1.24)
	return base64.RawURLEncoding.EncodeToString(b[:])
}
