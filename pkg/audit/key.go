package audit

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"golang.org/x/mod/sumdb/note"

	"github.com/sallyport-mesh/sallyport/pkg/pki"
)

// ed25519Alg is the algorithm byte of a C2SP note key.
const ed25519Alg = 1

// NewKey makes an Ed25519 key in the form of C2SP signed notes: skey is secret,
// vkey is its public half. A name has no spaces and no "+"; a checkpoint key
// takes its log's origin later, a cosigner's key is "<domain>/coordinator".
func NewKey(name string) (skey, vkey string, err error) {
	skey, vkey, err = note.GenerateKey(rand.Reader, name)
	if err != nil {
		return "", "", fmt.Errorf("making key %q: %w", name, err)
	}
	if _, err := note.NewVerifier(vkey); err != nil {
		return "", "", fmt.Errorf("making key %q: %w", name, err)
	}
	return skey, vkey, nil
}

// LoadKey reads the key in the file at path, and makes one under name (0600,
// durable before it returns) where there is no file yet.
func LoadKey(path, name string) (skey, vkey string, err error) {
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		if skey, _, err = NewKey(name); err != nil {
			return "", "", err
		}
		if err := pki.WriteFile(path, []byte(skey+"\n")); err != nil {
			return "", "", fmt.Errorf("storing key: %w", err)
		}
	} else if err != nil {
		return "", "", fmt.Errorf("reading key: %w", err)
	} else {
		skey = strings.TrimSuffix(string(b), "\n")
	}
	if vkey, err = PublicKey(skey); err != nil {
		return "", "", fmt.Errorf("%s: %w", path, err)
	}
	return skey, vkey, nil
}

// PublicKey is the vkey of an skey.
func PublicKey(skey string) (string, error) {
	name, seed, err := parseKey(skey)
	if err != nil {
		return "", err
	}
	return note.NewEd25519VerifierKey(name, ed25519.NewKeyFromSeed(seed).Public().(ed25519.PublicKey))
}

var errKey = errors.New("not an Ed25519 key of a signed note")

func parseKey(skey string) (name string, seed []byte, err error) {
	if _, err := note.NewSigner(skey); err != nil { // the key's own hash is right
		return "", nil, errKey
	}
	parts := strings.SplitN(skey, "+", 5) // PRIVATE+KEY+name+hash+key
	if len(parts) != 5 {
		return "", nil, errKey
	}
	raw, err := base64.StdEncoding.DecodeString(parts[4])
	if err != nil || len(raw) != 1+ed25519.SeedSize || raw[0] != ed25519Alg {
		return "", nil, errKey
	}
	return parts[2], raw[1:], nil
}

func renameSigner(skey, name string) (string, error) {
	_, seed, err := parseKey(skey)
	if err != nil {
		return "", err
	}
	vkey, err := note.NewEd25519VerifierKey(name, ed25519.NewKeyFromSeed(seed).Public().(ed25519.PublicKey))
	if err != nil {
		return "", fmt.Errorf("naming key: %w", err)
	}
	hash := strings.Split(strings.TrimPrefix(vkey, name+"+"), "+")[0]
	return "PRIVATE+KEY+" + name + "+" + hash + "+" + base64.StdEncoding.EncodeToString(append([]byte{ed25519Alg}, seed...)), nil
}

func renameVerifier(vkey, name string) (string, error) {
	if _, err := note.NewVerifier(vkey); err != nil {
		return "", errKey
	}
	parts := strings.SplitN(vkey, "+", 3) // name+hash+key
	if len(parts) != 3 {
		return "", errKey
	}
	raw, err := base64.StdEncoding.DecodeString(parts[2])
	if err != nil || len(raw) != 1+ed25519.PublicKeySize || raw[0] != ed25519Alg {
		return "", errKey
	}
	return note.NewEd25519VerifierKey(name, raw[1:])
}
