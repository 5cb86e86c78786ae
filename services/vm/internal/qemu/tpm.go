package qemu

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"

	"golang.org/x/sys/unix"
)

const (
	// tpmBinary emulates a TPM (Debian package swtpm), tpmLog is what it says.
	tpmBinary = "swtpm"
	tpmLog    = "tpm.log"
	// tpmLock is what the emulator itself locks in the state's folder.
	tpmLock = ".lock"
	// Files that a machine's processes are born with: both hold the lock, and each
	// has its end of the line between them.
	lockFD = 3
	tpmFD  = 4
)

// findTPM looks for the emulator, and for what it has to be told.
func findTPM(ctx context.Context) (binary string, options []string) {
	binary, err := exec.LookPath(tpmBinary)
	if err != nil {
		return "", nil
	}
	var can struct {
		Features []string `json:"features"`
	}
	answer, err := exec.CommandContext(ctx, binary, "socket", "--tpm2", "--print-capabilities").Output()
	if err == nil {
		err = json.Unmarshal(answer, &can)
	}
	// One that knows of this shuts the TPM down when QEMU ends, and writes that. The
	// state may be that of another by then, to which the machine moved.
	if err == nil && slices.Contains(can.Features, "flags-opt-disable-auto-shutdown") {
		options = []string{"--flags", "disable-auto-shutdown"}
	}
	return binary, options
}

// startTPM starts the emulator of the machine's TPM, and returns QEMU's end of
// the line to it; nil for a machine without one.
//
// The emulator lives while the other end of its line does: until QEMU ends,
// however it ends, or until this process does without having started QEMU. It
// holds the machine's lock as QEMU does, so that the machine is gone when both
// are.
//
// The target of a migration has an emulator of its own on the same state, which
// QEMU brings there with the memory (its docs/specs/tpm) while the source's stands
// still; it never goes on unless the target's has ended. The emulator's own lock
// would forbid that: each has a lock file of its own.
func (e *Engine) startTPM(f folder, lock *os.File, m Machine) (*os.File, error) {
	if m.TPMDir == "" {
		return nil, nil
	}
	if e.host.TPM == "" {
		return nil, fmt.Errorf("%w: %s, which emulates a TPM (Debian package swtpm)", ErrLacking, tpmBinary)
	}
	if err := os.MkdirAll(m.TPMDir, 0o700); err != nil {
		return nil, err
	}
	if err := os.Remove(filepath.Join(m.TPMDir, tpmLock)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	output, err := os.OpenFile(f.path(tpmLog), os.O_CREATE|os.O_WRONLY|os.O_APPEND|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, err
	}
	defer output.Close()
	ends, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("line to the TPM: %w", err)
	}
	ours, its := os.NewFile(uintptr(ends[0]), "line to the TPM"), os.NewFile(uintptr(ends[1]), "line of the TPM")
	defer its.Close()
	process := exec.Command(e.host.TPM, append([]string{"socket", "--tpm2", "--terminate",
		"--tpmstate", "dir=" + m.TPMDir + ",mode=0600", "--ctrl", fmt.Sprintf("type=unixio,clientfd=%d", tpmFD)}, e.host.TPMOptions...)...)
	process.Dir = string(f)
	process.Stdout, process.Stderr = output, output
	process.ExtraFiles = []*os.File{lockFD - 3: lock, tpmFD - 3: its}
	process.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := process.Start(); err != nil {
		return nil, errors.Join(fmt.Errorf("start the TPM: %w", err), ours.Close())
	}
	// This ends with the emulator; as with QEMU, nobody waits for it.
	go func() { _ = process.Wait() }()
	return ours, nil
}
