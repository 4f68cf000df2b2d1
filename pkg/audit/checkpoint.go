package audit

import (
	"errors"
	"fmt"
	"time"

	"github.com/transparency-dev/formats/log"
	fnote "github.com/transparency-dev/formats/note"
	"golang.org/x/mod/sumdb/note"
)

// MaxCheckpoint is the most bytes of a signed checkpoint, cosignatures of
// several witnesses included.
const MaxCheckpoint = 8 << 10

// Checkpoint says how long a log is and what its root is. It is signed as a C2SP
// tlog-checkpoint, without extension lines.
type Checkpoint struct {
	Origin string
	Size   uint64
	Root   Hash
}

// ErrCheckpoint says that bytes are not a checkpoint signed by the keys asked for.
var ErrCheckpoint = errors.New("not a valid checkpoint")

// Signer signs the checkpoints of one log.
type Signer struct {
	origin string
	signer note.Signer
}

// NewSigner makes the signer of the log with this origin from a key of NewKey.
// The key takes the origin as its name, whatever name it was made under.
func NewSigner(skey, origin string) (*Signer, error) {
	skey, err := renameSigner(skey, origin)
	if err != nil {
		return nil, err
	}
	s, err := note.NewSigner(skey)
	if err != nil {
		return nil, fmt.Errorf("reading checkpoint key: %w", err)
	}
	return &Signer{origin, s}, nil
}

// Origin is the log's.
func (s *Signer) Origin() string { return s.origin }

// Sign signs the tree. Only a tree that is on disk may be signed: a signature
// over one that a crash then takes back is a fork that nobody meant.
func (s *Signer) Sign(t *Tree) ([]byte, error) {
	root := t.Root()
	body := log.Checkpoint{Origin: s.origin, Size: t.Size(), Hash: root[:]}.Marshal()
	b, err := note.Sign(&note.Note{Text: string(body)}, s.signer)
	if err != nil {
		return nil, fmt.Errorf("signing checkpoint: %w", err)
	}
	return b, nil
}

// Verifier checks the checkpoints of one log.
type Verifier struct {
	origin   string
	verifier note.Verifier
}

// NewVerifier makes the verifier of the log with this origin from the public
// half of a key of NewKey, under whatever name it comes.
func NewVerifier(vkey, origin string) (*Verifier, error) {
	vkey, err := renameVerifier(vkey, origin)
	if err != nil {
		return nil, err
	}
	v, err := note.NewVerifier(vkey)
	if err != nil {
		return nil, fmt.Errorf("reading checkpoint key: %w", err)
	}
	return &Verifier{origin, v}, nil
}

// Open verifies a checkpoint of this log. Signatures of keys not asked for are
// let be.
func (v *Verifier) Open(signed []byte) (Checkpoint, error) {
	cp, _, err := v.open(signed, v.verifier)
	return cp, err
}

func (v *Verifier) open(signed []byte, known ...note.Verifier) (Checkpoint, *note.Note, error) {
	if len(signed) > MaxCheckpoint {
		return Checkpoint{}, nil, fmt.Errorf("%w: %d bytes", ErrCheckpoint, len(signed))
	}
	n, err := note.Open(signed, note.VerifierList(known...))
	if err != nil {
		return Checkpoint{}, nil, fmt.Errorf("%w: %w", ErrCheckpoint, err)
	}
	if _, ok := signatureOf(n, v.verifier); !ok {
		return Checkpoint{}, nil, fmt.Errorf("%w: not signed by the key of %s", ErrCheckpoint, v.origin)
	}
	var body log.Checkpoint
	rest, err := body.Unmarshal([]byte(n.Text))
	switch {
	case err != nil:
		return Checkpoint{}, nil, fmt.Errorf("%w: %w", ErrCheckpoint, err)
	case len(rest) != 0 || string(body.Marshal()) != n.Text:
		return Checkpoint{}, nil, fmt.Errorf("%w: not in its one form", ErrCheckpoint)
	case body.Origin != v.origin:
		return Checkpoint{}, nil, fmt.Errorf("%w: origin is %q, not %q", ErrCheckpoint, body.Origin, v.origin)
	case len(body.Hash) != len(Hash{}):
		return Checkpoint{}, nil, fmt.Errorf("%w: root of %d bytes", ErrCheckpoint, len(body.Hash))
	}
	return Checkpoint{body.Origin, body.Size, Hash(body.Hash)}, n, nil
}

func signatureOf(n *note.Note, v note.Verifier) (note.Signature, bool) {
	for _, s := range n.Sigs {
		if s.Name == v.Name() && s.Hash == v.KeyHash() {
			return s, true
		}
	}
	return note.Signature{}, false
}

// Cosigner adds the coordinator's signature: C2SP tlog-cosignature/v1, Ed25519,
// with the time.
type Cosigner struct{ signer *fnote.Signer }

// NewCosigner makes a cosigner from a key of NewKey.
func NewCosigner(skey string) (*Cosigner, error) {
	s, err := fnote.NewSignerForCosignatureV1(skey)
	if err != nil {
		return nil, fmt.Errorf("reading cosigner key: %w", err)
	}
	return &Cosigner{s}, nil
}

// Cosign adds a signature to a checkpoint that log verifies. What it promises is
// the caller's to have made true: that the tree is stored, whole, and continues
// the last one that was cosigned.
func (c *Cosigner) Cosign(log *Verifier, signed []byte) ([]byte, error) {
	_, n, err := log.open(signed, log.verifier)
	if err != nil {
		return nil, err
	}
	n.UnverifiedSigs = nil // nobody asked us to carry what we cannot judge
	b, err := note.Sign(n, c.signer)
	if err != nil {
		return nil, fmt.Errorf("cosigning checkpoint: %w", err)
	}
	return b, nil
}

// CosignerVerifier checks the coordinator's signature.
type CosignerVerifier struct{ verifier note.Verifier }

// NewCosignerVerifier makes a verifier from the public half of a cosigner's key.
func NewCosignerVerifier(vkey string) (*CosignerVerifier, error) {
	v, err := fnote.NewVerifierForCosignatureV1(vkey)
	if err != nil {
		return nil, fmt.Errorf("reading cosigner key: %w", err)
	}
	return &CosignerVerifier{v}, nil
}

// Open verifies a checkpoint that both have signed, and tells when the cosigner
// did.
func (c *CosignerVerifier) Open(log *Verifier, signed []byte) (Checkpoint, time.Time, error) {
	cp, n, err := log.open(signed, log.verifier, c.verifier)
	if err != nil {
		return Checkpoint{}, time.Time{}, err
	}
	sig, ok := signatureOf(n, c.verifier)
	if !ok {
		return Checkpoint{}, time.Time{}, fmt.Errorf("%w: not countersigned by %s", ErrCheckpoint, c.verifier.Name())
	}
	at, err := fnote.CoSigV1Timestamp(sig)
	if err != nil {
		return Checkpoint{}, time.Time{}, fmt.Errorf("%w: %w", ErrCheckpoint, err)
	}
	return cp, at, nil
}
