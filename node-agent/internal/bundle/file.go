package bundle

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/sallyport-mesh/sallyport/pkg/pki"

	apiv1 "github.com/sallyport-mesh/sallyport/pkg/api/sallyport/v1"
)

const (
	bundleFile = "bundle" // a Signed, as it came
	markFile   = "mark"   // a mark, in JSON
)

// MarkEvery is how often the mark of time is written at most. At a reboot, this
// much of the time before it may be lost.
const MarkEvery = 30 * time.Second

// mark is what has to outlive the process of what is known of time. It is not
// signed: whoever can write here can also run another agent.
type mark struct {
	// Now was the coordinator's time when Boot was the time since boot BootID.
	Now    time.Time     `json:"now"`
	Boot   time.Duration `json:"boot"`
	BootID string        `json:"boot_id"`
	// Gap says that the coordinator had not been heard since a reboot.
	Gap bool `json:"gap,omitempty"`
	// Proven is when the bundle held was last known to be the newest, Beat the
	// time of the last heartbeat.
	Proven time.Time `json:"proven"`
	Beat   time.Time `json:"beat"`
}

func readSigned(path string) (*apiv1.Signed, error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	signed := new(apiv1.Signed)
	if err := proto.Unmarshal(data, signed); err != nil {
		return nil, fmt.Errorf("reading %s: %w", path, err)
	}
	return signed, nil
}

func writeSigned(path string, signed *apiv1.Signed) error {
	data, err := proto.Marshal(signed)
	if err != nil {
		return fmt.Errorf("encoding: %w", err)
	}
	return pki.WriteFile(path, data)
}

// Mark writes down how far time has come, unless that was done a moment ago. It
// is to be called every now and then, also while the coordinator is away: what
// is not marked is forgotten at a reboot.
func (k *Keeper) Mark() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	s, boot := k.state.Load(), k.cfg.Clock.Boot()
	if s.anchor.at.IsZero() || (k.marked != 0 && boot-k.marked < MarkEvery) {
		return nil
	}
	data, err := json.Marshal(mark{s.anchor.now(boot), boot, k.cfg.Clock.BootID, s.gap, s.proven, s.beat})
	if err != nil {
		return fmt.Errorf("encoding mark: %w", err)
	}
	if err := pki.WriteFile(filepath.Join(k.cfg.Dir, markFile), data); err != nil {
		return err
	}
	k.marked = boot
	return nil
}

// readMark puts into s what is known of time from before this start.
func (k *Keeper) readMark(s *state) error {
	path := filepath.Join(k.cfg.Dir, markFile)
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var m mark
	if err := json.Unmarshal(data, &m); err != nil {
		return fmt.Errorf("reading %s: %w", path, err)
	}
	s.proven, s.beat = m.Proven, m.Beat
	if m.BootID == k.cfg.Clock.BootID && m.Boot <= k.cfg.Clock.Boot() {
		s.anchor, s.gap = anchor{m.Now, m.Boot}, m.Gap
		return nil
	}
	// At least the time since boot has passed since the mark.
	s.anchor, s.gap = anchor{m.Now, 0}, true
	return nil
}
