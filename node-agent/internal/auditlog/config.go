package auditlog

import (
	"errors"
	"log/slog"
	"time"

	"github.com/dgraph-io/badger/v4"

	"github.com/sallyport-mesh/sallyport/pkg/badgerdir"
)

// Config is what a log needs.
type Config struct {
	// Dir holds everything of this log; made (0700) if missing. It must be on a
	// local file system.
	Dir string
	// Origin is <domain>/agents/<id>/<epoch>. A directory belongs to one origin.
	Origin string
	// Key is the secret half of an audit.NewKey, whose public half the
	// coordinator was given at enrolment.
	Key string
	// Cosigner is the vkey of the coordinator's countersignature.
	Cosigner string
	// Keep is how long acknowledged records stay. Default seven days.
	Keep time.Duration
	// Logger may be nil.
	Logger *slog.Logger

	// Seams of the tests.
	reserve       int64                            // size of the ballast file
	free          func(dir string) (uint64, error) // statfs
	refusalWindow time.Duration
	now           func() time.Time
	commit        func(*badger.Txn) error
}

const (
	maxBatch       = 256 << 10 // bytes of records in a transaction; Badger's limit under our profile is 600 KiB
	maxBatchCount  = 1024      // records in a transaction, for the same limit counted in entries
	maxPending     = 4 << 20   // bytes of outcomes that wait for a commit
	outcomeWait    = 100 * time.Millisecond
	outcomePatient = 2 * time.Second // how long Outcome blocks on a full queue before it gives up
	checkpointTick = time.Second
	trimTick       = time.Hour
	trimBatch      = 1000 // deletes in a transaction
)

// The errors that someone acts on. All of them mean that the request is refused.
var (
	// ErrDiskFull: there is too little room left; access comes back when there is.
	ErrDiskFull = errors.New("no room for the audit log, so no access")
	// ErrFailed: a commit failed and the log is over. The process must end; the
	// next start finds out what is on disk.
	ErrFailed = errors.New("the audit log failed")
	// ErrClosed: Close was called.
	ErrClosed = errors.New("the audit log is closed")
	// ErrRollback: the directory holds less than this log has already signed.
	ErrRollback = errors.New("the audit log was rolled back: it is shorter than its own signed checkpoint")
	// ErrCorrupt: what is on disk is not what was written.
	ErrCorrupt = errors.New("the audit log is damaged")
	// ErrTrimmed: the records asked for were acknowledged and are gone.
	ErrTrimmed = errors.New("these records were acknowledged and trimmed")
	// ErrNotOurTree: a countersigned checkpoint is of another tree than this log's.
	ErrNotOurTree = errors.New("the countersigned checkpoint is not of this log's tree")
)

func (c *Config) defaults() {
	if c.Keep == 0 {
		c.Keep = 7 * 24 * time.Hour
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.reserve == 0 {
		c.reserve = 32 << 20
	}
	if c.free == nil {
		c.free = badgerdir.Free
	}
	if c.refusalWindow == 0 {
		c.refusalWindow = time.Second
	}
	if c.now == nil {
		c.now = time.Now
	}
	if c.commit == nil {
		c.commit = (*badger.Txn).Commit
	}
}
