package qemu

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// pid finds the machine's process by what no other process has: this folder as
// its working directory and this ID among its arguments. It is 0 if there is none.
func (f folder) pid(id string) (int, error) {
	here, err := filepath.EvalSymlinks(string(f))
	if err != nil {
		return 0, err
	}
	processes, err := os.ReadDir("/proc")
	if err != nil {
		return 0, err
	}
	for _, process := range processes {
		var pid int
		if _, err := fmt.Sscanf(process.Name(), "%d", &pid); err == nil && isProcess(pid, here, id) {
			return pid, nil
		}
	}
	return 0, nil
}

func isProcess(pid int, workingDirectory, id string) bool {
	where, err := os.Readlink(fmt.Sprintf("/proc/%d/cwd", pid))
	if err != nil || where != workingDirectory {
		return false
	}
	arguments, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	return err == nil && strings.Contains(string(arguments), "\x00-uuid\x00"+id+"\x00")
}

// kill ends the machine's process at once. The handle (pidfd) is opened before
// the process is looked at a second time: the signal can't reach another one
// that was given the same number in between.
func (f folder) kill(id string) error {
	pid, err := f.pid(id)
	if err != nil || pid == 0 {
		return err
	}
	handle, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("process %d: %w", pid, err)
	}
	defer unix.Close(handle)
	if again, err := f.pid(id); err != nil || again != pid {
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
