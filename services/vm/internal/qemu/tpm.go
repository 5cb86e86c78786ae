package qemu

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"

	"golang.org/x/sys/unix"
)

const (
	// tpmBinary emulates a TPM (Debian package swtpm), tpmLog is what it says.
	tpmBinary = "swtpm"
	tpmLog    = "tpm.log"
	// Files that a machine's processes are born with: both hold the lock, and each
	// has its end of the line between them.
	lockFD = 3
	tpmFD  = 4
)

// startTPM starts the emulator of the machine's TPM, and returns QEMU's end of
// the line to it; nil for a machine without one.
//
// The emulator lives while the other end of its line does: until QEMU ends,
// however it ends, or until this process does without having started QEMU. It
// holds the machine's lock as QEMU does, so that the machine is gone when both
// are, and the state is never opened twice.
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
	process := exec.Command(e.host.TPM, "socket", "--tpm2", "--terminate",
		"--tpmstate", "dir="+m.TPMDir+",mode=0600", "--ctrl", fmt.Sprintf("type=unixio,clientfd=%d", tpmFD))
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
