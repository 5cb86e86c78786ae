package qemu

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"orlop.dev/services/vm/internal/qmp"
)

// DefaultBinary is QEMU's system emulator for our guests, looked up in PATH.
const DefaultBinary = "qemu-system-x86_64"

// minimumMajor is the oldest QEMU that keeps a TCG guest's memory intact over a
// live migration.
const minimumMajor = 9

// Accelerator is what runs the guest's instructions.
type Accelerator string

const (
	// AcceleratorKVM is the host's processor.
	AcceleratorKVM Accelerator = "kvm"
	// AcceleratorTCG is QEMU's translator: everywhere, and some ten times slower.
	AcceleratorTCG Accelerator = "tcg"
)

// Host is what this host offers to guests.
type Host struct {
	Binary      string // absolute path
	Version     qmp.Version
	Accelerator Accelerator
	// Reason says for people why the accelerator is what it is: a sentence.
	Reason string
	// MachineType is what this QEMU's "q35" stands for, such as "pc-q35-10.0".
	MachineType string
	// Flashes are the kinds of UEFI firmware that there are.
	Flashes map[Firmware]Flash
	// TPM is the emulator of TPMs, an absolute path; empty if there is none.
	// TPMOptions are what this version of it has to be told.
	TPM        string
	TPMOptions []string
	// Processor is what guests can see of a processor.
	Processor Processor
	// Sandbox is whether this QEMU can confine itself by seccomp.
	Sandbox bool
}

// VersionError is a QEMU that is too old to be used.
type VersionError struct{ Have qmp.Version }

func (e *VersionError) Error() string {
	return fmt.Sprintf("QEMU is version %s: %d.0 or newer is needed", e.Have, minimumMajor)
}

// Prober looks at a host. The zero value looks at this one.
type Prober struct {
	CPUInfo string // "/proc/cpuinfo" if empty
	KVM     string // "/dev/kvm" if empty
}

// Probe looks at this host with the binary, a path or a name in PATH. It takes
// a few tenths of a second, some seconds on a busy host.
func Probe(ctx context.Context, binary string) (Host, error) {
	return Prober{}.Probe(ctx, binary)
}

// Probe is as the function of this name.
func (p Prober) Probe(ctx context.Context, binary string) (Host, error) {
	path, err := exec.LookPath(binary)
	if err != nil {
		return Host{}, err
	}
	if path, err = filepath.Abs(path); err != nil {
		return Host{}, err
	}
	host := Host{Binary: path, Sandbox: true}
	answer, err := interview(ctx, path, "-sandbox", sandbox)
	if err != nil && ctx.Err() == nil {
		// A QEMU built without seccomp refuses the option, so ask without it.
		host.Sandbox = false
		answer, err = interview(ctx, path)
	}
	if err != nil {
		return Host{}, fmt.Errorf("ask %s for its version: %w", path, err)
	}
	host.Version, host.MachineType = answer.version, answer.machineType
	if host.Version.Major < minimumMajor {
		return host, &VersionError{Have: host.Version}
	}
	host.Accelerator, host.Reason = p.accelerator(ctx, path)
	host.Flashes = findFlashes()
	host.TPM, host.TPMOptions = findTPM(ctx)
	if host.Processor, err = examine(ctx, path, host.Accelerator); err != nil {
		return Host{}, fmt.Errorf("ask %s for its processors: %w", path, err)
	}
	return host, ctx.Err()
}

type interviewed struct {
	version     qmp.Version
	machineType string
}

// interview runs QEMU with no machine and asks over QMP on its standard input:
// the answers are data, where the texts of "-version" and "-machine help" are
// for people.
func interview(ctx context.Context, binary string, options ...string) (interviewed, error) {
	out, err := converse(ctx, binary, `{"execute":"query-machines"}`, options...)
	if err != nil {
		return interviewed{}, err
	}
	var answer interviewed
	for decoder := json.NewDecoder(bytes.NewReader(out)); decoder.More(); {
		var line struct {
			QMP struct {
				Version struct{ QEMU qmp.Version }
			}
			Return json.RawMessage
		}
		if err := decoder.Decode(&line); err != nil {
			return interviewed{}, err
		}
		if line.QMP.Version.QEMU.Major > 0 {
			answer.version = line.QMP.Version.QEMU
		}
		var machines []struct{ Name, Alias string }
		if json.Unmarshal(line.Return, &machines) != nil {
			continue // a reply of another shape
		}
		for _, machine := range machines {
			if machine.Alias == "q35" {
				answer.machineType = machine.Name
			}
		}
	}
	if answer.machineType == "" {
		return interviewed{}, errors.New("it knows no machine type q35")
	}
	return answer, nil
}

// converse gives all that QEMU says when it is asked those questions.
func converse(ctx context.Context, binary, questions string, options ...string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	arguments := append([]string{"-nodefaults", "-no-user-config", "-display", "none",
		"-machine", "none", "-qmp", "stdio"}, options...)
	run := exec.CommandContext(ctx, binary, arguments...)
	run.Stdin = strings.NewReader(`{"execute":"qmp_capabilities"}` + questions + `{"execute":"quit"}`)
	var stderr bytes.Buffer
	run.Stderr = &stderr
	out, err := run.Output()
	if err != nil {
		return nil, fmt.Errorf("%w: %s", err, lastLines(stderr.String()))
	}
	return out, nil
}

// accelerator chooses KVM only where a guest was seen to run under it: some
// nested hosts offer /dev/kvm and then emulate a guest's kernel instruction by
// instruction, slower than TCG.
func (p Prober) accelerator(ctx context.Context, binary string) (Accelerator, string) {
	cpuInfo, device := p.CPUInfo, p.KVM
	if cpuInfo == "" {
		cpuInfo = "/proc/cpuinfo"
	}
	if device == "" {
		device = "/dev/kvm"
	}
	const tcg = "Guests run under TCG, without hardware acceleration: "
	if !virtualizes(cpuInfo) {
		return AcceleratorTCG, tcg + "the processor shows neither vmx nor svm."
	}
	if err := unix.Access(device, unix.R_OK|unix.W_OK); err != nil {
		return AcceleratorTCG, fmt.Sprintf("%s%s can't be opened (%s).", tcg, device, err)
	}
	if !boots(ctx, binary, AcceleratorKVM) {
		return AcceleratorTCG, tcg + "a test program did not finish in a second of processor time under KVM."
	}
	return AcceleratorKVM, "Guests run under KVM, at the processor's own speed."
}

func virtualizes(cpuInfo string) bool {
	content, err := os.ReadFile(cpuInfo)
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(content)) {
		name, value, _ := strings.Cut(line, ":")
		if strings.TrimSpace(name) != "flags" {
			continue
		}
		for _, flag := range strings.Fields(value) {
			if flag == "vmx" || flag == "svm" {
				return true
			}
		}
		return false
	}
	return false
}

// bootProbe is a boot sector that counts 2^20 down to 0, then leaves through
// the isa-debug-exit device:
//
//	mov ecx, 0x100000; again: dec ecx; jnz again
//	mov al, 0x2a; mov dx, 0x501; out dx, al; hlt
var bootProbe = []byte{
	0x66, 0xb9, 0x00, 0x00, 0x10, 0x00, 0x66, 0x49, 0x75, 0xfc,
	0xb0, 0x2a, 0xba, 0x01, 0x05, 0xee, 0xf4,
}

// bootProbeExit is QEMU's exit status for the 0x2a that bootProbe writes: twice
// that and one. A 0 would give 1, with which QEMU also reports its own failures.
const bootProbeExit = 0x2a<<1 | 1

// bootProbeLimit is the processor time for bootProbe and QEMU around it, where
// 0.2 s is usual and an emulating KVM was seen to take 1.8 s. Not the time on
// the clock: a crowded host isn't a slow one.
const (
	bootProbeLimit   = time.Second
	bootProbeTimeout = 15 * time.Second
)

// boots tells whether a guest of two million instructions ends in good time.
func boots(ctx context.Context, binary string, accelerator Accelerator) bool {
	image, err := os.CreateTemp("", "orlop-probe-*.img")
	if err != nil {
		return false
	}
	defer os.Remove(image.Name())
	sector := make([]byte, 512)
	copy(sector, bootProbe)
	sector[510], sector[511] = 0x55, 0xaa
	_, err = image.Write(sector)
	if errors.Join(err, image.Close()) != nil {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, bootProbeTimeout)
	defer cancel()
	guest := exec.CommandContext(ctx, binary,
		"-nodefaults", "-no-user-config", "-display", "none", "-vga", "none",
		"-machine", "pc", "-accel", string(accelerator), "-m", "16",
		"-device", "isa-debug-exit,iobase=0x501,iosize=2",
		"-drive", "file="+escape(image.Name())+",format=raw,if=ide")
	var exit *exec.ExitError
	if !errors.As(guest.Run(), &exit) || exit.ExitCode() != bootProbeExit {
		return false
	}
	return exit.UserTime()+exit.SystemTime() < bootProbeLimit
}
