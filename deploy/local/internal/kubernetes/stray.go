package kubernetes

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// A stray is a child that outlived the process that started it. The kernel ends the children of a killed parent, but not at the same instant,
// so one that starts again at once may still find them on the port.
//
// Strays are found by what they run, in /proc, and not by a file of process ids: such a file isn't there yet when a parent dies just after
// starting a child, and it names strangers when ids are used again.

const (
	strayTimeout  = 10 * time.Second
	strayInterval = 100 * time.Millisecond // how often a wait looks at its context
)

// markers are, by argument zero, the arguments that only a process of this folder has.
func markers(dir folder) map[string]string {
	return map[string]string{
		apiserverName:         apiserverMarker(dir),
		controllerManagerName: controllerManagerMarker(dir),
		proxyName:             proxyMarker(dir),
	}
}

// A hunt looks for the strays of one folder.
type hunt struct {
	binary  string // the file name of what strays run; the file itself may have been replaced or moved since
	markers map[string]string
	logger  *slog.Logger
}

// run kills the strays and waits until they are gone. Nothing is lost: their state is in etcd. The caller holds the folder's lock, so nobody
// can be at work with what is found.
func (h hunt) run(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, strayTimeout)
	defer cancel()
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return err
	}
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue
		}
		if err := h.end(ctx, pid); err != nil {
			return fmt.Errorf("process %d: %w", pid, err)
		}
	}
	return nil
}

// end kills a process if it is a stray. The handle is taken before the look, so that the id can't become a stranger's in between.
func (h hunt) end(ctx context.Context, pid int) error {
	handle, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return os.NewSyscallError("pidfd_open", err)
	}
	defer unix.Close(handle)
	switch h.look(pid) {
	case stray:
		h.logger.Warn("ending a process that an earlier run left behind", "pid", pid)
		if err := unix.PidfdSendSignal(handle, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
			return os.NewSyscallError("pidfd_send_signal", err)
		}
		return awaitEnd(ctx, handle)
	case dying:
		return awaitEnd(ctx, handle)
	default:
		return nil
	}
}

// awaitEnd returns when all threads of a process have ended, reaped or not, which is after its sockets were closed.
func awaitEnd(ctx context.Context, handle int) error {
	for {
		ready, err := unix.Poll([]unix.PollFd{{Fd: int32(handle), Events: unix.POLLIN}}, int(strayInterval.Milliseconds()))
		switch {
		case err != nil && !errors.Is(err, unix.EINTR):
			return os.NewSyscallError("poll", err)
		case ready > 0:
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		}
	}
}

// sight is what a process looks like to a hunt.
type sight int

const (
	stranger sight = iota // not to be touched; so is what is gone, or somebody else's to read
	stray                 // runs the binary under a name and with an argument that only a process of the folder has
	dying                 // runs under the binary's file name, and has given up its memory already, so whose it was can't be told: to be waited for
)

func (h hunt) look(pid int) sight {
	proc := filepath.Join("/proc", strconv.Itoa(pid))
	commandLine, err := os.ReadFile(filepath.Join(proc, "cmdline"))
	if err != nil {
		return stranger
	}
	if len(commandLine) == 0 {
		return h.lookAtName(proc)
	}
	arguments := strings.Split(string(commandLine), "\x00")
	marker, named := h.markers[arguments[0]]
	if !named || !slices.Contains(arguments[1:], marker) {
		return stranger
	}
	executable, err := os.Readlink(filepath.Join(proc, "exe"))
	if err != nil || filepath.Base(strings.TrimSuffix(executable, " (deleted)")) != h.binary {
		return stranger
	}
	return stray
}

func (h hunt) lookAtName(proc string) sight {
	const longest = 15 // bytes of a file name that the kernel keeps
	name, err := os.ReadFile(filepath.Join(proc, "comm"))
	if err != nil || strings.TrimSpace(string(name)) != h.binary[:min(longest, len(h.binary))] {
		return stranger
	}
	return dying
}
