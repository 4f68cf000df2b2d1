package badgerdir

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/dgraph-io/badger/v4"
	"github.com/dgraph-io/badger/v4/options"
)

// ErrLocked says that another process, or another store of this one, holds the
// directory. The wrapping error names it.
var ErrLocked = errors.New("another process holds this data directory")

// ErrNetworkFS says that the directory is on a file system of another machine.
var ErrNetworkFS = errors.New("data directory is on a network file system")

// MaxValue is the largest value that Profile keeps in the LSM tree. A larger one
// would go to the value log: split it.
const MaxValue = 512 << 10

// Prepare makes dir (0700) if it is not there and readies it for Badger. It
// returns ErrLocked or ErrNetworkFS, wrapped, where the caller can do nothing
// but tell a person.
func Prepare(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("making data directory: %w", err)
	}
	if err := refuseNetworkFS(dir); err != nil {
		return err
	}
	// The same lock that Badger takes, on the directory itself. It is let go of
	// again before Badger opens: who gets in between holds a clean directory,
	// and then Open says ErrLocked.
	f, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("opening data directory: %w", err)
	}
	defer f.Close()
	if err := lock(f); err != nil {
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return fmt.Errorf("%s: %w", dir, ErrLocked)
		}
		return fmt.Errorf("locking data directory: %w", err)
	}
	return removeEmpty(dir)
}

func removeEmpty(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("reading data directory: %w", err)
	}
	for _, e := range entries {
		if ext := filepath.Ext(e.Name()); ext != ".mem" && ext != ".vlog" {
			continue
		}
		info, err := e.Info()
		if err != nil {
			return fmt.Errorf("reading data directory: %w", err)
		}
		if info.Mode().IsRegular() && info.Size() == 0 {
			if err := os.Remove(filepath.Join(dir, e.Name())); err != nil {
				return fmt.Errorf("removing an empty file that a crash left: %w", err)
			}
		}
	}
	return nil
}

// Profile is the frugal set of options: synced writes, every value up to
// MaxValue in the LSM tree, about 40 MiB resident. A transaction may hold 15 %
// of MemTableSize, some 600 KiB here; callers close their batches before that.
func Profile(dir string) badger.Options {
	return badger.DefaultOptions(dir).
		WithSyncWrites(true).
		WithMemTableSize(4 << 20).
		WithNumMemtables(2).
		WithValueThreshold(MaxValue).
		WithBlockCacheSize(4 << 20).
		WithIndexCacheSize(4 << 20).
		WithNumCompactors(2).
		WithNumLevelZeroTables(4).
		WithNumLevelZeroTablesStall(8).
		WithBaseTableSize(1 << 20).
		WithCompression(options.Snappy).
		WithValueLogFileSize(16 << 20).
		WithDetectConflicts(false).
		WithMetricsEnabled(false).
		WithLogger(nil)
}

// Room is the free space below which nothing may be written with opts: Badger
// maps its files, and a page that the file system then has no block for is a
// SIGBUS, not an error.
func Room(opts badger.Options) uint64 { return max(64<<20, 12*uint64(opts.MemTableSize)) }

// Open prepares opts.Dir and opens it. Badger's warnings and errors go to
// logger, which may be nil.
func Open(opts badger.Options, logger *slog.Logger) (*badger.DB, error) {
	if err := Prepare(opts.Dir); err != nil {
		return nil, err
	}
	if logger != nil {
		opts = opts.WithLogger(bridge{logger})
	}
	db, err := badger.Open(opts)
	if err != nil {
		if errors.Is(err, syscall.EWOULDBLOCK) || strings.Contains(err.Error(), "Another process is using this Badger database") {
			return nil, fmt.Errorf("%s: %w", opts.Dir, ErrLocked)
		}
		return nil, fmt.Errorf("opening %s: %w", opts.Dir, err)
	}
	return db, nil
}

// bridge is Badger's logger on slog. What Badger tells about its daily work
// (Infof, Debugf) interests nobody.
type bridge struct{ l *slog.Logger }

func (b bridge) Errorf(f string, a ...any) {
	b.l.Error("badger", "detail", strings.TrimSpace(fmt.Sprintf(f, a...)))
}

func (b bridge) Warningf(f string, a ...any) {
	b.l.Warn("badger", "detail", strings.TrimSpace(fmt.Sprintf(f, a...)))
}
func (b bridge) Infof(string, ...any)  {}
func (b bridge) Debugf(string, ...any) {}
