package store

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"log/slog"
	"os"
	"path/filepath"
)

// watermark is the last revision, kept in a file of its own beside Badger. One
// flipped bit in Badger's write-ahead log makes it drop, quietly, everything
// behind the bit at the next start: a suspension could be undone by a bad
// sector. With the watermark that start is refused instead.
//
// It is written after the commit is on disk and is not synced itself, so it
// never runs ahead of what was durable, and a power cut can only make it older
// or torn; a torn one says nothing.
type watermark struct{ f *os.File }

const watermarkSize = 12 // revision, CRC-32 of it

func openWatermark(dir string, revision uint64, log *slog.Logger) (*watermark, error) {
	f, err := os.OpenFile(filepath.Join(dir, "watermark"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("opening watermark: %w", err)
	}
	m := &watermark{f}
	var b [watermarkSize]byte
	n, err := f.ReadAt(b[:], 0)
	switch {
	case err != nil && !errors.Is(err, io.EOF):
		f.Close()
		return nil, fmt.Errorf("reading watermark: %w", err)
	case n == 0: // new
	case n != watermarkSize || crc32.ChecksumIEEE(b[:8]) != binary.BigEndian.Uint32(b[8:]):
		log.Warn("the store's watermark is torn and was not compared", "path", f.Name())
	default:
		if mark := binary.BigEndian.Uint64(b[:]); revision < mark {
			f.Close()
			return nil, fmt.Errorf("the data is damaged: revision %d was reached, only %d can be read; restore the directory from a backup", mark, revision)
		}
	}
	return m, m.set(revision)
}

func (m *watermark) set(revision uint64) error {
	b := binary.BigEndian.AppendUint64(make([]byte, 0, watermarkSize), revision)
	b = binary.BigEndian.AppendUint32(b, crc32.ChecksumIEEE(b))
	if _, err := m.f.WriteAt(b, 0); err != nil {
		return fmt.Errorf("writing watermark: %w", err)
	}
	return nil
}

func (m *watermark) close() error { return m.f.Close() }
