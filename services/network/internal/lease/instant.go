package lease

import (
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// bootFile has a random word that is another one after each boot (random(4)).
const bootFile = "/proc/sys/kernel/random/boot_id"

// Instant is a moment by a clock that nobody can set: the time since the
// machine was booted, and which boot it was. Instants of different boots can't
// be compared.
type Instant struct {
	Boot  string
	Since time.Duration
}

// Uptime is the present Instant of this machine. It goes on while the machine
// sleeps.
func Uptime() (Instant, error) {
	boot, err := os.ReadFile(bootFile)
	if err != nil {
		return Instant{}, err
	}
	var since unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &since); err != nil {
		return Instant{}, fmt.Errorf("read the clock: %w", err)
	}
	return Instant{Boot: strings.TrimSpace(string(boot)), Since: time.Duration(since.Nano())}, nil
}

// String is how an Instant is written on a lease.
func (i Instant) String() string { return i.Boot + " " + i.Since.String() }

// parseInstant reads what String wrote; false if it is anything else.
func parseInstant(text string) (Instant, bool) {
	boot, rest, _ := strings.Cut(text, " ")
	since, err := time.ParseDuration(rest)
	return Instant{Boot: boot, Since: since}, boot != "" && err == nil
}

// elapsed is the time from an earlier instant to i; false if that can't be
// known, as the machine was booted in between.
func (i Instant) elapsed(earlier Instant) (time.Duration, bool) {
	passed := i.Since - earlier.Since
	return passed, i.Boot == earlier.Boot && passed >= 0
}
