package chain

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// Limits of a tool. It reads files that were checked or that we wrote; the
// limits are for the day when that isn't enough.
const (
	maxMemoryBytes = 8 << 30
	maxOpenFiles   = 1024
	maxWords       = 4 << 10 // of a tool's complaints
)

// process is a tool of QEMU at work. It dies with its context, and with us.
type process struct {
	out  io.ReadCloser
	done chan struct{}
	err  error // once done
}

// ToolError is a tool that failed.
type ToolError struct {
	// Tool is its name, Words what it said.
	Tool, Words string
	// Err says how it ended.
	Err error
}

// Error implements error.
func (e *ToolError) Error() string { return fmt.Sprintf("%s: %v: %s", e.Tool, e.Err, e.Words) }

// Unwrap returns how the tool ended.
func (e *ToolError) Unwrap() error { return e.Err }

// start runs a tool. inherited becomes its descriptor 3; the caller closes it.
func start(ctx context.Context, p Priority, inherited *os.File, name string, args ...string) (*process, error) {
	command := exec.CommandContext(ctx, name, args...)
	complaints := &head{}
	command.Stderr = complaints
	command.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	if inherited != nil {
		command.ExtraFiles = []*os.File{inherited}
	}
	out, in, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	command.Stdout = in
	t := &process{out: out, done: make(chan struct{})}
	started := make(chan error, 1)
	go func() {
		defer close(t.done)
		// The kernel's "parent" of Pdeathsig is the thread, which must outlive it.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := command.Start()
		_ = in.Close()
		started <- err
		if err != nil {
			return
		}
		restrict(command.Process.Pid, p)
		if err := command.Wait(); err != nil {
			if ctx.Err() != nil {
				err = ctx.Err()
			}
			t.err = &ToolError{Tool: name, Words: complaints.String(), Err: err}
		}
	}()
	if err := <-started; err != nil {
		_ = out.Close()
		return nil, err
	}
	return t, nil
}

// wait returns how the tool ended, after it has.
func (t *process) wait() error {
	_ = t.out.Close()
	<-t.done
	return t.err
}

// restrict is best effort: where it is not allowed the work is still right.
func restrict(pid int, p Priority) {
	set := func(what int, limit uint64) {
		_ = unix.Prlimit(pid, what, &unix.Rlimit{Cur: limit, Max: limit}, nil)
	}
	set(unix.RLIMIT_AS, maxMemoryBytes)
	set(unix.RLIMIT_NOFILE, maxOpenFiles)
	set(unix.RLIMIT_CORE, 0)
	set(unix.RLIMIT_FSIZE, 0) // it only reads
	if p == Idle {
		Yield(pid)
	}
}

// Yield gives a process, or a thread, the least priority: nice 19, and the disk
// only when nobody else wants it (ioprio_set(2)). 0 is the calling thread.
// Best effort.
func Yield(pid int) {
	const lowest, whoProcess, classIdle, classShift = 19, 1, 3, 13
	_ = unix.Setpriority(unix.PRIO_PROCESS, pid, lowest)
	_, _, _ = unix.Syscall(unix.SYS_IOPRIO_SET, whoProcess, uintptr(pid), classIdle<<classShift)
}

// head keeps the first words.
type head struct {
	mu   sync.Mutex
	text bytes.Buffer
}

// Write implements io.Writer.
func (h *head) Write(b []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.text.Write(b[:min(len(b), maxWords-min(maxWords, h.text.Len()))])
	return len(b), nil
}

// String returns them.
func (h *head) String() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return strings.TrimSpace(h.text.String())
}
