package policy

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"

	"google.golang.org/protobuf/proto"

	apiv1 "github.com/sallyport-mesh/sallyport/pkg/api/sallyport/v1"
)

// What a signature is about. It is signed along, so that one kind of payload can
// never be passed off as another.
const (
	BundleContext    = "sallyport-bundle-v1"
	HeartbeatContext = "sallyport-heartbeat-v1"
)

// The largest payloads that are looked at. A subject takes some 100 bytes, so a
// bundle has room for more than 100,000.
const (
	MaxBundle    = 16 << 20
	MaxHeartbeat = 4 << 10
)

// Signer signs for the coordinator.
type Signer struct {
	key ed25519.PrivateKey
	id  string
}

// NewSigner makes a Signer of a private key.
func NewSigner(key ed25519.PrivateKey) (*Signer, error) {
	if len(key) != ed25519.PrivateKeySize {
		return nil, errors.New("not an Ed25519 private key")
	}
	return &Signer{key, KeyID(key.Public().(ed25519.PublicKey))}, nil
}

// Public is the key to verify with.
func (s *Signer) Public() ed25519.PublicKey { return s.key.Public().(ed25519.PublicKey) }

// Sign signs payload as what context says it is.
func (s *Signer) Sign(context string, payload []byte) *apiv1.Signed {
	return &apiv1.Signed{Payload: payload, Signature: ed25519.Sign(s.key, message(context, payload)), KeyId: s.id}
}

// KeyID is how a signature names its key: eight bytes of its SHA-256, in hex.
func KeyID(key ed25519.PublicKey) string {
	sum := sha256.Sum256(key)
	return hex.EncodeToString(sum[:8])
}

// Verifier knows the keys that may sign.
type Verifier struct{ keys map[string]ed25519.PublicKey }

// NewVerifier trusts the keys given, of which there must be one at least.
func NewVerifier(keys ...[]byte) (*Verifier, error) {
	v := &Verifier{keys: map[string]ed25519.PublicKey{}}
	for _, k := range keys {
		if len(k) != ed25519.PublicKeySize {
			return nil, fmt.Errorf("a policy key has %d bytes, not %d", len(k), ed25519.PublicKeySize)
		}
		v.keys[KeyID(k)] = ed25519.PublicKey(k)
	}
	if len(v.keys) == 0 {
		return nil, errors.New("no policy key: nothing could be verified")
	}
	return v, nil
}

// Verify checks that one of the keys signed the payload as what context says.
func (v *Verifier) Verify(context string, signed *apiv1.Signed) error {
	key, ok := v.keys[signed.GetKeyId()]
	if !ok {
		return fmt.Errorf("signed by key %q, which is not trusted", printable(signed.GetKeyId()))
	}
	if !ed25519.Verify(key, message(context, signed.GetPayload()), signed.GetSignature()) {
		return errors.New("the signature does not fit")
	}
	return nil
}

func message(context string, payload []byte) []byte {
	m := make([]byte, 0, len(context)+1+len(payload))
	m = append(m, context...)
	m = append(m, 0)
	return append(m, payload...)
}

// ParseBundle reads a bundle's payload. It does not verify or compile.
func ParseBundle(payload []byte) (*apiv1.Bundle, error) {
	if len(payload) > MaxBundle {
		return nil, fmt.Errorf("bundle of %d bytes is larger than %d", len(payload), MaxBundle)
	}
	b := new(apiv1.Bundle)
	if err := proto.Unmarshal(payload, b); err != nil {
		return nil, fmt.Errorf("reading bundle: %w", err)
	}
	if b.GetClusterId() == "" || b.GetRevision() == 0 {
		return nil, errors.New("bundle names no cluster or no revision")
	}
	return b, nil
}

// ParseHeartbeat reads a heartbeat's payload. It does not verify.
func ParseHeartbeat(payload []byte) (*apiv1.Heartbeat, error) {
	if len(payload) > MaxHeartbeat {
		return nil, fmt.Errorf("heartbeat of %d bytes is larger than %d", len(payload), MaxHeartbeat)
	}
	h := new(apiv1.Heartbeat)
	if err := proto.Unmarshal(payload, h); err != nil {
		return nil, fmt.Errorf("reading heartbeat: %w", err)
	}
	if h.GetClusterId() == "" || h.GetTime().CheckValid() != nil {
		return nil, errors.New("heartbeat names no cluster or no time")
	}
	return h, nil
}
