// Package guest finds the guests of a state folder when no daemon is there to
// ask, and ends them.
//
// It knows a guest by its QEMU process alone. It must not know VMs.
package guest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// socket is QEMU's control socket in the process's working directory.
	socket      = "qmp.sock"
	dialTimeout = 5 * time.Second
	killTimeout = 10 * time.Second
	// shutStatus and shutEvent say that the guest has shut itself down.
	shutStatus, shutEvent = "shutdown", "SHUTDOWN"
)

// ErrAlive is a process that doesn't end even when it is killed.
var ErrAlive = errors.New("the process did not end")

// Guest is a QEMU process. Close it.
type Guest struct {
	PID    int
	Dir    string // the process's working directory
	handle int    // pidfd, which never means another process
}

// Find returns the guests whose processes work in a folder of dir. A process of
// another user is not seen.
func Find(dir string) ([]*Guest, error) {
	dir, err := filepath.EvalSymlinks(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	processes, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	var guests []*Guest
	for _, process := range processes {
		pid, err := strconv.Atoi(process.Name())
		if err != nil {
			continue
		}
		if g := open(pid, dir); g != nil {
			guests = append(guests, g)
		}
	}
	return guests, nil
}

// open returns the guest with a process number, or nil if there is none. The
// handle is taken before the process is looked at.
func open(pid int, dir string) *Guest {
	handle, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return nil
	}
	where, err := os.Readlink(fmt.Sprintf("/proc/%d/cwd", pid))
	inside := err == nil && strings.HasPrefix(where, dir+string(filepath.Separator))
	name, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
	if err != nil || !inside || !strings.HasPrefix(string(name), "qemu") {
		_ = unix.Close(handle) // nothing to lose
		return nil
	}
	return &Guest{PID: pid, Dir: where, handle: handle}
}

// Close lets go of the process, which lives on.
func (g *Guest) Close() error { return unix.Close(g.handle) }

// PowerOff presses the guest's power button, waits until it has shut down, and
// kills the process if it hasn't when ctx ends. It tells whether it had to. The
// daemon must not run: QEMU listens to one at a time.
func (g *Guest) PowerOff(ctx context.Context) (killed bool, err error) {
	if err := g.shutDown(ctx); err == nil && g.wait(ctx) {
		return false, nil
	}
	if err := unix.PidfdSendSignal(g.handle, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return true, err
	}
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), killTimeout)
	defer cancel()
	if !g.wait(last) {
		return true, fmt.Errorf("%d: %w", g.PID, ErrAlive)
	}
	return true, nil
}

// wait tells whether the process has ended before ctx did.
func (g *Guest) wait(ctx context.Context) bool {
	const slice = 100 // milliseconds
	for {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(g.handle), Events: unix.POLLIN}}, slice)
		if n == 1 && err == nil {
			return true
		}
		if ctx.Err() != nil {
			return false
		}
	}
}

// shutDown asks the guest to end, by the ACPI event, and then QEMU, which stays
// so that a daemon could read how the guest ended.
func (g *Guest) shutDown(ctx context.Context) error {
	c, err := g.connect(ctx)
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = c.Close() }) // ends a read that waits
	defer stop()
	defer c.Close()
	if _, err := c.await("QMP"); err != nil {
		return err
	}
	if _, err := c.execute("qmp_capabilities"); err != nil {
		return err
	}
	state, err := c.execute("query-status")
	if err != nil {
		return err
	}
	if state.Return.Status != shutStatus {
		if _, err := c.execute("system_powerdown"); err != nil {
			return err
		}
		for event := ""; event != shutEvent; {
			message, err := c.await("event")
			if err != nil {
				return err
			}
			event = message.Event
		}
	}
	_, err = c.execute("quit")
	return err
}

// connect goes by way of /proc, as a unix socket's address has 108 bytes only.
func (g *Guest) connect(ctx context.Context) (*control, error) {
	dialer := net.Dialer{Timeout: dialTimeout}
	conn, err := dialer.DialContext(ctx, "unix", fmt.Sprintf("/proc/%d/cwd/%s", g.PID, socket))
	if err != nil {
		return nil, err
	}
	return &control{Conn: conn, answers: json.NewDecoder(conn)}, nil
}
