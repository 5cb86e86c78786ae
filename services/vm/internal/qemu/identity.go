package qemu

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// pids finds the machine's processes by what no others have: this folder as
// their working directory, and this ID (QEMU), or the TPM's state, among their
// arguments.
func (f folder) pids(id string) ([]int, error) {
	here, err := filepath.EvalSymlinks(string(f))
	if err != nil {
		return nil, err
	}
	processes, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	var pids []int
	for _, process := range processes {
		var pid int
		if _, err := fmt.Sscanf(process.Name(), "%d", &pid); err == nil && isProcess(pid, here, id) {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}

func isProcess(pid int, workingDirectory, id string) bool {
	where, err := os.Readlink(fmt.Sprintf("/proc/%d/cwd", pid))
	if err != nil || where != workingDirectory {
		return false
	}
	content, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	arguments := string(content)
	return err == nil && (strings.Contains(arguments, "\x00-uuid\x00"+id+"\x00") || strings.Contains(arguments, "\x00--tpmstate\x00"))
}

// kill ends the machine's processes at once.
func (f folder) kill(id string) error {
	pids, err := f.pids(id)
	for _, pid := range pids {
		err = errors.Join(err, f.killOne(pid, id))
	}
	return err
}

// killOne opens the handle (pidfd) before the process is looked at a second time:
// the signal can't reach another one that was given the same number in between.
func (f folder) killOne(pid int, id string) error {
	handle, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("process %d: %w", pid, err)
	}
	defer unix.Close(handle)
	if again, err := f.pids(id); err != nil || !slices.Contains(again, pid) {
		return err
	}
	if err := unix.PidfdSendSignal(handle, syscall.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("kill process %d: %w", pid, err)
	}
	return nil
}

// killAndWait ends a process that can't be talked to.
func (f folder) killAndWait(ctx context.Context, id string) error {
	tick := time.NewTicker(poll)
	defer tick.Stop()
	for {
		alive, err := f.alive()
		if err != nil || !alive {
			return err
		}
		// Again each time: it may have been nsenter, about to become QEMU.
		if err := f.kill(id); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("kill %s: %w: %w", id, ErrRunning, context.Cause(ctx))
		case <-tick.C:
		}
	}
}
