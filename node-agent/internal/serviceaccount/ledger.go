package serviceaccount

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"k8s.io/apimachinery/pkg/types"

	"github.com/sallyport-mesh/sallyport/pkg/pki"
)

// scope is where a role holds.
type scope struct {
	// Namespace is empty for the whole cluster.
	Namespace string `json:"ns,omitempty"`
	// Role is the ClusterRole, sp-role-….
	Role string `json:"role"`
}

type boundTo struct {
	scope
	Name string    `json:"name"`
	UID  types.UID `json:"uid"`
}

// record is what we made for one person: the only objects that are ours.
type record struct {
	User     string    `json:"user"`
	Account  string    `json:"account,omitempty"` // empty: there is none
	UID      types.UID `json:"uid,omitempty"`
	Bindings []boundTo `json:"bindings,omitempty"`
}

func (r *record) empty() bool { return r.Account == "" && len(r.Bindings) == 0 }

// ledger remembers records across restarts: a file of JSON lines, the last of a
// user counts, synced at every change and rewritten when it is opened. A line
// that a crash cut short loses objects out of sight, never into trust: what is
// not in the ledger gets deleted.
type ledger struct {
	mu sync.Mutex
	f  *os.File
}

func openLedger(dir string) (*ledger, map[string]record, error) {
	path := filepath.Join(dir, "accounts.ledger")
	records, err := readLedger(path)
	if err != nil {
		return nil, nil, fmt.Errorf("opening ledger of accounts: %w", err)
	}
	var compact []byte
	for _, r := range records {
		line, err := json.Marshal(r)
		if err != nil {
			return nil, nil, fmt.Errorf("opening ledger of accounts: %w", err)
		}
		compact = append(append(compact, line...), '\n')
	}
	if err := pki.WriteFile(path, compact); err != nil {
		return nil, nil, fmt.Errorf("opening ledger of accounts: %w", err)
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("opening ledger of accounts: %w", err)
	}
	return &ledger{f: f}, records, nil
}

func readLedger(path string) (map[string]record, error) {
	records := map[string]record{}
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return records, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 4<<20)
	for lines.Scan() {
		var r record
		if json.Unmarshal(lines.Bytes(), &r) != nil || r.User == "" {
			continue
		}
		if r.empty() {
			delete(records, r.User)
			continue
		}
		records[r.User] = r
	}
	return records, lines.Err()
}

// put makes r the record of its user. It is on disk when put returns.
func (l *ledger) put(r record) error {
	line, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("writing ledger of accounts: %w", err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, err := l.f.Write(append(line, '\n')); err != nil {
		return fmt.Errorf("writing ledger of accounts: %w", err)
	}
	if err := l.f.Sync(); err != nil {
		return fmt.Errorf("writing ledger of accounts: %w", err)
	}
	return nil
}

func (l *ledger) close() error { return l.f.Close() }
