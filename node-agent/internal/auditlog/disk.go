package auditlog

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync/atomic"

	"github.com/sallyport-mesh/sallyport/pkg/badgerdir"
)

// What there is room for.
type room int

const (
	roomForNothing  room = iota
	roomForOutcomes      // and trimming
	roomForAll
)

// disk decides before every batch whether it may be written. Badger maps its
// files; writing to a page that the file system then has no block for kills the
// process, so the room for several memtables must be there beforehand.
type disk struct {
	dir     string
	ballast string
	reserve int64
	free    func(string) (uint64, error)
	least   uint64 // for intents
	floor   uint64 // for anything
	full    atomic.Bool
	last    atomic.Uint64
	say     func(msg string, args ...any)
}

func openDisk(cfg Config) (*disk, error) {
	profile := badgerdir.Profile(cfg.Dir)
	d := &disk{
		dir: cfg.Dir, ballast: filepath.Join(cfg.Dir, "ballast"), reserve: cfg.reserve, free: cfg.free,
		floor: 12 * uint64(profile.MemTableSize), least: badgerdir.Room(profile),
		say: func(msg string, args ...any) { cfg.Logger.Error(msg, append(args, "dir", cfg.Dir)...) },
	}
	// No ballast yet, or it was given up before a restart: room makes it when
	// there is space, and until then there is no access.
	info, err := os.Stat(d.ballast)
	d.full.Store(err != nil || info.Size() != d.reserve)
	_, err = d.room()
	return d, err
}

// room is called by the committer alone.
func (d *disk) room() (room, error) {
	free, err := d.free(d.dir)
	if err != nil {
		return roomForNothing, err
	}
	d.last.Store(free)
	switch {
	case d.full.Load():
		// Access comes back once the ballast fits again with room to spare, so
		// that a disk at the bound does not let every second request through.
		if free >= d.least+uint64(d.reserve) {
			if err := fillBallast(d.ballast, d.reserve); err == nil {
				d.full.Store(false)
				return roomForAll, nil
			}
		}
	case free < d.least:
		d.full.Store(true)
		d.say("audit log has no room: requests are refused until there is", "free", free, "needed", d.least)
		if err := os.Remove(d.ballast); err != nil && !errors.Is(err, os.ErrNotExist) {
			d.say("giving up the ballast failed", "error", err)
		}
		if free, err = d.free(d.dir); err != nil {
			return roomForNothing, err
		}
	default:
		return roomForAll, nil
	}
	if free >= d.floor {
		return roomForOutcomes, nil
	}
	return roomForNothing, nil
}

func (d *disk) fullError() error {
	return fmt.Errorf("%w: %d MiB free in %s, %d MiB needed", ErrDiskFull, d.last.Load()>>20, d.dir, (d.least+uint64(d.reserve))>>20)
}

// fillBallast makes a file whose blocks are really there: of random bytes,
// since some file systems store zeros in no room at all. A crash in between
// leaves one of another size, which counts as none.
func fillBallast(path string, size int64) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = io.CopyN(f, rand.NewChaCha8([32]byte{}), size)
	if err == nil {
		err = f.Sync()
	}
	if err != nil {
		_ = os.Remove(path)
		return fmt.Errorf("reserving room: %w", err)
	}
	return nil
}
