// Package preflight looks at the machine before anything is started: what is
// missing, what it means, and what would change it.
//
// It changes nothing. It must not know how the daemon works.
package preflight

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

const (
	minimumQEMU        = 9
	minimumDiskBytes   = 2 << 30
	minimumMemoryBytes = 1 << 30
	askTimeout         = 20 * time.Second // a busy machine takes its time to load QEMU
)

// Severity is what a finding means for the start.
type Severity string

// Severities.
const (
	Good    Severity = "Good"
	Limited Severity = "Limited" // it works, with less
	Fatal   Severity = "Fatal"
)

// Finding is what was found out about one thing.
type Finding struct {
	Subject  string
	Severity Severity
	// Sentence says what is there, what happens now, and what would change it.
	Sentence string
}

// Machine says what to look at.
type Machine struct {
	// Home is the state folder, which may not exist yet.
	Home string
	// QEMU is a path or a name in PATH.
	QEMU string
	// KVM is "/dev/kvm" if empty.
	KVM string
}

// Check looks at everything. It takes as long as QEMU needs to say its version.
func (m Machine) Check(ctx context.Context) []Finding {
	return []Finding{m.qemu(ctx), tools(), m.disk(), memory(), m.accelerator(), privilege()}
}

var version = regexp.MustCompile(`version (\d+)\.(\d+)(\.\d+)?`)

func (m Machine) qemu(ctx context.Context) Finding {
	f := Finding{Subject: "QEMU", Severity: Fatal}
	path, err := exec.LookPath(m.QEMU)
	if err != nil {
		f.Sentence = fmt.Sprintf("%s is not installed, so that no guest can run: run make setup.", m.QEMU)
		return f
	}
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	out, err := exec.CommandContext(ctx, path, "--version").Output()
	if err != nil {
		f.Sentence = fmt.Sprintf("%s does not start (%v): install it anew, or name another with --qemu.", path, err)
		return f
	}
	found := version.FindStringSubmatch(string(out))
	if found == nil {
		f.Sentence = fmt.Sprintf("%s does not tell its version: name another with --qemu.", path)
		return f
	}
	if major, _ := strconv.Atoi(found[1]); major < minimumQEMU {
		f.Sentence = fmt.Sprintf("%s is version %s.%s, with which live migration corrupts memory; %d.0 or newer is needed: run make setup.",
			path, found[1], found[2], minimumQEMU)
		return f
	}
	f.Severity, f.Sentence = Good, fmt.Sprintf("%s, %s.", found[0], path)
	return f
}

// tools are programs that the services call.
func tools() Finding {
	f := Finding{Subject: "tools", Severity: Good, Sentence: "all are there."}
	for _, tool := range []string{"qemu-img", "qemu-storage-daemon", "prlimit"} {
		if !installed(tool) {
			f.Severity = Fatal
			f.Sentence = fmt.Sprintf("%s is missing, without which disks can't be kept: run make setup.", tool)
			return f
		}
	}
	for _, tool := range []string{"ip", "nft"} {
		if !installed(tool) {
			f.Severity = Limited
			f.Sentence = fmt.Sprintf("%s is missing; guests work, but you can't look into their network: run make setup.", tool)
			return f
		}
	}
	return f
}

// installed also looks where a plain user's PATH doesn't.
func installed(tool string) bool {
	for _, dir := range []string{"", "/usr/sbin", "/sbin"} {
		if _, err := exec.LookPath(filepath.Join(dir, tool)); err == nil {
			return true
		}
	}
	return false
}

func (m Machine) disk() Finding {
	f := Finding{Subject: "disk space", Severity: Fatal}
	free, where, err := freeBytes(m.Home)
	switch {
	case err != nil:
		f.Sentence = fmt.Sprintf("the free space of %s can't be told: %v.", m.Home, err)
	case free < minimumDiskBytes:
		f.Sentence = fmt.Sprintf("%s free at %s, too little for an image and a disk; free some (2 GiB are needed), or set ORLOP_HOME to a folder elsewhere.",
			bytes(free), where)
	default:
		f.Severity, f.Sentence = Good, fmt.Sprintf("%s free at %s.", bytes(free), where)
	}
	return f
}

// freeBytes is what a user may still write below the nearest folder that exists.
func freeBytes(dir string) (uint64, string, error) {
	for {
		var stat unix.Statfs_t
		err := unix.Statfs(dir, &stat)
		if err == nil {
			return stat.Bavail * uint64(stat.Bsize), dir, nil
		}
		if parent := filepath.Dir(dir); errors.Is(err, unix.ENOENT) && parent != dir {
			dir = parent
			continue
		}
		return 0, dir, err
	}
}

func memory() Finding {
	f := Finding{Subject: "memory", Severity: Limited}
	available, err := availableMemory()
	switch {
	case err != nil:
		f.Sentence = fmt.Sprintf("the free memory can't be told: %v.", err)
	case available < minimumMemoryBytes:
		f.Sentence = fmt.Sprintf("%s available; Orlop itself takes about 700 MiB and each guest its own, so that some may be killed: end other programs, or give guests less.",
			bytes(available))
	default:
		f.Severity, f.Sentence = Good, bytes(available)+" available."
	}
	return f
}

var memAvailable = regexp.MustCompile(`(?m)^MemAvailable:\s+(\d+) kB$`)

var errNoMemAvailable = errors.New("/proc/meminfo has no MemAvailable")

func availableMemory() (uint64, error) {
	content, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0, err
	}
	found := memAvailable.FindSubmatch(content)
	if found == nil {
		return 0, errNoMemAvailable
	}
	kib, err := strconv.ParseUint(string(found[1]), 10, 64)
	return kib << 10, err
}

// accelerator tells only whether KVM may be used: whether it works, the daemon
// finds out by booting something.
func (m Machine) accelerator() Finding {
	f := Finding{Subject: "KVM", Severity: Limited}
	device := m.KVM
	if device == "" {
		device = "/dev/kvm"
	}
	file, err := os.OpenFile(device, os.O_RDWR, 0)
	const slow = "guests run under QEMU's translator, some ten times slower"
	switch {
	case err == nil:
		_ = file.Close() // nothing was written
		f.Severity, f.Sentence = Good, device+" can be opened."
	case errors.Is(err, os.ErrNotExist):
		f.Sentence = fmt.Sprintf("there is no %s, so %s; virtualization turned on in the firmware (or nested, in the host of this machine) would change it.", device, slow)
	case errors.Is(err, os.ErrPermission):
		f.Sentence = fmt.Sprintf("%s may not be opened by this user, so %s; membership of the group kvm would change it.", device, slow)
	default:
		f.Sentence = fmt.Sprintf("%v, so %s.", err, slow)
	}
	return f
}

func privilege() Finding {
	if os.Geteuid() == 0 {
		return Finding{Subject: "privilege", Severity: Good, Sentence: "root: guests get a bridge of their own."}
	}
	return Finding{Subject: "privilege", Severity: Limited,
		Sentence: "not root, so guests are on QEMU's user-mode network and are reached through forwarded ports; as root they would be on a bridge."}
}

// bytes writes a size for people.
func bytes(n uint64) string {
	if n >= 1<<30 {
		return fmt.Sprintf("%.1f GiB", float64(n)/(1<<30))
	}
	return fmt.Sprintf("%d MiB", n>>20)
}
