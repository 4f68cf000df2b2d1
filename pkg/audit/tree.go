package audit

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"

	"golang.org/x/mod/sumdb/tlog"
)

// Hash is a node of the tree.
type Hash = tlog.Hash

// LeafHash is SHA-256(0x00 ‖ record), RFC 6962 section 2.1.
func LeafHash(record []byte) Hash { return tlog.RecordHash(record) }

// Tree is the right edge of an RFC 6962 tree: enough to append to it and to know
// its root, a few hundred bytes however many records there are. The zero Tree is
// the empty one. A copy made with Clone is independent.
type Tree struct {
	size     uint64
	frontier []Hash // roots of the perfect subtrees, largest first, one per bit set in size
}

// Size is the number of leaves.
func (t *Tree) Size() uint64 { return t.size }

// Append adds a leaf.
func (t *Tree) Append(leaf Hash) {
	h := leaf
	for n := t.size; n&1 == 1; n >>= 1 {
		last := len(t.frontier) - 1
		h = tlog.NodeHash(t.frontier[last], h)
		t.frontier = t.frontier[:last]
	}
	t.frontier = append(t.frontier, h)
	t.size++
}

// Root is the Merkle tree hash; that of the empty tree is SHA-256 of nothing.
func (t *Tree) Root() Hash {
	if t.size == 0 {
		return sha256.Sum256(nil)
	}
	h := t.frontier[len(t.frontier)-1]
	for i := len(t.frontier) - 2; i >= 0; i-- {
		h = tlog.NodeHash(t.frontier[i], h)
	}
	return h
}

// Clone is an independent copy.
func (t *Tree) Clone() Tree {
	return Tree{t.size, append([]Hash(nil), t.frontier...)}
}

// Marshal is the size, 8 bytes big-endian, and the frontier, 32 bytes a hash.
func (t *Tree) Marshal() []byte {
	b := binary.BigEndian.AppendUint64(make([]byte, 0, 8+32*len(t.frontier)), t.size)
	for _, h := range t.frontier {
		b = append(b, h[:]...)
	}
	return b
}

// UnmarshalTree reads what Marshal wrote.
func UnmarshalTree(b []byte) (Tree, error) {
	if len(b) < 8 {
		return Tree{}, errors.New("tree: too short")
	}
	t := Tree{size: binary.BigEndian.Uint64(b)}
	b = b[8:]
	if n := bits.OnesCount64(t.size); len(b) != n*tlog.HashSize {
		return Tree{}, fmt.Errorf("tree: %d bytes of frontier for size %d", len(b), t.size)
	}
	for ; len(b) > 0; b = b[tlog.HashSize:] {
		t.frontier = append(t.frontier, Hash(b[:tlog.HashSize]))
	}
	return t, nil
}
