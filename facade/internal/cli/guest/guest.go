// Package guest finds the guests of a state folder when no daemon is there to
// ask, and ends them.
//
// It knows a guest by its QEMU process alone. It must not know VMs.
package guest

import (
	"bufio"
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

// PowerOff presses the guest's power button, waits until the process ends, and
// kills it if it hasn't when ctx does. It tells whether it had to. The daemon
// must not run: QEMU listens to one at a time.
func (g *Guest) PowerOff(ctx context.Context) (killed bool, err error) {
	if err := g.pressButton(ctx); err == nil && g.wait(ctx) {
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

// pressButton asks QEMU, in its own protocol, for the ACPI event.
func (g *Guest) pressButton(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	var dialer net.Dialer
	// By way of /proc the address is short: a unix socket's has 108 bytes.
	conn, err := dialer.DialContext(ctx, "unix", fmt.Sprintf("/proc/%d/cwd/%s", g.PID, socket))
	if err != nil {
		return err
	}
	defer conn.Close()
	if deadline, ok := ctx.Deadline(); ok {
		if err := conn.SetDeadline(deadline); err != nil {
			return err
		}
	}
	answers := json.NewDecoder(bufio.NewReader(conn))
	if err := answer(answers, "QMP"); err != nil {
		return err
	}
	for _, command := range []string{"qmp_capabilities", "system_powerdown"} {
		if _, err := fmt.Fprintf(conn, `{"execute":%q}`, command); err != nil {
			return err
		}
		if err := answer(answers, "return"); err != nil {
			return fmt.Errorf("%s: %w", command, err)
		}
	}
	return nil
}

// refusalError is QEMU's answer to a command that it doesn't take.
type refusalError struct{ answer string }

func (e *refusalError) Error() string { return "QEMU answered " + e.answer }

// answer reads until the message that has the key; events come in between.
func answer(d *json.Decoder, key string) error {
	for {
		var message map[string]json.RawMessage
		if err := d.Decode(&message); err != nil {
			return err
		}
		if _, found := message[key]; found {
			return nil
		}
		if refusal, found := message["error"]; found {
			return &refusalError{string(refusal)}
		}
	}
}
