package bundle

import (
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Clock is where time comes from.
type Clock struct {
	// Wall is the wall clock. It is asked only where nothing better is known.
	Wall func() time.Time
	// Boot is the time since boot, suspension included, and BootID changes with
	// every boot.
	Boot   func() time.Duration
	BootID string
}

// SystemClock is the machine's.
func SystemClock() (Clock, error) {
	id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return Clock{}, fmt.Errorf("reading the boot id: %w", err)
	}
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		return Clock{}, fmt.Errorf("reading the boot time: %w", err)
	}
	return Clock{Wall: time.Now, Boot: bootTime, BootID: strings.TrimSpace(string(id))}, nil
}

func bootTime() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		panic("CLOCK_BOOTTIME stopped working: " + err.Error()) // it worked in SystemClock
	}
	return time.Duration(ts.Nano())
}

// anchor is a moment of the coordinator's time, and the boot time at which it
// was now here.
type anchor struct {
	at   time.Time
	boot time.Duration
}

// fastest is how much of an elapsed time may be this clock running fast: one
// part in a thousand, ten times what a quartz does.
const fastest = 1000

// now is the coordinator's time as far as it is known.
func (a anchor) now(boot time.Duration) time.Time { return a.at.Add(boot - a.boot) }

// heard moves the anchor to a signed time t, but not further back than a fast
// clock explains.
func (a anchor) heard(t time.Time, boot time.Duration) anchor {
	if !a.at.IsZero() {
		elapsed := boot - a.boot
		if least := a.at.Add(elapsed - elapsed/fastest); t.Before(least) {
			t = least
		}
	}
	return anchor{t, boot}
}
